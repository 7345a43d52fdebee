#include "sources/ffmpeg.hpp"

#if VAD_WITH_FFMPEG

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <mutex>
#include <new>

#include "sources/clock.hpp"
#include "vad/error.hpp"

extern "C" {
#include <libavutil/frame.h>
#include <libavutil/log.h>
}

namespace vad::sources {
namespace {

// Streams with intra refresh have no key frames to wait for.
constexpr double damage_lasts_s = 10.0;

// FFmpeg's own chatter about broken streams would drown ours; what matters is counted.
void silence() {
  static std::once_flag once;
  std::call_once(once, [] { av_log_set_level(AV_LOG_PANIC); });
}

// Reads bytes in memory as a file.
struct Memory {
  const std::vector<std::uint8_t>* bytes;
  std::int64_t at = 0;

  static int read(void* self, std::uint8_t* to, int most) {
    auto& memory = *static_cast<Memory*>(self);
    const std::int64_t left = static_cast<std::int64_t>(memory.bytes->size()) - memory.at;
    if (left <= 0) return AVERROR_EOF;
    const std::int64_t count = std::min<std::int64_t>(left, most);
    std::memcpy(to, memory.bytes->data() + memory.at, static_cast<std::size_t>(count));
    memory.at += count;
    return static_cast<int>(count);
  }

  static std::int64_t seek(void* self, std::int64_t offset, int whence) {
    auto& memory = *static_cast<Memory*>(self);
    const auto size = static_cast<std::int64_t>(memory.bytes->size());
    if ((whence & AVSEEK_SIZE) != 0) return size;
    const std::int64_t base = whence == SEEK_CUR ? memory.at : whence == SEEK_END ? size : 0;
    if (base + offset < 0) return AVERROR(EINVAL);
    memory.at = base + offset;
    return memory.at;
  }
};

class VideoFile final : public Source {
 public:
  explicit VideoFile(const std::string& path);

  const SourceInfo& info() const override { return info_; }
  const SourceStats& stats() const override { return stats_; }
  bool next(Frame& frame) override;
  void stop() override { input_.stop(); }

 private:
  void open(const std::string& path);
  void read();
  void take(FramePtr image, Frame& frame);
  bool finish();

  Input input_;
  CodecPtr codec_;
  int stream_ = -1;
  SourceInfo info_;
  SourceStats stats_;
  std::optional<Clock> clock_;
  std::shared_ptr<FrameScaler> scaler_ = std::make_shared<FrameScaler>();
  PacketPtr packet_ = new_packet();
  std::deque<FramePtr> ready_;
  std::optional<std::pair<int, int>> size_;
  std::optional<double> damaged_from_s_;
  std::optional<std::string> hole_;
  std::int64_t lost_ = 0;
  bool at_end_ = false;
  bool finished_ = false;
};

VideoFile::VideoFile(const std::string& path) { open(path); }

void VideoFile::open(const std::string& path) {
  // Absolute, since FFmpeg would take `cam:1.mp4` for an address of the protocol `cam`.
  const int code = input_.open(std::filesystem::absolute(path).string(), {}, std::nullopt);
  if (code < 0) {
    throw Error(path + " is not a readable video (" + error_text(code) + "). Give another.");
  }
  const AVStream* film = nullptr;
  for (unsigned i = 0; i < input_->nb_streams && film == nullptr && !input_.is_text(); ++i) {
    const AVStream* stream = input_->streams[i];
    const bool cover = (stream->disposition & AV_DISPOSITION_ATTACHED_PIC) != 0;
    if (stream->codecpar->codec_type == AVMEDIA_TYPE_VIDEO && !cover) film = stream;
  }
  if (film == nullptr) throw Error(path + " holds no video stream. Give a video file.");
  codec_ = decoder_of(*film);
  if (!codec_) throw Error(path + " is in no codec that FFmpeg knows. Convert it, or mend it.");
  if (codec_->width == 0 || codec_->height == 0) {
    throw Error(path + " says nothing of its picture size. Give an intact video.");
  }
  codec_->thread_type = FF_THREAD_FRAME | FF_THREAD_SLICE;
  codec_->thread_count = 0;  // as many as there are processors
  stream_ = film->index;
  info_.name = path;
  info_.kind = "video file";
  info_.codec = codec_->codec->name;
  info_.width = codec_->width;
  info_.height = codec_->height;
  AVRational rate = av_guess_frame_rate(&*input_, input_->streams[stream_], nullptr);
  if (rate.num == 0 || rate.den == 0) rate = film->avg_frame_rate;
  info_.fps = rate.num != 0 && rate.den != 0 ? av_q2d(rate) : default_fps;
  if (film->nb_frames > 0) info_.frames = film->nb_frames;
  clock_.emplace(info_.fps, stats_);
  const int opened = avcodec_open2(codec_.get(), codec_->codec, nullptr);
  if (opened < 0) {
    throw Error(path + " is not a readable video (" + error_text(opened) + "). Give another.");
  }
}

// A packet that does not decode is counted and passed over. From a damaged frame or such a packet
// on, every frame is damaged up to the next sound key frame: decoders flag the frame that they
// could not restore, but not those that are predicted from it.
void VideoFile::read() {
  do {
    av_packet_unref(packet_.get());
    const int code = input_.read(*packet_, std::nullopt);
    if (code < 0) {
      at_end_ = true;
      if (code != AVERROR_EOF) {
        if (!input_.stopped()) {
          stats_.notes.push_back("reading stopped early: " + error_text(code));
        }
        return;
      }
      av_packet_unref(packet_.get());  // empty: the decoder gives out what it still holds
      break;
    }
  } while (packet_->stream_index != stream_);
  std::vector<FramePtr> frames;
  if (!decode(*codec_, *packet_, frames)) {
    ++stats_.undecodable_packets;
    ++lost_;  // as a rule a packet of video is one frame
    hole_ = "undecodable packet";
    damaged_from_s_ = clock_->last_s();
  }
  for (FramePtr& frame : frames) ready_.push_back(std::move(frame));
}

bool VideoFile::next(Frame& frame) {
  while (!finished_ && !input_.stopped()) {
    if (!ready_.empty()) {
      FramePtr image = std::move(ready_.front());
      ready_.pop_front();
      take(std::move(image), frame);
      return true;
    }
    if (at_end_) return finish();
    read();
  }
  return false;
}

void VideoFile::take(FramePtr image, Frame& frame) {
  const std::pair<int, int> size(image->width, image->height);
  if (size_ && *size_ != size) hole_ = "change of resolution";
  size_ = size;
  const double time_s =
      clock_->stamp(seconds_of(image->pts, input_->streams[stream_]->time_base));
  if (clock_->jumped()) hole_ = "jump back in time";
  if (is_corrupt(*image)) {
    damaged_from_s_ = time_s;
  } else if (damaged_from_s_ && (is_key(*image) || time_s - *damaged_from_s_ > damage_lasts_s)) {
    damaged_from_s_.reset();
  }
  frame.index = stats_.frames + lost_;
  frame.pts_s = time_s;
  frame.hole = std::exchange(hole_, std::nullopt);
  frame.damaged = damaged_from_s_.has_value();
  frame.picture = picture_of(std::move(image), scaler_);
  ++stats_.frames;
  if (frame.damaged) ++stats_.damaged;
  if (frame.hole) ++stats_.holes[*frame.hole];
}

bool VideoFile::finish() {
  finished_ = true;
  if (stats_.frames == 0) {
    throw Error(info_.name + " holds no frame that decodes. Give another video.");
  }
  if (info_.frames && stats_.frames < *info_.frames) {
    stats_.notes.push_back("the file promises " + std::to_string(*info_.frames) + " frames, " +
                           std::to_string(stats_.frames) + " could be read");
  }
  return false;
}

}  // namespace

PacketPtr new_packet() {
  PacketPtr packet(av_packet_alloc());
  if (!packet) throw std::bad_alloc();
  return packet;
}

std::string error_text(int code) {
  std::array<char, AV_ERROR_MAX_STRING_SIZE> text{};
  av_strerror(code, text.data(), text.size());
  return text.data();
}

std::optional<double> seconds_of(std::int64_t pts, AVRational unit) {
  if (pts == AV_NOPTS_VALUE || unit.num == 0 || unit.den == 0) return std::nullopt;
  // One rounding, as of Python's Fraction, wherever the product is exact.
  return static_cast<double>(pts) * unit.num / unit.den;
}

bool is_key(const AVFrame& frame) {
#if LIBAVUTIL_VERSION_INT >= AV_VERSION_INT(58, 29, 100)
  return (frame.flags & AV_FRAME_FLAG_KEY) != 0;
#else
  return frame.key_frame != 0;
#endif
}

bool is_corrupt(const AVFrame& frame) {
  return frame.decode_error_flags != 0 || (frame.flags & AV_FRAME_FLAG_CORRUPT) != 0;
}

Input::Input() { silence(); }

Input::~Input() {
  avformat_close_input(&format_);
  if (memory_ != nullptr) {
    delete static_cast<Memory*>(memory_->opaque);
    av_freep(&memory_->buffer);
    avio_context_free(&memory_);
  }
}

int Input::interrupted(void* self) {
  auto& input = *static_cast<Input*>(self);
  if (input.stopped_) return 1;
  if (!input.until_ || std::chrono::steady_clock::now() < *input.until_) return 0;
  input.timed_out_ = true;
  return 1;
}

void Input::limit(std::optional<double> longest_s) {
  timed_out_ = false;
  until_.reset();
  if (longest_s) {
    until_ = std::chrono::steady_clock::now() +
             std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                 std::chrono::duration<double>(*longest_s));
  }
}

int Input::open(const std::string& url, const Options& options, std::optional<double> longest_s,
                const std::vector<std::uint8_t>* bytes) {
  format_ = avformat_alloc_context();
  if (format_ == nullptr) throw std::bad_alloc();
  format_->interrupt_callback = {&Input::interrupted, this};
  format_->flags |= AVFMT_FLAG_GENPTS;
  if (bytes != nullptr) {
    constexpr int buffer_bytes = 1 << 15;
    auto* buffer = static_cast<std::uint8_t*>(av_malloc(buffer_bytes));
    auto memory = std::make_unique<Memory>(Memory{bytes});
    memory_ = avio_alloc_context(buffer, buffer_bytes, 0, memory.get(), &Memory::read, nullptr,
                                 &Memory::seek);
    if (memory_ == nullptr) throw std::bad_alloc();
    memory.release();  // ~Input deletes it
    format_->pb = memory_;
  }
  AVDictionary* found = nullptr;
  for (const auto& [key, value] : options) av_dict_set(&found, key.c_str(), value.c_str(), 0);
  limit(longest_s);
  int code = avformat_open_input(&format_, url.c_str(), nullptr, &found);
  const std::unique_ptr<AVDictionary, FreeOptions> unused(found);
  if (code >= 0) {
    limit(longest_s);
    code = avformat_find_stream_info(format_, nullptr);
  }
  return code;
}

int Input::read(AVPacket& packet, std::optional<double> longest_s) {
  limit(longest_s);
  return av_read_frame(format_, &packet);
}

bool Input::is_text() const noexcept {
  for (const char* name : {"tty", "concat", "ffmetadata", "lavfi"}) {
    if (std::strcmp(format_->iformat->name, name) == 0) return true;
  }
  return false;
}

CodecPtr decoder_of(const AVStream& stream) {
  const AVCodec* codec = avcodec_find_decoder(stream.codecpar->codec_id);
  if (codec == nullptr) return nullptr;
  CodecPtr context(avcodec_alloc_context3(codec));
  if (!context) throw std::bad_alloc();
  if (avcodec_parameters_to_context(context.get(), stream.codecpar) < 0) return nullptr;
  context->pkt_timebase = stream.time_base;
  return context;
}

bool decode(AVCodecContext& context, const AVPacket& packet, std::vector<FramePtr>& frames) {
  if (avcodec_send_packet(&context, &packet) < 0) return false;
  while (true) {
    FramePtr frame = new_frame();
    const int code = avcodec_receive_frame(&context, frame.get());
    if (code == AVERROR(EAGAIN) || code == AVERROR_EOF) return true;
    if (code == AVERROR_INVALIDDATA && !frames.empty()) return true;
    if (code < 0) {
      frames.clear();
      return false;
    }
    frames.push_back(std::move(frame));
  }
}

std::unique_ptr<Source> open_ffmpeg_file(const std::string& path) {
  return std::make_unique<VideoFile>(path);
}

FramePtr read_image(const std::string& path) {
  // In memory and not by name: FFmpeg takes `%02d` in the name of an image for a pattern.
  std::ifstream file(path, std::ios::binary);
  if (!file) return nullptr;
  const std::vector<std::uint8_t> bytes{std::istreambuf_iterator<char>(file),
                                        std::istreambuf_iterator<char>()};
  Input input;
  if (bytes.empty() || input.open(path, {}, std::nullopt, &bytes) < 0) return nullptr;
  const AVStream* stream = nullptr;
  for (unsigned i = 0; i < input->nb_streams && stream == nullptr; ++i) {
    if (input->streams[i]->codecpar->codec_type == AVMEDIA_TYPE_VIDEO) stream = input->streams[i];
  }
  if (stream == nullptr) return nullptr;
  const CodecPtr codec = decoder_of(*stream);
  if (!codec) return nullptr;
  codec->thread_count = 1;  // a still picture: threads would only cost their start
  if (avcodec_open2(codec.get(), codec->codec, nullptr) < 0) return nullptr;
  const PacketPtr packet = new_packet();
  for (bool more = true; more;) {
    av_packet_unref(packet.get());
    more = input.read(*packet, std::nullopt) >= 0;
    if (!more) av_packet_unref(packet.get());
    if (more && packet->stream_index != stream->index) continue;
    std::vector<FramePtr> frames;
    if (!decode(*codec, *packet, frames)) return nullptr;
    if (!frames.empty()) return std::move(frames.front());
  }
  return nullptr;
}

}  // namespace vad::sources

#endif
