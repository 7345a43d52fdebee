// Decoded frames of FFmpeg, and what swscale makes of them.

#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "sources/picture.hpp"
#include "vad/source.hpp"

struct AVFrame;
struct SwsContext;

namespace vad::sources {

struct FreeFrame {
  void operator()(AVFrame* frame) const noexcept;
};
using FramePtr = std::unique_ptr<AVFrame, FreeFrame>;

// Throws std::bad_alloc.
FramePtr new_frame();

// Makes frames of model size; keeps its contexts for the next one. Any thread, one at a time.
class FrameScaler {
 public:
  ~FrameScaler();
  void write(const AVFrame& frame, const ClipSpec& spec, std::uint8_t* out);

 private:
  struct Conversion {
    using Key = std::array<int, 7>;
    SwsContext* context = nullptr;
    Key key{};
  };

  void convert(Conversion& conversion, const AVFrame& from, AVFrame& to, int flags);
  const AVFrame& rgb(const AVFrame& frame);
  void fast(const AVFrame& frame, const ClipSpec& spec, std::uint8_t* out);
  void exact(const AVFrame& frame, const ClipSpec& spec, std::uint8_t* out);

  std::mutex mutex_;
  Portable portable_;
  Conversion to_size_;
  Conversion to_rgb_;
  FramePtr small_;
  FramePtr rgb_;
};

// The planes of a frame as the portable resizer takes them; false = it does not take the format.
bool image_of(const AVFrame& frame, Image& image);
// Takes the frame.
std::unique_ptr<Picture> picture_of(FramePtr frame, std::shared_ptr<FrameScaler> scaler);
// `fast` or `exact` of planes that no FFmpeg decoded.
void write_by_swscale(const Image& image, const ClipSpec& spec, std::uint8_t* out);

}  // namespace vad::sources
