#include "sources/clock.hpp"

namespace vad::sources {
namespace {

constexpr double rounding_s = 1e-6;  // two times that differ by less are one time, said twice
constexpr double jump_back_s = 1.0;  // a step back by more is a new recording, no muxer's slip

}  // namespace

double Clock::stamp(std::optional<double> pts_s) {
  if (!start_s_) start_s_ = pts_s.value_or(0.0);
  std::optional<double> time_s;
  if (pts_s) time_s = *pts_s - *start_s_;
  jumped_ = false;
  if (last_s_ && time_s && *time_s < *last_s_ - jump_back_s) {
    *start_s_ += *time_s - *last_s_ - step_s_;
    ++stats_.timestamps_repaired;
    *last_s_ += step_s_;
    jumped_ = true;
    return *last_s_;
  }
  if (last_s_ && (!time_s || *time_s <= *last_s_ + rounding_s)) {
    // Broken muxers repeat times or step back (packed B-frames in AVI): the frames are in order all
    // the same, so the nominal step is the best that can be said.
    time_s = *last_s_ + step_s_;
    ++stats_.timestamps_repaired;
  }
  last_s_ = time_s.value_or(0.0);
  return *last_s_;
}

}  // namespace vad::sources
