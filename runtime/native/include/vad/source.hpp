// Where frames come from: files, folders of images, cameras, streams, pipelines.

#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vad/image.hpp"
#include "vad/manifest.hpp"

namespace vad {

// One decoded picture, which owns its planes.
class Picture {
 public:
  virtual ~Picture() = default;

  // Writes the picture at the clip's size and colour, by its resizer: spec.frame_bytes() bytes,
  // shape (height, width, channels). Throws Error where this build lacks what the resizer needs.
  virtual void write(const ClipSpec& spec, std::uint8_t* out) = 0;
  // The planes where they lie on the device with the CUDA index `device`; nullptr = in host memory.
  virtual const Image* on_device(int device) const {
    (void)device;
    return nullptr;
  }
};

struct Frame {
  std::int64_t index = 0;  // number in the source, from 0; lost frames are counted too
  double pts_s = 0.0;      // seconds from the source's first frame; strictly rising
  std::unique_ptr<Picture> picture;
  std::optional<std::string> hole;  // why something is missing in front of it
  bool damaged = false;             // not to be scored
};

struct SourceInfo {
  std::string name;  // as the user gave it, passwords masked
  std::string kind;  // `video file`, `frame folder` or `live stream`
  std::string codec;
  int width = 0;
  int height = 0;
  double fps = 25.0;
  std::optional<std::int64_t> frames;
};

struct SourceStats {
  std::int64_t frames = 0;
  std::int64_t damaged = 0;
  std::int64_t undecodable_packets = 0;
  std::int64_t timestamps_repaired = 0;
  std::int64_t connections = 0;
  std::int64_t frozen = 0;  // frames of a live source that repeat a picture for too long
  std::map<std::string, std::int64_t> dropped;
  std::map<std::string, std::int64_t> holes;
  std::vector<std::string> notes;
};

// One thread reads.
class Source {
 public:
  virtual ~Source() = default;
  virtual const SourceInfo& info() const = 0;
  virtual const SourceStats& stats() const = 0;
  // Fills `frame` with the next one; false at the end. Throws Error where reading on cannot help.
  virtual bool next(Frame& frame) = 0;
  // Makes next() return false soon. From any thread, also from one that is no reader.
  virtual void stop() = 0;
};

struct SourceOptions {
  std::optional<double> fps;         // of a folder of frames
  std::string decoder = "auto";      // auto, software, nvdec
  std::string transport = "tcp";     // of rtsp://
  // Takes lines about a live source: each change of its state, what is wrong with its rate.
  std::function<void(const std::string&)> say;
};

// `name` is a video file, a .y4m file, `-` (YUV4MPEG2 on standard input), a folder of images, an
// address (rtsp://, http://, ...) or `gst: PIPELINE ! appsink`. Throws Error: it cannot be read, or
// this build lacks what it needs.
std::unique_ptr<Source> open_source(const std::string& name, const ClipSpec& spec,
                                    const SourceOptions& options);
// Hole behind, and cause of, frames that a prefetched live source gave and nobody took in time.
inline constexpr const char* dropped_cause = "frames dropped";
// Decodes in a thread of its own, `depth` frames ahead.
std::unique_ptr<Source> prefetched(std::unique_ptr<Source> source, int depth = 8);
// What this build reads, for `--version`: "ffmpeg 59.27", "gstreamer 1.22", "y4m".
std::vector<std::string> source_kinds();

}  // namespace vad
