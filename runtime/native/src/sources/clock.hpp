// The times of a recording's frames: vad_runtime.sources.video.

#pragma once

#include <optional>

#include "vad/source.hpp"

namespace vad::sources {

// Gives each frame a time that rises strictly, and says when it had to invent one.
class Clock {
 public:
  Clock(double fps, SourceStats& stats) : step_s_(1.0 / fps), stats_(stats) {}

  double stamp(std::optional<double> pts_s);
  // Whether the last time said that the footage starts over.
  bool jumped() const noexcept { return jumped_; }
  double last_s() const noexcept { return last_s_.value_or(0.0); }

 private:
  double step_s_;
  SourceStats& stats_;
  std::optional<double> start_s_;
  std::optional<double> last_s_;
  bool jumped_ = false;
};

}  // namespace vad::sources
