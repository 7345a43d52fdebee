// Frames in, scored frames out: window, back end, scoring and events put together. As
// vad_runtime.detector.

#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vad/backend.hpp"
#include "vad/events.hpp"
#include "vad/manifest.hpp"
#include "vad/scoring.hpp"
#include "vad/source.hpp"
#include "vad/window.hpp"

namespace vad {

struct ScoredFrame {
  std::int64_t index = 0;
  double pts_s = 0.0;
  std::optional<double> raw;
  std::optional<double> score;
  bool alarm = false;
  std::string status;  // `scored`, or why not: warm-up, damaged, frozen, between, context
};

struct Counters {
  std::int64_t frames = 0;
  std::int64_t scored = 0;
  std::int64_t clips = 0;
  std::map<std::string, std::int64_t> flushes;
  std::map<std::string, std::int64_t> unscored;
};

class Detector {
 public:
  using Take = std::function<void(const ScoredFrame&)>;

  // The back end outlives the detector. Throws Error for a hop that cannot be.
  Detector(const Manifest& manifest, Backend& backend, std::optional<int> hop = std::nullopt);

  // Takes the next frame. `hole` is what HoleRule::cause(frame) says: why no clip may hold both this
  // frame and the one before. `take` is called with every frame that it settles, in order.
  void feed(Frame frame, const std::optional<std::string>& hole, const Take& take);
  // Settles what is left and ends an alarm that is on. `cause` none = the stream is over.
  void end(const std::optional<std::string>& cause, const Take& take);

  // Ends an alarm that is on, and nothing else: where the source or the back end has failed, or the
  // run is broken off, that alarm is not to be lost.
  void end_alarm();

  const Counters& counters() const noexcept { return counters_; }
  const std::vector<Event>& events() const noexcept { return events_; }

 private:
  struct Pending {
    std::int64_t index;
    double pts_s;
  };

  void use(const Clip& clip, const Take& take);
  void settle(const Pending& frame, std::optional<double> raw, const std::string& status,
              const Take& take);

  ScoreSpec score_;
  Backend& backend_;
  std::unique_ptr<Ring> ring_;
  Window window_;
  Scorer scorer_;
  Events alarm_;
  std::deque<Pending> pending_;
  std::optional<std::int64_t> last_in_clip_;
  Counters counters_;
  std::vector<Event> events_;
};

}  // namespace vad
