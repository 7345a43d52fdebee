// Decoding in a thread of its own, so that it overlaps with inference. As
// vad_runtime.sources.prefetch.

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "vad/source.hpp"

namespace vad {
namespace {

// source thread --frame--> [ bounded queue ] --frame--> caller
//
// A full queue makes the thread of a recording wait: nothing is ever lost. A camera has its own
// pace: its full queue is emptied, and the frame behind it says so in `hole`.
class Prefetched final : public Source {
 public:
  Prefetched(std::unique_ptr<Source> source, int depth)
      : source_(std::move(source)),
        depth_(static_cast<std::size_t>(std::max(depth, 1))),
        live_(source_->info().kind == "live stream"),
        info_(source_->info()),
        stats_(source_->stats()),
        thread_([this] { read(); }) {}

  ~Prefetched() override {
    stop();
    thread_.join();
  }

  const SourceInfo& info() const override { return info_; }
  const SourceStats& stats() const override { return stats_; }

  // What is decoded already is still given out.
  void stop() override {
    source_->stop();
    const std::lock_guard<std::mutex> lock(mutex_);
    stopped_ = true;
    changed_.notify_all();
  }

  bool next(Frame& frame) override {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return !queue_.empty() || ended_; });
    info_ = newest_info_;
    stats_ = newest_stats_;
    if (queue_.empty()) {
      if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
      return false;
    }
    frame = std::move(queue_.front());
    queue_.pop_front();
    changed_.notify_all();
    return true;
  }

 private:
  void read() {
    std::exception_ptr error;
    try {
      Frame frame;
      while (source_->next(frame)) {
        if (!put(std::move(frame))) break;
        frame = Frame{};
      }
    } catch (...) {  // whatever it is, the caller's thread must see it
      error = std::current_exception();
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    note();
    error_ = error;
    ended_ = true;
    changed_.notify_all();
  }

  bool put(Frame frame) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (live_ && queue_.size() >= depth_) {
      // The gap lies in front of what is now the oldest frame; marking the newest would let a clip
      // span it. So the whole queue goes: who is this far behind needs the newest frames.
      lost_ += static_cast<std::int64_t>(queue_.size());
      queue_.clear();
      frame.hole = dropped_cause;
    }
    changed_.wait(lock, [this] { return queue_.size() < depth_ || stopped_; });
    if (queue_.size() >= depth_) return false;
    queue_.push_back(std::move(frame));
    note();
    changed_.notify_all();
    return true;
  }

  // Copies: the caller reads them while the thread goes on.
  void note() {
    newest_info_ = source_->info();
    newest_stats_ = source_->stats();
    if (lost_ > 0) newest_stats_.dropped[dropped_cause] += lost_;
  }

  std::unique_ptr<Source> source_;
  const std::size_t depth_;
  const bool live_;
  SourceInfo info_;
  SourceStats stats_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Frame> queue_;
  SourceInfo newest_info_ = info_;
  SourceStats newest_stats_ = stats_;
  std::exception_ptr error_;
  std::int64_t lost_ = 0;
  bool stopped_ = false;
  bool ended_ = false;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace

std::unique_ptr<Source> prefetched(std::unique_ptr<Source> source, int depth) {
  return std::make_unique<Prefetched>(std::move(source), depth);
}

}  // namespace vad
