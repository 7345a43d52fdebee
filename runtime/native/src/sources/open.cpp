// Whatever the user names becomes a source.

#include <filesystem>
#include <fstream>
#include <system_error>

#include "sources/address.hpp"
#include "sources/folder.hpp"
#include "sources/live.hpp"
#include "sources/picture.hpp"
#include "sources/y4m.hpp"
#include "vad/error.hpp"
#include "vad/source.hpp"
#if VAD_WITH_FFMPEG
#include "sources/ffmpeg.hpp"
#endif
#if VAD_WITH_GSTREAMER
#include <gst/gst.h>
#endif

namespace vad {
namespace {

namespace fs = std::filesystem;

// By its content and not by its name.
bool is_y4m(const std::string& path) {
  std::string start(9, '\0');
  std::ifstream file(path, std::ios::binary);
  file.read(&start[0], static_cast<std::streamsize>(start.size()));
  return start == "YUV4MPEG2";
}

std::unique_ptr<Source> open_recording(const std::string& path, const ClipSpec& spec,
                                       const SourceOptions& options) {
  if (options.decoder != "auto" && options.decoder != "software") {
    throw Error(path + " is a recording, which is decoded in software and not by " +
                options.decoder + ". Leave the decoder out.");
  }
  if (path == "-") return sources::open_y4m(path);
  std::error_code problem;
  const fs::file_status status = fs::status(path, problem);
  if (status.type() == fs::file_type::not_found) {
    throw Error(path + " does not exist. Check the path.");
  }
  if (problem) throw Error(path + " cannot be opened (" + problem.message() + "). Check it.");
  if (status.type() == fs::file_type::directory) return sources::open_folder(path, spec, options);
  if (status.type() == fs::file_type::fifo || is_y4m(path)) return sources::open_y4m(path);
#if VAD_WITH_FFMPEG
  return sources::open_ffmpeg_file(path);
#else
  throw Error(path + " is no YUV4MPEG2 video, and this build lacks FFmpeg. Build with "
                     "VAD_FFMPEG=ON, or convert it with: ffmpeg -i FILM -pix_fmt yuv420p FILM.y4m");
#endif
}

}  // namespace

std::unique_ptr<Source> open_source(const std::string& name, const ClipSpec& spec,
                                    const SourceOptions& options) {
  sources::require_resizer(spec);
  std::error_code ignored;
  // The file system first: a file may be called whatever it likes.
  const bool is_device = name.compare(0, 5, "/dev/") == 0;
  if (name == "-" || (!name.empty() && !is_device && fs::exists(name, ignored))) {
    return open_recording(name, spec, options);
  }
  const sources::Address address = sources::address_from_text(name);
  if (!address.live()) return open_recording(address.text, spec, options);
  const sources::StreamOptions how{options.decoder, options.transport};
  return sources::open_live(address, spec, sources::connector(address, how), options.say);
}

std::vector<std::string> source_kinds() {
  std::vector<std::string> kinds;
#if VAD_WITH_FFMPEG
  const unsigned version = avformat_version();
  kinds.push_back("ffmpeg " + std::to_string(AV_VERSION_MAJOR(version)) + "." +
                  std::to_string(AV_VERSION_MINOR(version)));
#endif
#if VAD_WITH_GSTREAMER
  unsigned major = 0;
  unsigned minor = 0;
  unsigned micro = 0;
  unsigned nano = 0;
  gst_version(&major, &minor, &micro, &nano);
  kinds.push_back("gstreamer " + std::to_string(major) + "." + std::to_string(minor));
#endif
  kinds.push_back("y4m");
  return kinds;
}

}  // namespace vad
