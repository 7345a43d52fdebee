#include <cstring>
#include <utility>

#include "driver.hpp"

namespace vad::cuda {

Device::Device(const Gpu& gpu) : gpu_(gpu) {}

std::shared_ptr<Device> Device::open(const Gpu& gpu) {
  gpus();  // initialises the driver
  std::shared_ptr<Device> device(new Device(gpu));
  check("cuDeviceGet", api().device_get(&device->device_, gpu.index));
  check("cuDevicePrimaryCtxRetain", api().context_retain(&device->context_, device->device_));
  device->activate();
  return device;
}

Device::~Device() {
  if (context_ == nullptr) return;
  api().context_set(nullptr);  // or the next library on this thread finds a dead context
  api().context_release(device_);
}

void Device::activate() const { check("cuCtxSetCurrent", api().context_set(context_)); }

std::pair<std::size_t, std::size_t> Device::free_memory() const {
  activate();
  std::size_t available = 0;
  std::size_t total = 0;
  check("cuMemGetInfo", api().memory_info(&available, &total));
  return {available, total};
}

// -- memory ----------------------------------------------------------------------------------------
// After a fault on the GPU every call fails, freeing too. Where the work was waited for it was told,
// so destructors say nothing.

Memory::Memory(std::shared_ptr<Device> device, std::size_t bytes)
    : device_(std::move(device)), bytes_(bytes) {
  device_->activate();
  Address address = 0;
  check("cuMemAlloc", api().memory_alloc(&address, bytes == 0 ? 1 : bytes));
  data_ = reinterpret_cast<std::uint8_t*>(address);
}

Memory::~Memory() {
  if (data_ == nullptr) return;
  try {
    device_->activate();
    api().memory_free(address_of(data_));
  } catch (const Error&) {
  }
}

void Memory::swap(Memory& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
}

Pinned::Pinned(std::shared_ptr<Device> device, std::size_t bytes)
    : device_(std::move(device)), bytes_(bytes) {
  constexpr unsigned portable = 1;  // CU_MEMHOSTALLOC_PORTABLE: pinned for every context
  device_->activate();
  void* data = nullptr;
  check("cuMemHostAlloc", api().host_alloc(&data, bytes == 0 ? 1 : bytes, portable));
  data_ = static_cast<std::uint8_t*>(data);
  std::memset(data_, 0, bytes);
}

Pinned::~Pinned() {
  if (data_ == nullptr) return;
  try {
    device_->activate();
    api().host_free(data_);
  } catch (const Error&) {
  }
}

void Pinned::swap(Pinned& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
}

}  // namespace vad::cuda
