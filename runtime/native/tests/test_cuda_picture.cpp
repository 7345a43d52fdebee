// Pictures of NVDEC, made by hand: on the fake libcuda.so.1 of the Python tests
// (tests/runtime/test_cpp_cuda_picture.py sets it up). Without a driver only the refusal is tested.
//
//   VAD_TEST_FAKE_CUDA=1  the driver must be there and be the fake

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <dlfcn.h>

#include "expect.hpp"
#if !VAD_WITH_FFMPEG
int main() { std::puts("no FFmpeg"); }
#else
#include "sources/ffmpeg_cuda.hpp"
#include "vad/cuda.hpp"
#include "vad/error.hpp"

extern "C" {
#include <libavutil/frame.h>
}

namespace {

using vad::ClipSpec;
using vad::Image;
using vad::PixelFormat;
using vad::ResizerKind;
using vad::cuda::Memory;
using vad::sources::BufferPtr;
using vad::sources::DecoderGpu;
using vad::sources::FramePtr;
using vad::sources::FrameScaler;
using vad::sources::new_frame;

using Bytes = std::vector<std::uint8_t>;
using Gpu = std::shared_ptr<DecoderGpu>;
using Picture = std::unique_ptr<vad::Picture>;

constexpr int illegal_address = 700;

int downloads = 0;
int given_back = 0;

template <typename Function>
Function of_the_fake(const char* name) {
  void* const library = dlopen("libcuda.so.1", RTLD_NOW);
  const auto found = reinterpret_cast<Function>(dlsym(library, name));
  EXPECT(found != nullptr);
  return found;
}

long count(const char* kind) { return of_the_fake<long (*)(const char*)>("fakeCount")(kind); }

// From here on every wait for the GPU fails, as after a fault on it; 0 = no longer.
void break_waiting(int result) { of_the_fake<void (*)(int)>("fakeBreak")(result); }

// A frame as the decoder gives it. Device memory of the fake is memory of the processor.
struct Decoded {
  FramePtr frame;
  Memory memory;
  BufferPtr hardware;
};

Decoded decoded(const Gpu& gpu, AVPixelFormat software, int width, int height) {
  Decoded made;
  made.hardware = vad::sources::hardware_of(gpu);
  EXPECT(made.hardware != nullptr);
  const BufferPtr pool(av_hwframe_ctx_alloc(made.hardware.get()));
  auto* frames = reinterpret_cast<AVHWFramesContext*>(pool->data);
  frames->format = AV_PIX_FMT_CUDA;
  frames->sw_format = software;
  frames->width = width;
  frames->height = height;
  const int pitch = 512;        // wider than a row
  const int rows = height + 8;  // the decoder's own height, in whole blocks
  const auto bytes = static_cast<std::size_t>(pitch * rows * 3 / 2);
  auto device = vad::cuda::Device::open(vad::cuda::gpu_of("auto"));
  made.memory = Memory(device, bytes);
  std::mt19937 random(7);
  for (std::size_t i = 0; i < bytes; ++i) {
    made.memory.data()[i] = static_cast<std::uint8_t>(random() >> 9);
  }
  made.frame = new_frame();
  AVFrame& frame = *made.frame;
  frame.format = AV_PIX_FMT_CUDA;
  frame.width = width;
  frame.height = height;
  frame.hw_frames_ctx = av_buffer_ref(pool.get());
  frame.data[0] = made.memory.data();
  frame.data[1] = made.memory.data() + pitch * rows;
  frame.linesize[0] = frame.linesize[1] = pitch;
  frame.colorspace = AVCOL_SPC_BT709;
  frame.color_range = AVCOL_RANGE_MPEG;
  frame.buf[0] = av_buffer_create(
      made.memory.data(), bytes, [](void*, std::uint8_t*) { ++given_back; }, nullptr, 0);
  return made;
}

// What av_hwframe_transfer_data() does; that of FFmpeg needs a whole driver.
int copy_down(AVFrame* to, const AVFrame* from, int) {
  ++downloads;
  const auto* pool = reinterpret_cast<const AVHWFramesContext*>(from->hw_frames_ctx->data);
  to->format = pool->sw_format;
  to->width = from->width;
  to->height = from->height;
  const int code = av_frame_get_buffer(to, 0);
  const int sample = pool->sw_format == AV_PIX_FMT_P016 ? 2 : 1;
  for (int i = 0; code >= 0 && i < 2; ++i) {
    const int rows = i == 0 ? from->height : (from->height + 1) / 2;
    const int row_bytes = (i == 0 ? from->width : (from->width + 1) / 2 * 2) * sample;
    for (int y = 0; y < rows; ++y) {
      std::memcpy(to->data[i] + y * to->linesize[i], from->data[i] + y * from->linesize[i],
                  static_cast<std::size_t>(row_bytes));
    }
  }
  return code;
}

Picture picture(const Gpu& gpu, const AVFrame& frame) {
  FramePtr mine = new_frame();
  EXPECT(av_frame_ref(mine.get(), &frame) >= 0);
  return vad::sources::picture_of(std::move(mine), gpu, std::make_shared<FrameScaler>(), copy_down);
}

ClipSpec clip(ResizerKind resizer) {
  ClipSpec spec;
  spec.height = 24;
  spec.width = 20;
  spec.resizer = resizer;
  return spec;
}

Bytes written(vad::Picture& picture, const ClipSpec& spec) {
  Bytes made(spec.frame_bytes());
  picture.write(spec, made.data());
  return made;
}

// The same planes as the processor resizes them.
Bytes expected(const AVFrame& frame, const ClipSpec& spec) {
  FramePtr copy = new_frame();
  EXPECT(copy_down(copy.get(), &frame, 0) >= 0);
  --downloads;
  av_frame_copy_props(copy.get(), &frame);
  Bytes made(spec.frame_bytes());
  FrameScaler().write(*copy, spec, made.data());
  return made;
}

void planes_stay_where_the_decoder_left_them(const Gpu& gpu) {
  const Decoded from = decoded(gpu, AV_PIX_FMT_NV12, 131, 67);
  const Picture one = picture(gpu, *from.frame);
  const Image* image = one->on_device(gpu->index());
  EXPECT(image != nullptr && image->format == PixelFormat::nv12);
  EXPECT(image->width == 131 && image->height == 67);
  EXPECT(image->matrix == vad::Matrix::bt709 && !image->full_range);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT(image->planes[i].data == from.frame->data[i] && image->planes[i].stride == 512);
  }
  EXPECT(image->planes[0].width == 131 && image->planes[0].height == 67);
  EXPECT(image->planes[1].width == 66 && image->planes[1].height == 34);
  EXPECT(downloads == 0);
}

void the_decoder_is_waited_for_once(const Gpu& gpu) {
  const Decoded from = decoded(gpu, AV_PIX_FMT_NV12, 64, 48);
  const Picture one = picture(gpu, *from.frame);
  break_waiting(illegal_address);
  const std::string text = error_of([&] { one->on_device(gpu->index()); });
  EXPECT(holds(text, "cuStreamSynchronize failed") && holds(text, "700"));
  break_waiting(0);
  EXPECT(one->on_device(gpu->index()) != nullptr);
  break_waiting(illegal_address);
  EXPECT(one->on_device(gpu->index()) != nullptr);
  break_waiting(0);
}

void another_gpu_another_context_and_another_format_get_no_planes(const Gpu& gpu) {
  break_waiting(illegal_address);  // nor is anything waited for
  const Decoded from = decoded(gpu, AV_PIX_FMT_NV12, 64, 48);
  EXPECT(picture(gpu, *from.frame)->on_device(gpu->index() + 1) == nullptr);
  EXPECT(picture(gpu, *from.frame)->on_device(-1) == nullptr);
  for (const AVPixelFormat format : {AV_PIX_FMT_P016, AV_PIX_FMT_YUV444P}) {
    const Decoded other = decoded(gpu, format, 64, 48);
    EXPECT(picture(gpu, *other.frame)->on_device(gpu->index()) == nullptr);
  }
  auto* hardware = reinterpret_cast<AVHWDeviceContext*>(from.hardware->data);
  auto* of_the_decoder = static_cast<AVCUDADeviceContext*>(hardware->hwctx);
  EXPECT(of_the_decoder->cuda_ctx == gpu->context());
  of_the_decoder->cuda_ctx = nullptr;
  EXPECT(picture(gpu, *from.frame)->on_device(gpu->index()) == nullptr);
  break_waiting(0);
}

void small_pixels_are_the_processors_whoever_makes_them(const Gpu& gpu, bool kernels) {
  const Decoded from = decoded(gpu, AV_PIX_FMT_NV12, 131, 67);
  const Picture one = picture(gpu, *from.frame);
  ClipSpec spec = clip(ResizerKind::portable);
  for (const vad::Colour colour : {vad::Colour::rgb, vad::Colour::gray, vad::Colour::rgb}) {
    spec.colour = colour;
    EXPECT(written(*one, spec) == expected(*from.frame, spec));
  }
  EXPECT(downloads == (kernels ? 0 : 1));
  EXPECT((count("modules") > 0) == kernels);
  downloads = 0;
  const ClipSpec fast = clip(ResizerKind::fast);
  const Picture other = picture(gpu, *from.frame);
  for (int time = 0; time < 2; ++time) EXPECT(written(*other, fast) == expected(*from.frame, fast));
  EXPECT(downloads == 1);
  downloads = 0;
}

void ten_bits_go_over_the_host(const Gpu& gpu) {
  const Decoded deep = decoded(gpu, AV_PIX_FMT_P016, 131, 67);
  const ClipSpec spec = clip(ResizerKind::portable);
  EXPECT(written(*picture(gpu, *deep.frame), spec) == expected(*deep.frame, spec));
  EXPECT(downloads == 1);
  downloads = 0;
}

void a_download_that_fails_is_one_line(const Gpu& gpu) {
  const Decoded from = decoded(gpu, AV_PIX_FMT_NV12, 64, 48);
  FramePtr mine = new_frame();
  EXPECT(av_frame_ref(mine.get(), from.frame.get()) >= 0);
  const Picture one = vad::sources::picture_of(
      std::move(mine), gpu, std::make_shared<FrameScaler>(),
      [](AVFrame*, const AVFrame*, int) { return AVERROR(ENOMEM); });
  const std::string text = error_of([&] { written(*one, clip(ResizerKind::fast)); });
  EXPECT(holds(text, "nvdec gives no picture: ") && holds(text, "Use decoder software."));
}

void the_decoder_gets_its_picture_back_when_it_is_let_go(const Gpu& gpu) {
  given_back = 0;
  Decoded from = decoded(gpu, AV_PIX_FMT_NV12, 64, 48);
  Picture one = picture(gpu, *from.frame);
  from.frame.reset();
  EXPECT(given_back == 0 && one->on_device(gpu->index()) != nullptr);
  one.reset();
  EXPECT(given_back == 1);
}

// FFmpeg may hold its device longer than we do.
void the_context_lives_as_long_as_ffmpegs_device(Gpu gpu) {
  BufferPtr hardware = vad::sources::hardware_of(gpu);
  gpu.reset();
  EXPECT(count("contexts") > 0);
  hardware.reset();
  for (const char* kind : {"device", "pinned", "streams", "modules", "contexts"}) {
    if (count(kind) != 0) std::fprintf(stderr, "left: %ld of %s\n", count(kind), kind);
    EXPECT(count(kind) == 0);
  }
}

}  // namespace

int main() {
  if (!vad::cuda::driver_installed()) {
    EXPECT(std::getenv("VAD_TEST_FAKE_CUDA") == nullptr);
    EXPECT(holds(error_of([] { DecoderGpu gpu("auto"); }), "No NVIDIA driver here"));
    return 0;
  }
  if (std::getenv("VAD_TEST_FAKE_CUDA") == nullptr) return 0;  // pictures here are the processor's
  auto gpu = std::make_shared<DecoderGpu>("auto");
  if (vad::sources::hardware_of(gpu) == nullptr) {
    std::puts("no FFmpeg with CUDA");
    return 0;
  }
  const bool kernels = vad::cuda::kernels_built() && std::getenv("FAKE_CUDA_KERNELS") != nullptr;
  planes_stay_where_the_decoder_left_them(gpu);
  the_decoder_is_waited_for_once(gpu);
  another_gpu_another_context_and_another_format_get_no_planes(gpu);
  small_pixels_are_the_processors_whoever_makes_them(gpu, kernels);
  ten_bits_go_over_the_host(gpu);
  a_download_that_fails_is_one_line(gpu);
  the_decoder_gets_its_picture_back_when_it_is_let_go(gpu);
  the_context_lives_as_long_as_ffmpegs_device(std::move(gpu));
  std::puts(kernels ? "kernels\nfine" : "fine");
  return 0;
}
#endif
