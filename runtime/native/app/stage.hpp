// Where the time goes: one histogram per stage, in constant memory. As vad_runtime.latency.

#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "vad/backend.hpp"
#include "vad/json.hpp"
#include "vad/source.hpp"

namespace vad::app {

// Durations of one stage. Buckets of a logarithmic scale: percentiles are right to 1.2 %. One
// thread adds; it may be another than the one that reads once all is over.
class Stage {
 public:
  Stage();

  void add(double seconds);
  Json summary() const;  // count, mean, p50, p95, p99, max in milliseconds

 private:
  double percentile_ms(double q) const;

  std::vector<std::int64_t> counts_;
  std::int64_t count_ = 0;
  double sum_s_ = 0.0;
  double max_s_ = 0.0;
};

// Adds the time from its birth to its end.
class Timed {
 public:
  explicit Timed(Stage& stage) : stage_(stage), start_(std::chrono::steady_clock::now()) {}
  ~Timed() {
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start_;
    stage_.add(spent.count());
  }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

 private:
  Stage& stage_;
  std::chrono::steady_clock::time_point start_;
};

// A back end with a clock around it. The one inside outlives it.
class TimedBackend : public Backend {
 public:
  TimedBackend(Backend& inner, Stage& stage) : inner_(inner), stage_(stage) {}

  const std::string& device() const override { return inner_.device(); }
  std::unique_ptr<Ring> ring() override { return inner_.ring(); }
  std::vector<float> infer(const std::uint8_t* clip) override {
    const Timed timed(stage_);
    return inner_.infer(clip);
  }

 private:
  Backend& inner_;
  Stage& stage_;
};

// The same for a source: the time of each frame. In a live source the wait for the camera is in it.
class TimedSource : public Source {
 public:
  TimedSource(std::unique_ptr<Source> inner, Stage& stage)
      : inner_(std::move(inner)), stage_(stage) {}

  const SourceInfo& info() const override { return inner_->info(); }
  const SourceStats& stats() const override { return inner_->stats(); }
  bool next(Frame& frame) override {
    const auto start = std::chrono::steady_clock::now();
    const bool more = inner_->next(frame);
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
    if (more) stage_.add(spent.count());  // the end is no frame
    return more;
  }
  void stop() override { inner_->stop(); }

 private:
  std::unique_ptr<Source> inner_;
  Stage& stage_;
};

double rounded(double value);  // to four decimals, as Python's round(value, 4)

}  // namespace vad::app
