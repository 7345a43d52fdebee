// Scores to alarms: a threshold with hysteresis and a minimum duration. As vad_runtime.events.

#pragma once

#include <cstdint>
#include <optional>

#include "vad/manifest.hpp"

namespace vad {

struct Event {
  std::int64_t start_frame = 0;
  std::int64_t end_frame = 0;
  double start_s = 0.0;
  double end_s = 0.0;
  double peak_s = 0.0;
  double peak_score = 0.0;

  Json json() const;  // as it stands in report.json
};

class Events {
 public:
  explicit Events(const Scoring& scoring) : scoring_(scoring) {}

  bool active() const noexcept { return active_; }
  std::optional<Event> update(std::int64_t frame, double time_s, double score);
  std::optional<Event> end();

 private:
  Scoring scoring_;
  std::optional<Event> run_;
  bool active_ = false;
};

}  // namespace vad
