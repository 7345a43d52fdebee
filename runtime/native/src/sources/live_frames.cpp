#include "sources/live_frames.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "number.hpp"
#include "sources/picture.hpp"

namespace vad::sources {
namespace {

constexpr double jump_back_s = 1.0;  // a step back by more is another time, no slip of the camera
constexpr double rounding_s = 1e-6;
constexpr double clock_set_s = 10.0;  // footage that comes so much sooner than its times say
constexpr double most_ahead = 4;      // frames
constexpr double tolerance = 0.10;    // rates that differ by less are the same
constexpr double change = 0.25;       // rates that differ by more are another setting
constexpr double early = 0.4;         // share of a step by which a frame may come early
constexpr double longest_hold_s = 1.0;
constexpr double window_s = 2.0;     // of the stream's own time
constexpr double busy_share = 0.2;   // below it, decoding is what takes the time
constexpr double memory_s = 1.0;
constexpr double well_s = 10.0;      // a stream that has been well for so long was no flicker
constexpr int most_doublings = 32;
constexpr const char* behind_cause = "decoder behind";
constexpr const char* frozen_cause = "frozen picture";
constexpr const char* faster_cause = "faster than the model";

bool same(double one, double other) {
  return std::abs(one - other) <= change * std::max(one, other);
}

// A frame at model size.
class ReadyPicture final : public Picture {
 public:
  explicit ReadyPicture(std::shared_ptr<const std::vector<std::uint8_t>> pixels)
      : pixels_(std::move(pixels)) {}

  void write(const ClipSpec& spec, std::uint8_t* out) override {
    if (spec.frame_bytes() != pixels_->size()) {
      throw std::logic_error("a live source makes frames of the size that it was opened with");
    }
    std::memcpy(out, pixels_->data(), pixels_->size());
  }

 private:
  std::shared_ptr<const std::vector<std::uint8_t>> pixels_;
};

}  // namespace

Stamp Timeline::stamp(std::optional<double> pts_s, double now_s) {
  const std::optional<double> before_s = std::exchange(pts_s_, pts_s);
  const double arrived_s = std::exchange(arrived_s_, now_s);
  const bool connected = std::exchange(connected_, false);
  Stamp stamp;
  if (!time_s_) {
    time_s_ = 0.0;
    return stamp;
  }
  const double passed_s = std::max(now_s - arrived_s, 0.0);
  std::optional<double> own_s;
  double step_s = std::max(passed_s, rounding_s);
  if (!connected && pts_s && before_s) {
    own_s = *pts_s - *before_s;
    step_s = step(*own_s, passed_s, stamp);
  }
  const double longest_s = std::max(4 / fps_, 0.5);  // a longer step is a hole, as by HoleRule
  if (!stamp.jump && !connected && step_s > longest_s) stamp.jump = "jump in time";
  if (!own_s || stamp.jump) {
    ahead_s_ = 0.0;
  } else {
    step_s = without_drift(*own_s, step_s);
  }
  *time_s_ += step_s;
  stamp.time_s = *time_s_;
  return stamp;
}

double Timeline::step(double own_s, double passed_s, Stamp& stamp) const {
  const double nominal_s = 1 / fps_;
  stamp.repaired = true;
  if (own_s < -jump_back_s) {
    stamp.jump = "jump back in time";
    return std::max(passed_s, nominal_s);
  }
  if (own_s <= rounding_s) return nominal_s;
  if (own_s > passed_s + clock_set_s) {
    stamp.jump = "jump in time";
    return std::max(passed_s, nominal_s);
  }
  stamp.repaired = false;
  return own_s;
}

// Two frames in each tick of a coarse clock must not make its hour last longer.
double Timeline::without_drift(double own_s, double step_s) {
  if (step_s > own_s) {
    ahead_s_ += step_s - own_s;
    if (ahead_s_ > most_ahead / fps_) ahead_s_ = 0.0;  // no tick, but a clock that was set
    return step_s;
  }
  const double back_s = std::min(ahead_s_, step_s / 2);
  ahead_s_ -= back_s;
  return step_s - back_s;
}

Pace::Pace(std::optional<double> nominal_fps) {
  if (nominal_fps) step_s_ = 1.0 / *nominal_fps;
}

bool Pace::keep(double pts_s) {
  if (!step_s_) return true;
  if (!due_s_) {
    due_s_ = pts_s + *step_s_;
    return true;
  }
  if (pts_s < *due_s_ - *step_s_ * early) return false;
  // A frame that comes late sets the grid anew, or a slow camera's would all be "due".
  const bool late = pts_s - *due_s_ > *step_s_;
  due_s_ = (late ? pts_s : *due_s_) + *step_s_;
  return true;
}

bool Pace::faster(double camera_fps) const { return ratio(camera_fps) > 1 + tolerance; }

std::optional<double> Pace::slower(double camera_fps) const {
  const double times = ratio(camera_fps);
  if (times <= 0 || times >= 1 - tolerance) return std::nullopt;
  return 1.0 / times;
}

double Even::wait_s(double pts_s, double now_s) {
  const double offset_s = now_s - pts_s;
  if (!offset_s_ || *offset_s_ - offset_s < 0 || *offset_s_ - offset_s > longest_hold_s) {
    offset_s_ = offset_s;  // the first, one that is late, or another clock
  }
  return *offset_s_ - offset_s;
}

void RateMeter::expect(std::optional<double> fps) {
  restart();
  if (!measured_) fps_ = fps;
}

bool RateMeter::add(double pts_s) {
  if (!start_s_) {
    start_s_ = pts_s;
    frames_ = 0;
    return false;
  }
  ++frames_;
  if (pts_s - *start_s_ < window_s) return false;
  const double measured = static_cast<double>(frames_) / (pts_s - *start_s_);
  start_s_ = pts_s;
  frames_ = 0;
  windows_.push_back(measured);
  if (windows_.size() > 2) windows_.pop_front();
  return judge(measured);
}

// It has changed when two windows in a row agree with each other and not with it.
bool RateMeter::judge(double measured) {
  if (!fps_ || same(measured, *fps_)) {
    fps_ = measured;
    measured_ = true;
    return false;
  }
  if (windows_.size() < 2 || same(windows_.front(), *fps_) ||
      !same(windows_.front(), windows_.back())) {
    return false;
  }
  fps_ = measured;
  measured_ = true;
  return true;
}

void RateMeter::restart() {
  start_s_.reset();
  windows_.clear();
}

bool FreezeWatch::frame(const std::shared_ptr<const std::vector<std::uint8_t>>& pixels,
                        double now_s) {
  if (!pixels_ || *pixels_ != *pixels) {
    pixels_ = pixels;
    since_s_ = now_s;
    return false;
  }
  return now_s - since_s_ >= frozen_s_;
}

void LagWatch::restart() {
  catching_up_ = false;
  waits_ = 1.0;
  before_s_.reset();
  least_s_.reset();
}

bool LagWatch::frame(double pts_s, double now_s, double waited_s) {
  const double offset_s = now_s - pts_s;
  if (before_s_ && now_s > *before_s_) {
    const double passed_s = now_s - *before_s_;
    const double share = std::min(1.0, waited_s / passed_s);
    waits_ += (share - waits_) * std::min(1.0, passed_s / memory_s);
  }
  before_s_ = now_s;
  // When reading waits, nothing is left in the buffers: "in step" means this.
  if (!least_s_ || waits_ >= busy_share) least_s_ = offset_s;
  least_s_ = std::min(*least_s_, offset_s);
  const double limit_s = catching_up_ ? longest_s_ / 2 : longest_s_;
  catching_up_ = offset_s - *least_s_ > limit_s;
  return catching_up_;
}

double Backoff::wait_s(bool refused) {
  const int doublings = std::min(tries_++, most_doublings);
  // Refused: at a slow pace, since many cameras lock an account after a few wrong tries.
  if (refused) return uniform_(refused_wait_s / 2, refused_wait_s);
  return uniform_(0.0, std::min(longest_wait_s, first_wait_s * std::pow(2.0, doublings)));
}

void Backoff::ended(double seconds) {
  if (seconds >= well_s) tries_ = 0;
}

FrameMaker::FrameMaker(const ClipSpec& spec, SourceStats& stats,
                       std::function<void(const std::string&)> say)
    : spec_(spec),
      stats_(stats),
      say_(std::move(say)),
      freeze_(frozen_s),
      lag_(behind_s),
      timeline_(spec.fps.value_or(default_fps)),
      pace_(spec.fps) {}

double FrameMaker::fps() const noexcept {
  return thinned_ && spec_.fps ? *spec_.fps : timeline_.fps();
}

void FrameMaker::lost(const std::string& hole) {
  if (index_ > 0 && hole_ != "stalled") hole_ = hole;
}

void FrameMaker::connected(double promised_fps) {
  // Cameras promise 0, 90000 and worse.
  const bool sane = promised_fps >= 0.1 && promised_fps <= 500.0;
  rate_.expect(sane ? std::optional<double>(promised_fps) : std::nullopt);
  timeline_.connected();
  lag_.restart();
  adapt(false);
}

bool FrameMaker::frame(LiveImage& image, double now_s, Frame& frame) {
  stats_.undecodable_packets += image.lost_packets;
  if (image.skipped_packets > 0) {
    stats_.dropped[behind_cause] += image.skipped_packets;
    rate_.restart();  // what we leave out makes the camera no slower
  }
  frame.index = index_ + image.lost_packets + image.skipped_packets;
  index_ = frame.index + 1;
  const Stamp stamp = timeline_.stamp(image.pts_s, now_s);
  if (stamp.repaired) ++stats_.timestamps_repaired;
  frame.pts_s = stamp.time_s;
  frame.hole = cause(image, stamp);
  note_lag(image, stamp, now_s);
  if (frame.hole) pace_.restart();
  if (thinned_ && !pace_.keep(stamp.time_s)) {
    ++stats_.dropped[faster_cause];
    return false;
  }
  make(image, now_s, frame);
  return true;
}

void FrameMaker::make(LiveImage& image, double now_s, Frame& frame) {
  auto pixels = std::make_shared<std::vector<std::uint8_t>>(spec_.frame_bytes());
  image.picture->write(spec_, pixels->data());
  image.picture.reset();
  const bool was_frozen = frozen_;
  frozen_ = freeze_.frame(pixels, now_s);
  if (frozen_) {
    ++stats_.frozen;
    if (!was_frozen) ++stats_.holes[frozen_cause];
  }
  if (frame.hole) ++stats_.holes[*frame.hole];
  ++stats_.frames;
  if (image.damaged) ++stats_.damaged;
  if (frozen_ && !frame.hole) frame.hole = frozen_cause;
  frame.damaged = image.damaged || frozen_;
  frame.picture = std::make_unique<ReadyPicture>(std::move(pixels));
}

// Why something is missing in front of a picture; the weightiest reason counts.
std::optional<std::string> FrameMaker::cause(const LiveImage& image, const Stamp& stamp) {
  const bool first = size_ == std::pair<int, int>(0, 0);
  const std::pair<int, int> before = std::exchange(size_, {image.width, image.height});
  const std::optional<std::string> pending = std::exchange(hole_, std::nullopt);
  const bool other_rate = adapt(rate_.add(stamp.time_s));
  if (pending) return pending;
  if (before != size_ && !first) return "change of resolution";
  if (image.skipped_packets > 0) return behind_cause;
  if (stamp.jump) return stamp.jump;
  if (image.lost_packets > 0 && !first) return "undecodable packet";
  if (other_rate && !first) return "change of frame rate";
  return std::nullopt;
}

// Goes by the rate that is known now; returns whether frames lie otherwise in time.
bool FrameMaker::adapt(bool changed) {
  const std::optional<double> fps = rate_.fps();
  if (!fps) return false;
  timeline_.set_fps(*fps);
  const bool before = std::exchange(thinned_, pace_.faster(*fps));
  if (rate_.measured()) tell_slow(*fps);
  if (before && thinned_) return false;  // both rates end up as the model's
  return changed || before != thinned_;
}

void FrameMaker::tell_slow(double fps) {
  const std::optional<double> times = told_slow_ ? std::nullopt : pace_.slower(fps);
  if (!times) return;
  told_slow_ = true;
  const std::string line = "the camera gives " + significant_text(fps, 3) +
                           " frames a second and the model was trained on " +
                           significant_text(*spec_.fps, 3) + ": moves look " +
                           significant_text(*times, 2) +
                           " times faster to it. Raise the camera's rate if you can.";
  stats_.notes.push_back(line);
  if (say_) say_(line);
}

void FrameMaker::note_lag(const LiveImage& image, const Stamp& stamp, double now_s) {
  if (stamp.jump && stamp.repaired) lag_.restart();  // the camera's clock was set
  behind_ = image.waited_s && image.pts_s && lag_.frame(*image.pts_s, now_s, *image.waited_s);
}

}  // namespace vad::sources
