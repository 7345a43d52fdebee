// The GPU through NVIDIA's driver API. libcuda.so.1 is opened by name when it is first asked for, so
// a build needs no CUDA and the same binary runs on machines with and without a GPU.
//
// The context is the GPU's primary one, which TensorRT's and everybody's CUDA runtime uses too:
// addresses and streams of here can be handed to it as they are.

#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "vad/error.hpp"
#include "vad/image.hpp"
#include "vad/resize.hpp"
#include "vad/ring.hpp"

namespace vad::cuda {

// No driver, one that does not start, or no GPU. As NoDriverError in Python: `auto` may go on
// without a GPU, whoever asked for one is told.
class NoDriver : public Error {
 public:
  using Error::Error;
};

struct Gpu {
  int index = 0;
  std::string name;
  int sm = 0;  // compute capability as one number: 87 is 8.7
  std::size_t memory_bytes = 0;
  bool integrated = false;  // shares the machine's memory, as on a Jetson
  std::string uuid;         // as `nvidia-smi -L` writes it: GPU-xxxxxxxx-xxxx-...
};

// Whether libcuda.so.1 can be loaded. Initialises nothing, so it is quick.
bool driver_installed() noexcept;
// Initialises CUDA; at least one. Ask before anything of TensorRT is made: without a driver its lean
// runtime hands back an object that looks alive and crashes at the next call. Throws NoDriver.
const std::vector<Gpu>& gpus();
// Newest CUDA version that the driver knows: `13.0`. Throws NoDriver.
std::string driver_version();
// `cuda:N`; `cuda` and `auto` are the first one. Throws Error, or NoDriver as gpus().
Gpu gpu_of(const std::string& device);

// A GPU's primary context, which stays retained as long as this object lives. Whatever is made from
// it keeps it alive. Each call of this header makes the context current on the calling thread first;
// other libraries take whatever is current, so call activate() before theirs.
class Device {
 public:
  // Throws Error: CUDA refused.
  static std::shared_ptr<Device> open(const Gpu& gpu);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const Gpu& gpu() const noexcept { return gpu_; }
  void activate() const;
  // Free and total bytes of the device.
  std::pair<std::size_t, std::size_t> free_memory() const;

 private:
  explicit Device(const Gpu& gpu);

  Gpu gpu_;
  int device_ = 0;
  void* context_ = nullptr;
};

// Memory on the device, aligned to 256 bytes at least, as TensorRT wants it.
class Memory {
 public:
  Memory() = default;  // none
  Memory(std::shared_ptr<Device> device, std::size_t bytes);
  ~Memory();
  Memory(Memory&& other) noexcept { swap(other); }
  Memory& operator=(Memory&& other) noexcept {
    swap(other);
    return *this;
  }

  // On the device: not for the processor to read.
  std::uint8_t* data() const noexcept { return data_; }
  std::size_t bytes() const noexcept { return bytes_; }

 private:
  void swap(Memory& other) noexcept;

  std::shared_ptr<Device> device_;
  std::uint8_t* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// Page-locked host memory: only copies from and to it run beside the processor and in graphs.
class Pinned {
 public:
  Pinned() = default;  // none
  Pinned(std::shared_ptr<Device> device, std::size_t bytes);  // zero
  ~Pinned();
  Pinned(Pinned&& other) noexcept { swap(other); }
  Pinned& operator=(Pinned&& other) noexcept {
    swap(other);
    return *this;
  }

  std::uint8_t* data() const noexcept { return data_; }
  std::size_t bytes() const noexcept { return bytes_; }

 private:
  void swap(Pinned& other) noexcept;

  std::shared_ptr<Device> device_;
  std::uint8_t* data_ = nullptr;
  std::size_t bytes_ = 0;
};

class Graph;

// A stream that is not the default one, which other libraries use and no capture allows.
class Stream {
 public:
  explicit Stream(std::shared_ptr<Device> device);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  const std::shared_ptr<Device>& device() const noexcept { return device_; }
  // CUstream, the same as cudaStream_t.
  void* handle() const noexcept { return handle_; }

  // Enqueue copies; host memory must stay as it is until they are done.
  void copy_in(std::uint8_t* to_device, const void* from_host, std::size_t bytes);
  void copy_out(void* to_host, const std::uint8_t* from_device, std::size_t bytes);
  void copy_within(std::uint8_t* to_device, const std::uint8_t* from_device, std::size_t bytes);
  // Waits for all that was enqueued. Throws Error: what failed there.
  void synchronise();

  // Records what `enqueue` puts on this stream, without running it. Run the same once before:
  // libraries allocate and compile on their first run, which no capture allows. The capture is ended
  // in every case; what `enqueue` throws goes on. nullptr = this driver cannot capture it, and `why`
  // says why.
  std::unique_ptr<Graph> capture(const std::function<void()>& enqueue, std::string& why);

 private:
  std::shared_ptr<Device> device_;
  void* handle_ = nullptr;
};

// Recorded work that is launched as one piece.
class Graph {
 public:
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void launch(Stream& stream);

 private:
  friend class Stream;
  Graph(std::shared_ptr<Device> device, void* program)
      : device_(std::move(device)), program_(program) {}

  std::shared_ptr<Device> device_;
  void* program_;
};

// The portable resizer on the GPU: the same bytes as vad::Resizer.
class DeviceResizer {
 public:
  // Throws Error: this build has no kernels (VAD_CUDA=OFF), or none for this GPU;
  // std::invalid_argument for a size outside 1..65535.
  DeviceResizer(std::shared_ptr<Device> device, const Target& target);
  ~DeviceResizer();
  DeviceResizer(const DeviceResizer&) = delete;
  DeviceResizer& operator=(const DeviceResizer&) = delete;

  // Enqueues the work. The image's planes and `out`, target().bytes() bytes, lie on the device and
  // must stay until it is done. Throws std::invalid_argument as vad::Resizer does.
  void operator()(const Image& image, std::uint8_t* out, Stream& stream);

 private:
  std::shared_ptr<Device> device_;
  Target target_;
  void* module_ = nullptr;
  void* kernel_ = nullptr;
};

// Whether kernels were built in.
bool kernels_built() noexcept;
// Why pictures on this device cannot be resized there; empty = they can.
std::string no_kernels(const std::shared_ptr<Device>& device);

// The last T frames on the device. Each frame crosses the bus once, also where windows overlap:
//
//     slot() ─ pinned ═══ bus ═══► frame t mod T of a ring ─ two copies there ─► latest()
//
// latest() is always the same address, so a CUDA graph recorded with it stays right and a plan may
// have it as the address of its input. It *enqueues* its copies on the stream: whoever reads, does so
// on the same stream, outside of a capture, and waits for it before the next slot(). `room_bytes` may
// be more than a clip: what lies behind (the other places of a plan's batch) stays zero.
class DeviceRing : public Ring {
 public:
  // The stream outlives the ring. `resize` false = write_device() never takes a picture, for a clip
  // whose resizer is not `portable`; nor does it where no_kernels() says why: the processor resizes
  // then, to the same bytes. What write_device() takes must be ready on the device: a decoder
  // that works on another stream is waited for before.
  DeviceRing(Stream& stream, int frames, const Target& target, bool resize,
             std::size_t room_bytes = 0);
  ~DeviceRing() override;

  std::uint8_t* slot() override;
  void commit() override;
  bool write_device(const Image& image) override;
  const std::uint8_t* latest() const override;
  void clear() override;
  int device() const noexcept override;

  // Where latest() puts the clip, before any frame has come.
  const std::uint8_t* address() const noexcept { return clip_.data(); }

 private:
  Stream& stream_;
  std::size_t frames_;
  std::size_t frame_bytes_;
  std::unique_ptr<DeviceResizer> resizer_;  // none: write_device() takes no picture
  Memory ring_;
  Memory clip_;
  Pinned slots_;
  std::size_t written_ = 0;  // since clear()
};

}  // namespace vad::cuda
