// The GPU through the driver: on a real one, or on the fake libcuda.so.1 of the Python tests
// (tests/runtime/test_cpp_cuda.py sets it up). Without any driver only the refusals are tested.
//
//   VAD_TEST_CUDA=1  there must be a driver

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <dlfcn.h>

#include "expect.hpp"
#include "vad/cuda.hpp"
#include "vad/resize.hpp"

namespace {

using vad::Colour;
using vad::Image;
using vad::Interpolation;
using vad::PixelFormat;
using vad::Target;
using vad::cuda::Device;
using vad::cuda::DeviceRing;
using vad::cuda::Memory;
using vad::cuda::Pinned;
using vad::cuda::Stream;

using Bytes = std::vector<std::uint8_t>;

template <typename Call>
std::string refusal(Call&& call) {
  try {
    call();
  } catch (const vad::Error& error) {
    const std::string text = error.what();
    EXPECT(text.find('\n') == std::string::npos);
    return text;
  }
  return "";
}

Bytes noise(std::size_t bytes, unsigned seed) {
  std::mt19937 random(seed);
  Bytes made(bytes);
  for (std::uint8_t& one : made) one = static_cast<std::uint8_t>(random() >> 9);
  return made;
}

void a_name_that_is_no_gpu_is_refused() {
  for (const char* name : {"cpu", "cuda:", "cuda:x", "cuda:-1", "cuda:12345", "gpu", "", "cuda0"}) {
    EXPECT(holds(refusal([&] { vad::cuda::gpu_of(name); }), "is no GPU. Use --device cuda"));
  }
}

void without_a_driver_one_line_says_what_to_do() {
  EXPECT(!vad::cuda::driver_installed());
  for (int time = 0; time < 2; ++time) {
    bool told = false;
    try {
      vad::cuda::gpu_of("auto");
    } catch (const vad::cuda::NoDriver& error) {
      told = holds(error.what(), "No NVIDIA driver here") && holds(error.what(), "--device cpu");
    }
    EXPECT(told);
  }
}

void the_driver_says_what_there_is() {
  EXPECT(vad::cuda::driver_installed());
  const std::vector<vad::cuda::Gpu>& gpus = vad::cuda::gpus();
  EXPECT(!gpus.empty());
  EXPECT(!gpus[0].name.empty() && gpus[0].memory_bytes > 0 && gpus[0].sm >= 50);
  EXPECT(gpus[0].uuid.size() == std::strlen("GPU-00010203-0405-0607-0809-0a0b0c0d0e0f"));
  EXPECT(holds(vad::cuda::driver_version(), "."));
  EXPECT(vad::cuda::gpu_of("cuda:0").uuid == vad::cuda::gpu_of("auto").uuid);
  EXPECT(holds(refusal([] { vad::cuda::gpu_of("cuda:999"); }), "There is no GPU cuda:999 here"));
}

void copies_bring_what_was_sent(const std::shared_ptr<Device>& device) {
  Stream stream(device);
  const std::size_t size = 1000;
  const Memory first(device, size);
  const Memory second(device, size);
  const Pinned there(device, size);
  const Pinned back(device, size);
  EXPECT(std::accumulate(there.data(), there.data() + size, 0) == 0);
  const Bytes sent = noise(size, 1);
  std::memcpy(there.data(), sent.data(), size);
  stream.copy_in(first.data(), there.data(), size);
  stream.copy_within(second.data(), first.data(), size);
  stream.copy_out(back.data(), second.data(), size);
  stream.synchronise();
  EXPECT(std::memcmp(back.data(), sent.data(), size) == 0);
  EXPECT(device->free_memory().first <= device->free_memory().second);
  const std::string text = refusal([&] { Memory(device, device->free_memory().second * 2); });
  EXPECT(holds(text, "cuMemAlloc failed") && holds(text, "memory"));
}

void moved_memory_is_freed_once(const std::shared_ptr<Device>& device) {
  Memory memory(device, 10);
  Memory moved = std::move(memory);
  EXPECT(moved.bytes() == 10 && moved.data() != nullptr);
  moved = Memory(device, 20);
  EXPECT(moved.bytes() == 20);
  Pinned pinned(device, 10);
  pinned = Pinned(device, 30);
  EXPECT(pinned.bytes() == 30);
}

void a_graph_replays_what_was_recorded(const std::shared_ptr<Device>& device) {
  Stream stream(device);
  const Memory place(device, 64);
  const Pinned there(device, 64);
  const Pinned back(device, 64);
  std::string why;
  const auto work = [&] {
    stream.copy_in(place.data(), there.data(), 64);
    stream.copy_out(back.data(), place.data(), 64);
  };
  bool gone_on = false;
  try {
    stream.capture([] { throw std::runtime_error("in the middle"); }, why);
  } catch (const std::runtime_error&) {
    gone_on = true;
  }
  const std::unique_ptr<vad::cuda::Graph> graph = stream.capture(work, why);
  const char* broken = std::getenv("FAKE_CUDA_NO_CAPTURE");
  EXPECT(gone_on || (broken != nullptr && std::strcmp(broken, "begin") == 0));
  if (broken != nullptr) {
    EXPECT(graph == nullptr && holds(why, "CUDA_ERROR"));
    std::memset(there.data(), 5, 64);
    work();
    stream.synchronise();
    EXPECT(back.data()[63] == 5);
    return;
  }
  EXPECT(graph != nullptr && why.empty());
  for (int value = 1; value < 5; ++value) {
    std::memset(there.data(), value, 64);
    graph->launch(stream);
    stream.synchronise();
    EXPECT(back.data()[0] == value && back.data()[63] == value);
  }
}

// -- the ring --------------------------------------------------------------------------------------

Bytes read_back(Stream& stream, const std::uint8_t* from, std::size_t bytes) {
  const Pinned host(stream.device(), bytes);
  stream.copy_out(host.data(), from, bytes);
  stream.synchronise();
  return Bytes(host.data(), host.data() + bytes);
}

void the_ring_gives_the_last_frames_wherever_it_wraps(const std::shared_ptr<Device>& device) {
  Stream stream(device);
  constexpr int frames = 4;
  const Target target{5, 7, Colour::rgb, Interpolation::area};
  const std::size_t bytes = target.bytes();
  DeviceRing ring(stream, frames, target, false, 2 * frames * bytes);
  EXPECT(ring.device() == device->gpu().index);
  std::vector<Bytes> pushed;
  const auto push = [&](unsigned seed) {
    pushed.push_back(noise(bytes, seed));
    std::memcpy(ring.slot(), pushed.back().data(), bytes);
    ring.commit();
  };
  const auto right = [&](const std::uint8_t* clip) {
    Bytes expected;
    for (std::size_t i = pushed.size() - frames; i < pushed.size(); ++i) {
      expected.insert(expected.end(), pushed[i].begin(), pushed[i].end());
    }
    return read_back(stream, clip, expected.size()) == expected;
  };
  bool refused = false;
  try {
    push(0);
    ring.latest();
  } catch (const std::logic_error&) {
    refused = true;
  }
  EXPECT(refused);
  for (unsigned seed = 1; seed < 30; ++seed) {
    push(seed);
    if (pushed.size() < frames || seed % 3 == 1) continue;
    const std::uint8_t* clip = ring.latest();
    EXPECT(clip == ring.address());
    EXPECT(right(clip));
  }
  // A clip that was taken before a hole is used behind clear().
  const std::uint8_t* clip = ring.latest();
  ring.clear();
  EXPECT(right(clip));
  for (unsigned seed = 100; seed < 105; ++seed) push(seed);
  EXPECT(right(ring.latest()));
  // The other places of a batch.
  EXPECT(read_back(stream, ring.address() + frames * bytes, frames * bytes) ==
         Bytes(frames * bytes, 0));
}

void without_the_portable_resizer_pictures_go_another_way(const std::shared_ptr<Device>& device) {
  Stream stream(device);
  DeviceRing ring(stream, 1, {4, 4, Colour::gray, Interpolation::area}, false);
  EXPECT(!ring.write_device(Image{}));
}

void without_kernels_for_this_gpu_the_ring_leaves_pictures_to_the_processor(
    const std::shared_ptr<Device>& device) {
  const std::string why = vad::cuda::no_kernels(device);
  EXPECT(holds(why, "VAD_CUDA") && why.find('\n') == std::string::npos);
  Stream stream(device);
  const Target target{4, 4, Colour::gray, Interpolation::area};
  EXPECT(holds(refusal([&] { vad::cuda::DeviceResizer(device, target); }), "VAD_CUDA"));
  DeviceRing ring(stream, 1, target, true);
  EXPECT(!ring.write_device(Image{}));
  const Bytes pixels = noise(target.bytes(), 3);
  std::memcpy(ring.slot(), pixels.data(), pixels.size());
  ring.commit();
  EXPECT(read_back(stream, ring.latest(), pixels.size()) == pixels);
}

void a_picture_on_the_device_is_resized_to_the_processors_bytes(
    const std::shared_ptr<Device>& device) {
  Stream stream(device);
  std::mt19937 random(11);
  const auto pick = [&random](int least, int most) {
    return least + static_cast<int>(random() % static_cast<unsigned>(most - least + 1));
  };
  for (int round = 0; round < 60; ++round) {
    const Target target{pick(1, 60), pick(1, 60), static_cast<Colour>(pick(0, 1)),
                        static_cast<Interpolation>(pick(0, 1))};
    Image image;
    image.format = pick(0, 1) == 0 ? PixelFormat::nv12 : PixelFormat::bgr;
    image.width = pick(1, 300);
    image.height = pick(1, 200);
    image.matrix = static_cast<vad::Matrix>(pick(0, 2));
    image.full_range = pick(0, 1) != 0;
    const bool nv12 = image.format == PixelFormat::nv12;
    const int padding = pick(0, 40);
    const auto plane = [&](int at, int width, int height, int samples) {
      image.planes[static_cast<std::size_t>(at)] = {nullptr, width * samples + padding, width,
                                                    height};
    };
    plane(0, image.width, image.height, nv12 ? 1 : 3);
    if (nv12) plane(1, (image.width + 1) / 2, (image.height + 1) / 2, 2);
    Image there = image;
    std::array<Bytes, 2> host;
    std::array<Memory, 2> memory;
    for (std::size_t i = 0; i < (nv12 ? 2U : 1U); ++i) {
      host[i] = noise(static_cast<std::size_t>(image.planes[i].stride * image.planes[i].height),
                      random());
      memory[i] = Memory(device, host[i].size());
      stream.copy_in(memory[i].data(), host[i].data(), host[i].size());
      image.planes[i].data = host[i].data();
      there.planes[i].data = memory[i].data();
    }
    DeviceRing ring(stream, 1, target, true);
    EXPECT(ring.write_device(there));
    Bytes expected(target.bytes());
    vad::Resizer resizer(target);
    resizer(image, expected.data());
    EXPECT(read_back(stream, ring.latest(), expected.size()) == expected);
  }
}

// Only the fake counts.
void nothing_is_left() {
  void* const library = dlopen("libcuda.so.1", RTLD_NOW);
  const auto count = reinterpret_cast<long (*)(const char*)>(dlsym(library, "fakeCount"));
  EXPECT(count != nullptr);
  for (const char* kind :
       {"device", "pinned", "streams", "graphs", "modules", "contexts", "capturing"}) {
    if (count(kind) != 0) std::fprintf(stderr, "left: %ld of %s\n", count(kind), kind);
    EXPECT(count(kind) == 0);
  }
}

}  // namespace

int main() {
  a_name_that_is_no_gpu_is_refused();
  if (!vad::cuda::driver_installed()) {
    EXPECT(std::getenv("VAD_TEST_CUDA") == nullptr);
    without_a_driver_one_line_says_what_to_do();
    return 0;
  }
  the_driver_says_what_there_is();
  std::shared_ptr<Device> device = Device::open(vad::cuda::gpu_of("auto"));
  copies_bring_what_was_sent(device);
  moved_memory_is_freed_once(device);
  a_graph_replays_what_was_recorded(device);
  the_ring_gives_the_last_frames_wherever_it_wraps(device);
  without_the_portable_resizer_pictures_go_another_way(device);
  const bool fake = std::getenv("VAD_TEST_FAKE_CUDA") != nullptr;
  if (vad::cuda::kernels_built() && (!fake || std::getenv("FAKE_CUDA_KERNELS") != nullptr)) {
    EXPECT(vad::cuda::no_kernels(device).empty());
    a_picture_on_the_device_is_resized_to_the_processors_bytes(device);
    std::puts("kernels");
  } else {
    without_kernels_for_this_gpu_the_ring_leaves_pictures_to_the_processor(device);
  }
  device.reset();
  if (fake) nothing_is_left();
  std::puts("fine");
  return 0;
}
