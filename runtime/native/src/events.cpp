#include "vad/events.hpp"

#include <algorithm>

namespace vad {

Json Event::json() const {
  return Json::Object{{"start_frame", start_frame}, {"end_frame", end_frame},
                      {"start_s", start_s},         {"end_s", end_s},
                      {"peak_s", peak_s},           {"peak_score", peak_score}};
}

std::optional<Event> Events::update(std::int64_t frame, double time_s, double score) {
  if (!scoring_.threshold) return std::nullopt;
  const double threshold = *scoring_.threshold;
  const double level = run_ ? threshold * scoring_.release : threshold;
  // A negative threshold times a release below 1 would lie above it.
  if (score < std::min(level, threshold)) return end();
  if (!run_) run_ = Event{frame, frame, time_s, time_s, time_s, score};
  if (score > run_->peak_score) {
    run_->peak_s = time_s;
    run_->peak_score = score;
  }
  run_->end_frame = frame;
  run_->end_s = time_s;
  constexpr double rounding_s = 1e-6;  // 0.3 - 0.1 is a little less than 0.2; no clock is as fine
  active_ = time_s - run_->start_s >= scoring_.min_duration_s - rounding_s;
  return std::nullopt;
}

std::optional<Event> Events::end() {
  std::optional<Event> event;
  if (active_) event = run_;
  run_.reset();
  active_ = false;
  return event;
}

}  // namespace vad
