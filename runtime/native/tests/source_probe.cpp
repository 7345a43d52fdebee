// Shows what the sources do, for tests that compare it with Python's. The first argument says what:
//
//   source_probe frames SOURCE HEIGHT WIDTH COLOUR RESIZER INTERPOLATION DEPTH MOST
//       A line for each frame (tab-separated: index, time, damaged, CRC-32 of its pixels, hole),
//       between one of what the source is and those of what happened. DEPTH 0 = not prefetched,
//       MOST 0 = to the end.
//   source_probe masked|natural     lines on standard input: each masked, or sorted
//   source_probe h264 HEADER        lines `KEY HEX` of packets: whether one before each was lost
//   source_probe live FPS           lines of a camera's pictures: what frames they become

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "sources/address.hpp"
#include "sources/folder.hpp"
#include "sources/h264_loss.hpp"
#include "sources/live_frames.hpp"
#include "vad/error.hpp"
#include "vad/source.hpp"

namespace {

using Bytes = std::vector<std::uint8_t>;

// As zlib's (ISO/IEC 13239), bit by bit.
std::uint32_t crc32(const Bytes& bytes) {
  static const std::array<std::uint32_t, 256> table = [] {
    std::array<std::uint32_t, 256> made{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) {
        value = (value >> 1) ^ ((value & 1) != 0 ? 0xedb88320U : 0U);
      }
      made[i] = value;
    }
    return made;
  }();
  std::uint32_t crc = 0xffffffffU;
  for (const std::uint8_t byte : bytes) crc = (crc >> 8) ^ table[(crc ^ byte) & 255U];
  return ~crc;
}

void print_counts(const char* what, const std::map<std::string, std::int64_t>& counts) {
  for (const auto& [cause, count] : counts) {
    std::printf("%s\t%s\t%lld\n", what, cause.c_str(), static_cast<long long>(count));
  }
}

void print_frame(const vad::Frame& frame, const Bytes& pixels) {
  std::printf("frame\t%lld\t%.17g\t%d\t%08x\t%s\n", static_cast<long long>(frame.index),
              frame.pts_s, frame.damaged ? 1 : 0, crc32(pixels),
              frame.hole ? frame.hole->c_str() : "");
}

void print_stats(const vad::SourceStats& stats) {
  std::printf("stats\t%lld\t%lld\t%lld\t%lld\t%lld\n", static_cast<long long>(stats.frames),
              static_cast<long long>(stats.damaged),
              static_cast<long long>(stats.undecodable_packets),
              static_cast<long long>(stats.timestamps_repaired),
              static_cast<long long>(stats.frozen));
  print_counts("hole", stats.holes);
  print_counts("dropped", stats.dropped);
  for (const std::string& note : stats.notes) std::printf("note\t%s\n", note.c_str());
}

vad::ClipSpec spec_from(const std::vector<std::string>& words) {
  vad::ClipSpec spec;
  spec.frames = 1;
  spec.height = std::atoi(words.at(0).c_str());
  spec.width = std::atoi(words.at(1).c_str());
  spec.colour = words.at(2) == "gray" ? vad::Colour::gray : vad::Colour::rgb;
  spec.resizer = words.at(3) == "portable" ? vad::ResizerKind::portable
                 : words.at(3) == "exact"  ? vad::ResizerKind::exact
                                           : vad::ResizerKind::fast;
  spec.interpolation =
      words.at(4) == "bilinear" ? vad::Interpolation::bilinear : vad::Interpolation::area;
  return spec;
}

int frames(const std::vector<std::string>& words) {
  const vad::ClipSpec spec = spec_from({words.begin() + 1, words.end()});
  vad::SourceOptions options;
  options.say = [](const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); };
  std::unique_ptr<vad::Source> source = vad::open_source(words.at(0), spec, options);
  if (const int depth = std::atoi(words.at(6).c_str()); depth > 0) {
    source = vad::prefetched(std::move(source), depth);
  }
  const vad::SourceInfo& info = source->info();
  std::printf("info\t%s\t%s\t%s\t%d\t%d\t%.17g\t%lld\n", info.name.c_str(), info.kind.c_str(),
              info.codec.c_str(), info.width, info.height, info.fps,
              static_cast<long long>(info.frames.value_or(-1)));
  const long most = std::atol(words.at(7).c_str());
  Bytes pixels(spec.frame_bytes());
  vad::Frame frame;
  for (long count = 0; source->next(frame); ++count) {
    if (most > 0 && count == most) {
      source->stop();
      break;
    }
    frame.picture->write(spec, pixels.data());
    print_frame(frame, pixels);
    std::fflush(stdout);
  }
  print_stats(source->stats());
  return 0;
}

int masked() {
  for (std::string line; std::getline(std::cin, line);) {
    std::printf("%s\n", vad::sources::masked(line).c_str());
  }
  return 0;
}

int natural() {
  std::vector<std::string> names;
  for (std::string line; std::getline(std::cin, line);) names.push_back(line);
  std::stable_sort(names.begin(), names.end(), vad::sources::natural_less);
  for (const std::string& name : names) std::printf("%s\n", name.c_str());
  return 0;
}

Bytes from_hex(const std::string& text) {
  Bytes bytes;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2) {
    bytes.push_back(static_cast<std::uint8_t>(std::stoi(text.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

int h264(const std::string& header) {
  const Bytes first = from_hex(header);
  vad::sources::H264Loss loss(first.data(), first.size());
  for (std::string line; std::getline(std::cin, line);) {
    const Bytes packet = from_hex(line.substr(2));
    std::puts(loss.lost_before(packet.data(), packet.size(), line[0] == '1') ? "1" : "0");
  }
  return 0;
}

// One level of grey.
class Level final : public vad::Picture {
 public:
  explicit Level(int level) : level_(level) {}
  void write(const vad::ClipSpec& spec, std::uint8_t* out) override {
    std::memset(out, level_, spec.frame_bytes());
  }

 private:
  int level_;
};

// Lines: `picture PTS NOW WAITED WIDTH LOST SKIPPED DAMAGED LEVEL` (`-` = none), `lost HOLE`,
// `connected FPS`.
int live(const std::string& fps) {
  vad::ClipSpec spec;
  spec.frames = 1;
  spec.height = 2;
  spec.width = 2;
  if (fps != "-") spec.fps = std::strtod(fps.c_str(), nullptr);
  vad::SourceStats stats;
  vad::sources::FrameMaker maker(spec, stats, [](const std::string& line) {
    std::printf("say\t%s\n", line.c_str());
  });
  const auto number = [](const std::string& word) {
    return word == "-" ? std::nullopt : std::optional<double>(std::strtod(word.c_str(), nullptr));
  };
  Bytes pixels(spec.frame_bytes());
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream in(line);
    std::vector<std::string> words;
    for (std::string word; std::getline(in, word, '\t');) words.push_back(word);
    if (words.at(0) == "lost") {
      maker.lost(words.at(1));
    } else if (words.at(0) == "connected") {
      maker.connected(*number(words.at(1)));
    } else {
      vad::sources::LiveImage image;
      image.pts_s = number(words.at(1));
      image.waited_s = number(words.at(3));
      image.width = std::atoi(words.at(4).c_str());
      image.height = 2;
      image.lost_packets = std::atol(words.at(5).c_str());
      image.skipped_packets = std::atol(words.at(6).c_str());
      image.damaged = words.at(7) == "1";
      image.picture = std::make_unique<Level>(std::atoi(words.at(8).c_str()));
      vad::Frame frame;
      if (maker.frame(image, *number(words.at(2)), frame)) {
        frame.picture->write(spec, pixels.data());
        print_frame(frame, pixels);
      }
      std::printf("maker\t%.17g\t%d\t%d\n", maker.fps(), maker.frozen() ? 1 : 0,
                  maker.behind() ? 1 : 0);
    }
  }
  print_stats(stats);
  return 0;
}

}  // namespace

int main(int count, char** values) {
  const std::vector<std::string> words(values + 1, values + count);
  const std::string what = words.empty() ? "" : words[0];
  try {
    if (what == "frames" && words.size() == 9) return frames({words.begin() + 1, words.end()});
    if (what == "masked") return masked();
    if (what == "natural") return natural();
    if (what == "h264" && words.size() == 2) return h264(words[1]);
    if (what == "live" && words.size() == 2) return live(words[1]);
  } catch (const vad::Error& error) {
    std::fprintf(stderr, "Error: %s\n", error.what());
    return 1;
  }
  std::fputs("usage: source_probe frames|masked|natural|h264|live …\n", stderr);
  return 2;
}
