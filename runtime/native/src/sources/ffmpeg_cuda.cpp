#include "sources/ffmpeg_cuda.hpp"

#if VAD_WITH_FFMPEG

#include <cstring>
#include <utility>

#include "cuda/driver.hpp"
#include "sources/ffmpeg.hpp"
#include "vad/error.hpp"

extern "C" {
#include <libavutil/frame.h>
}

namespace vad::sources {
namespace {

bool same(const Target& one, const Target& other) {
  return one.height == other.height && one.width == other.width && one.colour == other.colour &&
         one.interpolation == other.interpolation;
}

void forget(AVHWDeviceContext* hardware) {
  delete static_cast<std::shared_ptr<DecoderGpu>*>(hardware->user_opaque);
}

class GpuPicture final : public Picture {
 public:
  GpuPicture(FramePtr frame, std::shared_ptr<DecoderGpu> gpu, std::shared_ptr<FrameScaler> scaler,
             Download download)
      : gpu_(std::move(gpu)),
        scaler_(std::move(scaler)),
        download_(download),
        frame_(std::move(frame)) {}

  void write(const ClipSpec& spec, std::uint8_t* out) override {
    if (spec.resizer == ResizerKind::portable) {
      const Image* image = on_device(gpu_->index());
      if (image != nullptr && gpu_->write(*image, spec.target(), out)) return;
    }
    if (!host_) host_ = downloaded();
    scaler_->write(*host_, spec, out);
  }

  const Image* on_device(int device) const override {
    if (device != gpu_->index()) return nullptr;
    if (!whole_) whole_ = gpu_->image_of(*frame_, image_);
    return *whole_ ? &image_ : nullptr;
  }

 private:
  FramePtr downloaded() const {
    FramePtr copy = new_frame();
    const int code = download_(copy.get(), frame_.get(), 0);
    if (code < 0) {
      throw Error("nvdec gives no picture: " + error_text(code) + ". Use decoder software.");
    }
    av_frame_copy_props(copy.get(), frame_.get());
    return copy;
  }

  std::shared_ptr<DecoderGpu> gpu_;
  std::shared_ptr<FrameScaler> scaler_;
  Download download_;
  FramePtr frame_;
  FramePtr host_;
  mutable Image image_;
  mutable std::optional<bool> whole_;  // asked for once: waiting again would gain nothing
};

}  // namespace

DecoderGpu::Scaler::Scaler(const std::shared_ptr<cuda::Device>& device, const Target& wanted)
    : target(wanted),
      stream(device),
      resizer(device, wanted),
      small(device, wanted.bytes()),
      host(device, wanted.bytes()) {}

DecoderGpu::DecoderGpu(const std::string& name)
    : device_(cuda::Device::open(cuda::gpu_of(name))) {
  cuda::check("cuDeviceGet", cuda::api().device_get(&number_, index()));
  // Retained once more, for its address.
  cuda::check("cuDevicePrimaryCtxRetain", cuda::api().context_retain(&context_, number_));
}

DecoderGpu::~DecoderGpu() { cuda::api().context_release(number_); }

bool DecoderGpu::image_of(const AVFrame& frame, Image& image) const {
  if (frame.format != AV_PIX_FMT_CUDA || frame.hw_frames_ctx == nullptr) return false;
  const auto* pool = reinterpret_cast<const AVHWFramesContext*>(frame.hw_frames_ctx->data);
  if (pool->sw_format != AV_PIX_FMT_NV12 || pool->device_ctx->type != AV_HWDEVICE_TYPE_CUDA) {
    return false;
  }
  const auto* decoder = static_cast<const AVCUDADeviceContext*>(pool->device_ctx->hwctx);
  if (decoder->cuda_ctx != context()) return false;
  const FramePtr view = new_frame();  // points to the planes and owns none
  view->format = pool->sw_format;
  view->width = frame.width;
  view->height = frame.height;
  view->colorspace = frame.colorspace;
  view->color_range = frame.color_range;
  for (int i = 0; i < 2; ++i) {
    view->data[i] = frame.data[i];
    view->linesize[i] = frame.linesize[i];
  }
  if (!sources::image_of(*view, image)) return false;
  device_->activate();
  cuda::check("cuStreamSynchronize", cuda::api().stream_wait(decoder->stream));
  return true;
}

bool DecoderGpu::write(const Image& image, const Target& target, std::uint8_t* out) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!resizes_) resizes_ = cuda::no_kernels(device_).empty();
  if (!*resizes_) return false;
  if (scaler_ == nullptr || !same(scaler_->target, target)) {
    scaler_ = std::make_unique<Scaler>(device_, target);
  }
  scaler_->resizer(image, scaler_->small.data(), scaler_->stream);
  scaler_->stream.copy_out(scaler_->host.data(), scaler_->small.data(), target.bytes());
  scaler_->stream.synchronise();
  std::memcpy(out, scaler_->host.data(), target.bytes());
  return true;
}

// Not by av_hwdevice_ctx_create() with AV_CUDA_USE_PRIMARY_CONTEXT: it refuses a primary context
// that is in use with other flags than its own, as TensorRT's is.
BufferPtr hardware_of(const std::shared_ptr<DecoderGpu>& gpu) {
  BufferPtr made(av_hwdevice_ctx_alloc(AV_HWDEVICE_TYPE_CUDA));
  if (made == nullptr) return nullptr;
  auto* hardware = reinterpret_cast<AVHWDeviceContext*>(made->data);
  static_cast<AVCUDADeviceContext*>(hardware->hwctx)->cuda_ctx = gpu->context();
  hardware->user_opaque = new std::shared_ptr<DecoderGpu>(gpu);
  hardware->free = &forget;
  return made;
}

std::unique_ptr<Picture> picture_of(FramePtr frame, std::shared_ptr<DecoderGpu> gpu,
                                    std::shared_ptr<FrameScaler> scaler, Download download) {
  return std::make_unique<GpuPicture>(std::move(frame), std::move(gpu), std::move(scaler),
                                      download);
}

}  // namespace vad::sources

#endif
