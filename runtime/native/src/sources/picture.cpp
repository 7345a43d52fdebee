#include "sources/picture.hpp"

#include <string>

#include "vad/error.hpp"
#if VAD_WITH_FFMPEG
#include "sources/ffmpeg_picture.hpp"
#endif

namespace vad::sources {
namespace {

bool same(const Target& one, const Target& other) {
  return one.height == other.height && one.width == other.width && one.colour == other.colour &&
         one.interpolation == other.interpolation;
}

}  // namespace

void Portable::write(const Image& image, const Target& target, std::uint8_t* out) {
  constexpr int largest = 65535;
  if (image.width > largest || image.height > largest) {
    throw Error("a picture of " + std::to_string(image.width) + " x " +
                std::to_string(image.height) + " is too large for the resizer portable, which " +
                "takes up to " + std::to_string(largest) + " each way. Scale the video down, or " +
                "export the bundle again with --resizer fast.");
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!resizer_ || !same(resizer_->target(), target)) resizer_.emplace(target);
  (*resizer_)(image, out);
}

void PlanePicture::write(const ClipSpec& spec, std::uint8_t* out) {
  if (spec.resizer == ResizerKind::portable) {
    portable_->write(image_, spec.target(), out);
    return;
  }
#if VAD_WITH_FFMPEG
  write_by_swscale(image_, spec, out);
#else
  require_resizer(spec);
#endif
}

void require_resizer(const ClipSpec& spec) {
#if !VAD_WITH_FFMPEG
  if (spec.resizer != ResizerKind::portable) {
    throw Error(
        "the bundle's resizer needs FFmpeg, which this build lacks. Build with VAD_FFMPEG=ON, or "
        "train with the resizer portable.");
  }
#endif
#if !VAD_WITH_OPENCV
  if (spec.resizer == ResizerKind::exact) {
    throw Error(
        "the bundle's resizer `exact` needs OpenCV, which this build lacks. Build with "
        "VAD_OPENCV=ON, or train with the resizer portable.");
  }
#endif
  (void)spec;
}

}  // namespace vad::sources
