// From the pictures of a camera to frames: time, holes, pace, and what is not to be scored. All of
// it is pure logic, as in vad_runtime.sources.{timeline,pace,watchdog,backoff,live_frames}, which
// explain why.

#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sources/live.hpp"
#include "vad/manifest.hpp"
#include "vad/source.hpp"

namespace vad::sources {

struct Stamp {
  double time_s = 0.0;             // from the source's first frame; strictly rising
  std::optional<std::string> jump; // `jump in time` or `jump back in time`
  bool repaired = false;           // the camera's own time could not be used
};

// One time that rises strictly, out of the clocks of a camera that reconnects, jumps and lies.
class Timeline {
 public:
  explicit Timeline(double fps) : fps_(fps) {}

  double fps() const noexcept { return fps_; }
  void set_fps(double fps) noexcept { fps_ = fps; }
  // The next frame is the first one of a new connection.
  void connected() noexcept { connected_ = true; }
  Stamp stamp(std::optional<double> pts_s, double now_s);

 private:
  double step(double own_s, double passed_s, Stamp& stamp) const;
  double without_drift(double own_s, double step_s);

  double fps_;
  std::optional<double> time_s_;
  double arrived_s_ = 0.0;
  std::optional<double> pts_s_;
  bool connected_ = false;
  double ahead_s_ = 0.0;
};

// Leaves out frames of a camera that is faster than the model's footage, by their times.
class Pace {
 public:
  explicit Pace(std::optional<double> nominal_fps);
  bool keep(double pts_s);
  void restart() { due_s_.reset(); }
  bool faster(double camera_fps) const;
  // How many times too fast moves look to the model, if they do.
  std::optional<double> slower(double camera_fps) const;

 private:
  double ratio(double camera_fps) const { return step_s_ ? camera_fps * *step_s_ : 1.0; }
  std::optional<double> step_s_;
  std::optional<double> due_s_;
};

// Spreads out by their times pictures that come in bursts.
class Even {
 public:
  double wait_s(double pts_s, double now_s);

 private:
  std::optional<double> offset_s_;
};

// Measures a camera's frame rate by the times of its frames, and sees it change.
class RateMeter {
 public:
  void expect(std::optional<double> fps);
  bool add(double pts_s);
  void restart();
  std::optional<double> fps() const noexcept { return fps_; }
  bool measured() const noexcept { return measured_; }

 private:
  bool judge(double measured);
  std::optional<double> start_s_;
  std::int64_t frames_ = 0;
  std::deque<double> windows_;
  std::optional<double> fps_;
  bool measured_ = false;
};

// Says when a camera sends the same picture all the time.
class FreezeWatch {
 public:
  explicit FreezeWatch(double frozen_s) : frozen_s_(frozen_s) {}
  bool frame(const std::shared_ptr<const std::vector<std::uint8_t>>& pixels, double now_s);

 private:
  double frozen_s_;
  std::shared_ptr<const std::vector<std::uint8_t>> pixels_;
  double since_s_ = 0.0;
};

// Says when decoding lags behind the camera, so that packets are to be dropped.
class LagWatch {
 public:
  explicit LagWatch(double behind_s) : longest_s_(behind_s) {}
  void restart();
  bool frame(double pts_s, double now_s, double waited_s);

 private:
  double longest_s_;
  bool catching_up_ = false;
  double waits_ = 1.0;  // share of the last second or so that reading has waited for the network
  std::optional<double> before_s_;
  std::optional<double> least_s_;
};

// Waits between tries: exponential with full jitter (M. Brooker, AWS architecture blog, 2015).
class Backoff {
 public:
  // `uniform(a, b)` gives a number between the two.
  explicit Backoff(std::function<double(double, double)> uniform) : uniform_(std::move(uniform)) {}
  double wait_s(bool refused);
  // A connection has given frames for so long before it was lost.
  void ended(double well_s);

 private:
  std::function<double(double, double)> uniform_;
  int tries_ = 0;
};

// Turns the pictures of one camera into frames, over all its connections.
class FrameMaker {
 public:
  FrameMaker(const ClipSpec& spec, SourceStats& stats,
             std::function<void(const std::string&)> say);

  double fps() const noexcept;
  std::pair<int, int> size() const noexcept { return size_; }
  bool frozen() const noexcept { return frozen_; }
  bool behind() const noexcept { return behind_; }
  // A connection was lost: the next frame has this hole, if any was before it.
  void lost(const std::string& hole);
  void connected(double promised_fps);
  // False where the model has no use for the picture.
  bool frame(LiveImage& image, double now_s, Frame& frame);

 private:
  std::optional<std::string> cause(const LiveImage& image, const Stamp& stamp);
  bool adapt(bool changed);
  void tell_slow(double fps);
  void note_lag(const LiveImage& image, const Stamp& stamp, double now_s);
  void make(LiveImage& image, double now_s, Frame& frame);

  ClipSpec spec_;
  SourceStats& stats_;
  std::function<void(const std::string&)> say_;
  FreezeWatch freeze_;
  LagWatch lag_;
  Timeline timeline_;
  RateMeter rate_;
  Pace pace_;
  bool thinned_ = false;
  bool told_slow_ = false;
  std::int64_t index_ = 0;
  std::optional<std::string> hole_;
  std::pair<int, int> size_{0, 0};
  bool frozen_ = false;
  bool behind_ = false;
};

}  // namespace vad::sources
