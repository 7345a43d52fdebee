#include "vad/window.hpp"

#include <algorithm>

#include "vad/error.hpp"

namespace vad {

HoleRule::HoleRule(std::optional<double> fps) {
  // A longer step in time is a hole; less is the jitter of cameras and muxers.
  if (fps) longest_s_ = std::max(4 / *fps, 0.5);
}

std::optional<std::string> HoleRule::cause(const Frame& frame) {
  const std::optional<double> before_s = before_s_;
  before_s_ = frame.pts_s;
  if (frame.damaged) return frame.hole && !frame.hole->empty() ? *frame.hole : "damaged frame";
  if (!frame.hole && before_s) {
    if (frame.pts_s - *before_s > longest_s_) return "jump in time";
    return std::nullopt;
  }
  return frame.hole;
}

Window::Window(const ClipSpec& spec, Ring& ring, std::optional<int> hop)
    : spec_(spec), ring_(ring) {
  const int wanted = hop.value_or(spec.hop);
  if (wanted < 1 || wanted % spec.stride != 0) {
    throw Error("hop must be a positive multiple of stride " + std::to_string(spec.stride) +
                ", got " + std::to_string(wanted) + ". Give another.");
  }
  hop_kept_ = wanted / spec.stride;
  ring_.clear();
}

int Window::hop() const noexcept { return hop_kept_ * spec_.stride; }

std::optional<Clip> Window::push(const Frame& frame) {
  const std::int64_t position = seen_++;
  if (position % spec_.stride != 0) return std::nullopt;
  const int device = ring_.device();
  const Image* image = device < 0 ? nullptr : frame.picture->on_device(device);
  if (image == nullptr || !ring_.write_device(*image)) {
    frame.picture->write(spec_, ring_.slot());
    ring_.commit();
  }
  indices_.push_back(frame.index);
  if (indices_.size() > static_cast<std::size_t>(spec_.frames)) indices_.pop_front();
  ++kept_;
  if (kept_ < spec_.frames) return std::nullopt;
  if (in_clips_ != 0 && kept_ - in_clips_ < hop_kept_) return std::nullopt;
  return clip();
}

std::optional<Clip> Window::flush() {
  std::optional<Clip> last;
  if (kept_ >= spec_.frames && kept_ > in_clips_) last = clip();
  ring_.clear();
  indices_.clear();
  seen_ = kept_ = in_clips_ = 0;
  return last;
}

Clip Window::clip() {
  in_clips_ = kept_;
  return {ring_.latest(), {indices_.begin(), indices_.end()}};
}

}  // namespace vad
