#include "sources/live.hpp"

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <random>
#include <utility>

#include "number.hpp"
#include "sources/live_frames.hpp"
#if VAD_WITH_FFMPEG
#include "sources/ffmpeg.hpp"
#endif
#if VAD_WITH_GSTREAMER
#include "sources/gstreamer.hpp"
#endif

namespace vad::sources {
namespace {

constexpr double grace_s = 0.3;         // the connection's own time-out comes first: it knows more
constexpr double longest_skip_s = 10.0; // some streams have no key frames to skip to
constexpr double first_picture_s = 20.0;  // groups of pictures may last 10 s

double random_between(double low, double high) {
  static thread_local std::mt19937_64 generator{std::random_device{}()};
  return std::uniform_real_distribution<double>(low, high)(generator);
}

// A camera, a stream or a pipeline: frames until stop(), whatever happens to it, as in
// vad_runtime.sources.live.
class LiveSource final : public Source {
 public:
  LiveSource(const Address& address, const ClipSpec& spec, Connect connect,
             std::function<void(const std::string&)> say)
      : name_(address.shown()),
        connect_(std::move(connect)),
        say_(std::move(say)),
        maker_(spec, stats_, say_),
        backoff_(random_between) {
    info_.name = name_;
    info_.kind = "live stream";
    info_.fps = maker_.fps();
    open();
    if (!connection_->next(first_, first_picture_s)) {
      throw ConnectionFailed(name_, "no picture came");
    }
    has_first_ = true;
    describe(first_.width, first_.height);
  }

  const SourceInfo& info() const override { return info_; }
  const SourceStats& stats() const override { return stats_; }

  void stop() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopped_ = true;
    woken_.notify_all();
    if (connection_) connection_->stop();
  }

  bool next(Frame& frame) override {
    while (!stopped_) {
      try {
        if (!connection_) open();
        if (read(frame)) return true;
        if (!connection_) lose("lost", "the stream ended", "reconnected");
      } catch (const ConnectionFailed& error) {
        if (error.stalled) {
          lose("stalled", error.reason, "stalled");
        } else {
          lose(error.refused ? "refused" : "lost", error.reason, "reconnected");
        }
      } catch (const std::exception& error) {
        // Before the first frame something is not as it must be. Later it was: a GPU without memory
        // for once, or a picture that nothing can be done with, must not end a month.
        if (stats_.frames == 0) throw;
        lose("lost", masked(error.what()), "reconnected");
      }
    }
    close();
    tell("ended", "");
    return false;
  }

 private:
  void open() {
    std::unique_ptr<Connection> connection = connect_();
    const std::lock_guard<std::mutex> lock(mutex_);
    if (stopped_) connection->stop();
    connection_ = std::move(connection);
    began_s_.reset();
    skipping_since_s_.reset();
    ++stats_.connections;
  }

  void close() {
    std::unique_ptr<Connection> connection;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      connection = std::move(connection_);
    }
    has_first_ = false;
    first_ = LiveImage{};
  }

  // False: this picture is not to be seen, or there is no connection any more.
  bool read(Frame& frame) {
    LiveImage image;
    if (has_first_) {
      image = std::exchange(first_, LiveImage{});
      has_first_ = false;
    } else if (!connection_->next(image, longest_s())) {
      ended();
      return false;
    }
    if (stopped_) return false;
    const double now = now_s();
    if (!began_s_) {
      began_s_ = now;
      maker_.connected(connection_->info().fps);
    }
    const bool seen = maker_.frame(image, now, frame);
    describe(maker_.size().first, maker_.size().second);
    skip(now);
    if (maker_.frozen()) {
      tell("frozen", "the same picture for " + significant_text(frozen_s, 6) + " s");
    } else {
      tell("live", std::to_string(info_.width) + "x" + std::to_string(info_.height) + ", " +
                       significant_text(info_.fps, 3) + " fps, " + connection_->decoder());
    }
    return seen;
  }

  // While packets are left out on purpose, no frame for a while is no stall.
  double longest_s() const {
    const bool skipping = skipping_since_s_ && now_s() - *skipping_since_s_ < longest_skip_s;
    return skipping ? longest_skip_s : stalled_s + grace_s;
  }

  void skip(double now) {
    if (!maker_.behind()) {
      skipping_since_s_.reset();
      return;
    }
    if (!skipping_since_s_) skipping_since_s_ = now;
    connection_->skip_to_key();
  }

  void ended() {
    if (began_s_) backoff_.ended(now_s() - *began_s_);
    began_s_.reset();
    close();
  }

  void lose(const std::string& state, const std::string& reason, const std::string& hole) {
    ended();
    if (stopped_) return;
    maker_.lost(hole);
    tell(state, reason);
    const double wait_s = backoff_.wait_s(state == "refused");
    std::unique_lock<std::mutex> lock(mutex_);
    woken_.wait_for(lock, std::chrono::duration<double>(wait_s),
                    [this] { return stopped_.load(); });
  }

  void describe(int width, int height) {
    info_.codec = connection_->info().codec;
    info_.width = width;
    info_.height = height;
    info_.fps = maker_.fps();
  }

  void tell(const std::string& state, const std::string& reason) {
    if (state == state_ || state_ == "ended") return;
    state_ = state;
    if (say_) say_(name_ + ": " + state + (reason.empty() ? "" : ": " + reason));
  }

  std::string name_;
  Connect connect_;
  std::function<void(const std::string&)> say_;
  SourceInfo info_;
  SourceStats stats_;
  FrameMaker maker_;
  Backoff backoff_;
  std::mutex mutex_;  // of connection_, against stop()
  std::condition_variable woken_;
  std::atomic<bool> stopped_{false};
  std::unique_ptr<Connection> connection_;
  LiveImage first_;
  bool has_first_ = false;
  std::optional<double> began_s_;
  std::optional<double> skipping_since_s_;
  std::string state_ = "connecting";
};

std::string failure(const std::string& name, const std::string& reason, bool refused) {
  const bool pipeline = name.rfind("gst:", 0) == 0;
  return name + ": " + reason + ". " +
         (refused    ? "Check user and password."
          : pipeline ? "Try it with gst-launch-1.0; it must end in ! appsink."
                     : "Check the camera and the network.");
}

}  // namespace

ConnectionFailed::ConnectionFailed(const std::string& name, std::string why, bool is_refused,
                                   bool is_stalled)
    : Error(failure(name, why, is_refused)),
      reason(std::move(why)),
      refused(is_refused),
      stalled(is_stalled) {}

std::unique_ptr<Source> open_live(const Address& address, const ClipSpec& spec, Connect connect,
                                  std::function<void(const std::string&)> say) {
  return std::make_unique<LiveSource>(address, spec, std::move(connect), std::move(say));
}

Connect connector(const Address& address, const StreamOptions& options) {
  if (address.kind == AddressKind::stream) {
#if VAD_WITH_FFMPEG
    return [address, options] { return open_ffmpeg_stream(address, options); };
#else
    throw Error(address.shown() +
                " needs FFmpeg, which this build lacks. Build with VAD_FFMPEG=ON.");
#endif
  }
  if (options.decoder == "nvdec") {
    throw Error(address.shown() + " chooses its own decoder, not nvdec. Leave the decoder out.");
  }
#if VAD_WITH_GSTREAMER
  return [address] { return open_gstreamer(address); };
#else
  throw Error(address.shown() +
              " needs GStreamer, which this build lacks. Build with VAD_GSTREAMER=ON.");
#endif
}

}  // namespace vad::sources
