// What files, folders of images and streams share of FFmpeg (4.4 to 8).

#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
}

#include "sources/address.hpp"
#include "sources/ffmpeg_picture.hpp"
#include "sources/live.hpp"
#include "vad/manifest.hpp"
#include "vad/source.hpp"

namespace vad::sources {

struct FreePacket {
  void operator()(AVPacket* packet) const noexcept { av_packet_free(&packet); }
};
using PacketPtr = std::unique_ptr<AVPacket, FreePacket>;

struct FreeCodec {
  void operator()(AVCodecContext* context) const noexcept { avcodec_free_context(&context); }
};
using CodecPtr = std::unique_ptr<AVCodecContext, FreeCodec>;

struct FreeOptions {
  void operator()(AVDictionary* options) const noexcept { av_dict_free(&options); }
};
using Options = std::vector<std::pair<std::string, std::string>>;

// Throws std::bad_alloc.
PacketPtr new_packet();
std::string error_text(int code);
std::optional<double> seconds_of(std::int64_t pts, AVRational unit);
bool is_key(const AVFrame& frame);
bool is_corrupt(const AVFrame& frame);

// An open container. Reading it ends when stop() is called or its time is over.
class Input {
 public:
  Input();
  ~Input();
  Input(const Input&) = delete;
  Input& operator=(const Input&) = delete;

  // 0, or FFmpeg's error. `bytes` = read these instead; they outlive this object. No time = for
  // ever.
  int open(const std::string& url, const Options& options, std::optional<double> longest_s,
           const std::vector<std::uint8_t>* bytes = nullptr);
  int read(AVPacket& packet, std::optional<double> longest_s);
  // From any thread.
  void stop() noexcept { stopped_ = true; }
  bool stopped() const noexcept { return stopped_; }
  // Whether the last call was broken off because its time was over.
  bool timed_out() const noexcept { return timed_out_; }

  AVFormatContext& operator*() const noexcept { return *format_; }
  AVFormatContext* operator->() const noexcept { return format_; }
  // Demuxers of text files that FFmpeg draws as pictures, or that open other files.
  bool is_text() const noexcept;

 private:
  static int interrupted(void* self);
  void limit(std::optional<double> longest_s);

  AVFormatContext* format_ = nullptr;
  AVIOContext* memory_ = nullptr;
  std::atomic<bool> stopped_{false};
  bool timed_out_ = false;
  std::optional<std::chrono::steady_clock::time_point> until_;
};

// A decoder for a stream, not opened yet; null where FFmpeg has none.
CodecPtr decoder_of(const AVStream& stream);
// Gives a packet (an empty one = the end) to the decoder and takes what comes out. False = it does
// not decode; then nothing came out.
bool decode(AVCodecContext& context, const AVPacket& packet, std::vector<FramePtr>& frames);

std::unique_ptr<Source> open_ffmpeg_file(const std::string& path);
// The first picture in a file; null = it does not decode.
FramePtr read_image(const std::string& path);
std::unique_ptr<Connection> open_ffmpeg_stream(const Address& address,
                                               const StreamOptions& options);

}  // namespace vad::sources
