// Streams over the network: RTSP, HTTP (MJPEG, MPEG-TS, HLS), RTMP, UDP, SRT. As
// vad_runtime.sources.pyav_connection, which gives the reasons and the measurements.

#include "sources/ffmpeg.hpp"

#if VAD_WITH_FFMPEG

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>

#include "sources/ffmpeg_cuda.hpp"
#include "sources/ffmpeg_failures.hpp"
#include "sources/h264_loss.hpp"
#include "sources/live_frames.hpp"
#include "sources/picture.hpp"
#include "vad/error.hpp"

namespace vad::sources {
namespace {

constexpr double damage_lasts_s = 10.0;
constexpr double highest_fps = 240;  // cameras that do not know theirs say 90000
constexpr int large_pixels = 1920 * 1088;

// Whether pictures are still predicted from one that was lost or damaged.
class Damage {
 public:
  // Something is missing in front of a time; `keys_too` = in the picture of that time.
  void start(std::optional<double> pts_s, double now, bool keys_too = false) {
    since_s_ = now;
    pts_s_ = pts_s;
    if (keys_too && pts_s_) *pts_s_ += 1e-6;
  }

  bool holds(const AVFrame& picture, std::optional<double> pts_s, double now) {
    if (is_corrupt(picture)) {
      start(pts_s, now);
    } else if (since_s_) {
      // Pictures come out later than their packets went in: a key frame from before says nothing of
      // what was lost behind it.
      const bool behind = !pts_s || !pts_s_ || *pts_s >= *pts_s_;
      if ((is_key(picture) && behind) || now - *since_s_ > damage_lasts_s) since_s_.reset();
    }
    return since_s_.has_value();
  }

 private:
  std::optional<double> since_s_;
  std::optional<double> pts_s_;
};

// Each is meant for its protocol; the times are a second guard behind Input's.
Options options_for(const Address& address, const std::string& transport) {
  const std::string microseconds =
      std::to_string(static_cast<long>(std::max(connect_s, stalled_s) * 1e6));
  // The rate comes from times alone, not from 20 pictures.
  Options options{{"analyzeduration", "500000"}, {"fpsprobesize", "0"}};
  const std::string scheme = address.scheme();
  if (scheme == "rtsp" || scheme == "rtsps") {
    options.emplace_back("rtsp_transport", transport);
    options.emplace_back("allowed_media_types", "video");
    // FFmpeg 4's `timeout` of RTSP makes a server of it; its `stimeout` is what it should be.
    options.emplace_back(LIBAVFORMAT_VERSION_MAJOR < 59 ? "stimeout" : "timeout", microseconds);
    if (transport == "udp") options.emplace_back("buffer_size", "1048576");
  } else if (scheme == "http" || scheme == "https") {
    options.emplace_back("rw_timeout", microseconds);
    options.emplace_back("live_start_index", "-1");
  } else if (scheme == "udp") {
    options.emplace_back("overrun_nonfatal", "1");
    options.emplace_back("fifo_size", "20000");
    options.emplace_back("timeout", microseconds);
  }
  return options;
}

bool is_one_of(const char* name, std::initializer_list<const char*> names) {
  return std::any_of(names.begin(), names.end(),
                     [name](const char* other) { return std::strcmp(name, other) == 0; });
}

AVPixelFormat choose_cuda(AVCodecContext* context, const AVPixelFormat* formats) {
  for (const AVPixelFormat* format = formats; *format != AV_PIX_FMT_NONE; ++format) {
    if (*format == AV_PIX_FMT_CUDA) return *format;
  }
  return avcodec_default_get_format(context, formats);
}

class FfmpegStream final : public Connection {
 public:
  FfmpegStream(const Address& address, const StreamOptions& options) : name_(address.shown()) {
    const int code = input_.open(address.text, options_for(address, options.transport), connect_s);
    if (code < 0) {
      throw ConnectionFailed(name_, reason_of(code, connect_s, input_.timed_out(), &address),
                             refuses(code));
    }
    choose_stream();
    prepare(options);
    describe();
    is_untimed_ = is_one_of(input_->iformat->name, {"mpjpeg", "mjpeg", "jpeg_pipe", "image2pipe",
                                                    "h264", "hevc", "mpegvideo"});
    // Formats that bring a segment of some seconds at once, and then nothing for as long.
    if (is_one_of(input_->iformat->name, {"hls", "hls,applehttp", "dash"})) even_.emplace();
    if (codec_->codec_id == AV_CODEC_ID_H264) {
      loss_.emplace(codec_->extradata, static_cast<std::size_t>(codec_->extradata_size));
    }
  }

  const SourceInfo& info() const override { return info_; }
  const std::string& decoder() const override { return decoder_; }
  void skip_to_key() override { skip_ = true; }

  void stop() override {
    input_.stop();
    const std::lock_guard<std::mutex> lock(mutex_);
    woken_.notify_all();
  }

  bool next(LiveImage& image, double longest_s) override {
    hold();
    const double until_s = now_s() + longest_s;
    while (!input_.stopped()) {
      if (!ready_.empty()) {
        image = std::move(ready_.front());
        ready_.pop_front();
        if (even_ && image.pts_s) hold_s_ = even_->wait_s(*image.pts_s, now_s());
        return true;
      }
      if (at_end_) return false;
      if (now_s() >= until_s) throw stalled("no frame for " + seconds_text(stalled_s));
      read(until_s);
    }
    return false;
  }

 private:
  [[nodiscard]] ConnectionFailed stalled(const std::string& reason) const {
    return ConnectionFailed(name_, reason, false, true);
  }

  void choose_stream() {
    bool any = false;
    for (unsigned i = 0; i < input_->nb_streams && !input_.is_text(); ++i) {
      AVStream* stream = input_->streams[i];
      if (stream->codecpar->codec_type != AVMEDIA_TYPE_VIDEO) continue;
      any = true;
      if (!codec_) codec_ = decoder_of(*stream);
      if (codec_ && stream_ == nullptr) stream_ = stream;
    }
    if (!any) throw ConnectionFailed(name_, "no video in the stream");
    if (!codec_) throw ConnectionFailed(name_, "video of an unknown codec");
    for (unsigned i = 0; i < input_->nb_streams; ++i) {
      if (input_->streams[i] != stream_) input_->streams[i]->discard = AVDISCARD_ALL;
    }
  }

  // Decodes without delay: frames in parallel would each hold one back.
  void prepare(const StreamOptions& options) {
    const bool large = codec_->width * codec_->height > large_pixels;
    codec_->thread_type = large ? FF_THREAD_FRAME : FF_THREAD_SLICE;
    codec_->thread_count = large ? 2 : 1;
    const bool on_gpu = use_gpu(options.decoder);
    const int code = avcodec_open2(codec_.get(), codec_->codec, nullptr);
    if (code < 0) throw ConnectionFailed(name_, "its decoder does not start: " + error_text(code));
    decoder_ = std::string(on_gpu ? "nvdec " : "software ") + codec_->codec->name;
  }

  // Pictures stay on the GPU until small ones are made of them.
  bool use_gpu(const std::string& decoder) {
    if (decoder != "auto" && decoder != "nvdec") return false;
    bool possible = false;
    for (int i = 0; const AVCodecHWConfig* config = avcodec_get_hw_config(codec_->codec, i); ++i) {
      possible = possible || config->device_type == AV_HWDEVICE_TYPE_CUDA;
    }
    if (possible && start_gpu()) return true;
    if (decoder == "nvdec") {
      throw Error(name_ + ": nvdec cannot be had for " + codec_->codec->name +
                  " with this FFmpeg on this machine. Use decoder auto.");
    }
    return false;
  }

  bool start_gpu() {
    if (!cuda::driver_installed()) return false;
    std::shared_ptr<DecoderGpu> gpu;
    try {
      gpu = std::make_shared<DecoderGpu>("auto");
    } catch (const Error&) {
      return false;
    }
    BufferPtr hardware = hardware_of(gpu);
    if (hardware == nullptr || av_hwdevice_ctx_init(hardware.get()) < 0) return false;
    codec_->hw_device_ctx = hardware.release();  // freed with the context
    codec_->get_format = choose_cuda;
    codec_->extra_hw_frames = kept_pictures;
    gpu_ = std::move(gpu);
    return true;
  }

  void describe() {
    info_.name = name_;
    info_.kind = "live stream";
    info_.codec = codec_->codec->name;
    info_.width = codec_->width;
    info_.height = codec_->height;
    info_.fps = default_fps;
    // FFmpeg's guess, doubled for fields, is the last resort.
    const AVRational guessed = av_guess_frame_rate(&*input_, stream_, nullptr);
    for (const AVRational rate : {stream_->avg_frame_rate, codec_->framerate, guessed}) {
      const double fps = rate.num > 0 && rate.den > 0 ? av_q2d(rate) : 0.0;
      if (fps > 0 && fps <= highest_fps) {
        info_.fps = fps;
        return;
      }
    }
  }

  // Waits before the picture behind one that came too early is asked for.
  void hold() {
    if (hold_s_ <= 0) return;
    std::unique_lock<std::mutex> lock(mutex_);
    woken_.wait_for(lock, std::chrono::duration<double>(hold_s_),
                    [this] { return input_.stopped(); });
    hold_s_ = 0.0;
  }

  void read(double until_s) {
    av_packet_unref(packet_.get());
    const double asked_s = now_s();
    const double left_s = std::max(until_s - asked_s, 0.0);
    const int code = input_.read(*packet_, std::min(left_s, stalled_s));
    const double now = now_s();
    if (input_.stopped()) return;
    if (input_.timed_out()) {
      // At its time-out FFmpeg first gives out the half of a picture that it has.
      throw stalled(left_s < stalled_s ? "no frame for " + seconds_text(stalled_s)
                                       : "nothing came for " + seconds_text(stalled_s));
    }
    if (code == AVERROR_EOF) {
      at_end_ = true;
      av_packet_unref(packet_.get());
    } else if (code == AVERROR(ETIMEDOUT) || code == AVERROR_EXIT) {
      throw stalled("nothing came for " + seconds_text(stalled_s));
    } else if (code < 0) {
      throw ConnectionFailed(name_, reason_of(code, stalled_s, false, nullptr), refuses(code));
    } else if (packet_->stream_index != stream_->index) {
      return;
    }
    if (!at_end_) waited_s_ = waited_s_.value_or(0.0) + (now - asked_s);
    if (packet_->size > 0 && !look_at_packet(now)) return;
    decode_packet(now);
  }

  // False: it is left out.
  bool look_at_packet(double now) {
    const bool key = (packet_->flags & AV_PKT_FLAG_KEY) != 0;
    const std::optional<double> pts_s = seconds_of(packet_->pts, stream_->time_base);
    // Asked for each packet, so that it knows the one before.
    const bool missing =
        loss_ && loss_->lost_before(packet_->data, static_cast<std::size_t>(packet_->size), key);
    if (skip_) {
      skip_ = skipped_ == 0 || !key;
      if (skip_) {
        ++skipped_;
        // Pictures that the decoder still holds come out behind this, with others missing between
        // them: B-frames, or large pictures decoded in parallel.
        damage_.start(pts_s, now);
        return false;
      }
    } else if (missing) {
      damage_.start(pts_s, now);
    }
    // MPEG-TS counts its packets; the decoder hides the hole.
    if ((packet_->flags & AV_PKT_FLAG_CORRUPT) != 0) damage_.start(pts_s, now, true);
    return true;
  }

  void decode_packet(double now) {
    std::vector<FramePtr> frames;
    if (!decode(*codec_, *packet_, frames)) {
      ++lost_;
      damage_.start(seconds_of(packet_->pts, stream_->time_base), now);
    }
    for (FramePtr& frame : frames) {
      LiveImage image;
      image.width = frame->width;
      image.height = frame->height;
      image.pts_s = seconds_of(frame->pts, stream_->time_base);
      image.damaged = damage_.holds(*frame, image.pts_s, now);
      if (is_untimed_) image.pts_s = now;  // FFmpeg counts 25 a second there, whatever comes
      image.lost_packets = std::exchange(lost_, 0);
      image.skipped_packets = std::exchange(skipped_, 0);
      image.waited_s = std::exchange(waited_s_, std::nullopt);
      const bool there = frame->hw_frames_ctx != nullptr;  // not where NVDEC lacks the profile
      image.picture = there ? picture_of(std::move(frame), gpu_, scaler_)
                            : picture_of(std::move(frame), scaler_);
      ready_.push_back(std::move(image));
    }
  }

  std::string name_;
  std::shared_ptr<DecoderGpu> gpu_;  // none: decoded by the processor
  Input input_;
  CodecPtr codec_;
  AVStream* stream_ = nullptr;
  SourceInfo info_;
  std::string decoder_;
  std::shared_ptr<FrameScaler> scaler_ = std::make_shared<FrameScaler>();
  PacketPtr packet_ = new_packet();
  std::deque<LiveImage> ready_;
  Damage damage_;
  std::optional<H264Loss> loss_;
  std::optional<Even> even_;
  std::mutex mutex_;
  std::condition_variable woken_;
  double hold_s_ = 0.0;
  std::optional<double> waited_s_;
  std::int64_t lost_ = 0;
  std::int64_t skipped_ = 0;
  bool skip_ = false;
  bool is_untimed_ = false;
  bool at_end_ = false;
};

}  // namespace

std::unique_ptr<Connection> open_ffmpeg_stream(const Address& address,
                                               const StreamOptions& options) {
  return std::make_unique<FfmpegStream>(address, options);
}

}  // namespace vad::sources

#endif
