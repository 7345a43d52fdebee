// Pictures that NVDEC left on the GPU.

#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

// FFmpeg's header wants these two of cuda.h. Spelled out, so that no toolkit is needed.
#ifndef CUDA_VERSION
#define CUDA_VERSION 0
using CUcontext = struct CUctx_st*;
using CUstream = struct CUstream_st*;
#endif
extern "C" {
#include <libavutil/buffer.h>
#include <libavutil/hwcontext.h>
#include <libavutil/hwcontext_cuda.h>
}

#include "sources/ffmpeg_picture.hpp"
#include "vad/cuda.hpp"

namespace vad::sources {

struct FreeBuffer {
  void operator()(AVBufferRef* buffer) const noexcept { av_buffer_unref(&buffer); }
};
using BufferPtr = std::unique_ptr<AVBufferRef, FreeBuffer>;

// How many pictures stay on the GPU beside the decoder's own: those that one packet gave, the one
// that is being made small, and one to spare. The queue of prefetched() needs none, since a live
// source hands on small pictures only; who hands on these adds the length of its queue. Each one
// counts among the 32 that NVDEC can have.
constexpr int kept_pictures = 4;

// The GPU that decodes, and resizes what it has decoded.
class DecoderGpu {
 public:
  // By the name that cuda::gpu_of() takes. Throws Error: there is none, or it does not start.
  explicit DecoderGpu(const std::string& name);
  ~DecoderGpu();
  DecoderGpu(const DecoderGpu&) = delete;
  DecoderGpu& operator=(const DecoderGpu&) = delete;

  int index() const noexcept { return device_->gpu().index; }
  CUcontext context() const noexcept { return static_cast<CUcontext>(context_); }
  // The planes of a frame, which stay where they are and are whole: the decoder is waited for.
  // False = not in our context or of another format than NV12, so to be downloaded. Throws Error:
  // what failed on the GPU.
  bool image_of(const AVFrame& frame, Image& image) const;
  // As Portable::write, the small pixels crossing the bus alone. False = this build or this GPU has
  // no kernels; nothing was done.
  bool write(const Image& image, const Target& target, std::uint8_t* out);

 private:
  // What resizing to one size needs; the last member is gone first.
  struct Scaler {
    Scaler(const std::shared_ptr<cuda::Device>& device, const Target& target);
    Target target;
    cuda::Stream stream;
    cuda::DeviceResizer resizer;
    cuda::Memory small;
    cuda::Pinned host;
  };

  std::shared_ptr<cuda::Device> device_;
  int number_ = 0;           // CUdevice
  void* context_ = nullptr;  // the primary one: TensorRT's too
  std::mutex mutex_;
  std::optional<bool> resizes_;
  std::unique_ptr<Scaler> scaler_;
};

// FFmpeg's device for that GPU, which keeps it alive; av_hwdevice_ctx_init() is left to the caller.
// Null = this FFmpeg was built without CUDA.
BufferPtr hardware_of(const std::shared_ptr<DecoderGpu>& gpu);

using Download = int (*)(AVFrame* to, const AVFrame* from, int flags);
// Takes a frame of the format `cuda`. It is downloaded when pixels are asked for that the GPU
// cannot make.
std::unique_ptr<Picture> picture_of(FramePtr frame, std::shared_ptr<DecoderGpu> gpu,
                                    std::shared_ptr<FrameScaler> scaler,
                                    Download download = &av_hwframe_transfer_data);

}  // namespace vad::sources
