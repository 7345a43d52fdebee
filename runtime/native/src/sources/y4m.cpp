// The format: `YUV4MPEG2` and parameters in one line, then for each frame `FRAME`, parameters, a
// line feed and the planes (mjpegtools, yuv4mpeg(5)).

#include "sources/y4m.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "sources/picture.hpp"
#include "vad/error.hpp"

namespace vad::sources {
namespace {

constexpr std::size_t longest_line = 4096;
constexpr int largest_side = 65535;  // of the resizer
// Pixels that a picture has fewer of, with a margin of 128 on each side: FFmpeg refuses more, and so
// does Python.
constexpr std::int64_t most_pixels = std::numeric_limits<int>::max() / 8;
constexpr std::size_t step_bytes = std::size_t{1} << 24;
constexpr std::size_t longest_shown = 40;
constexpr int wait_ms = 200;  // between two looks at stop()

// Bytes of a file or pipe that stop() can end.
class Reader {
 public:
  explicit Reader(const std::string& name)
      : fd_(name == "-" ? dup(STDIN_FILENO) : ::open(name.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0) {
      throw Error(name + " cannot be opened (" + std::strerror(errno) + "). Check it.");
    }
  }
  ~Reader() { close(fd_); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  void stop() noexcept { stopped_ = true; }
  bool stopped() const noexcept { return stopped_; }
  // Why reading failed; empty = the end.
  const std::string& failure() const noexcept { return failure_; }

  // How many bytes could be read; fewer than asked for at the end, or after stop().
  std::size_t read(std::uint8_t* to, std::size_t count) {
    std::size_t done = 0;
    while (done < count) {
      if (at_ == filled_ && !fill(count - done, to + done, done)) break;
      const std::size_t part = std::min(count - done, filled_ - at_);
      std::memcpy(to + done, buffer_.data() + at_, part);
      at_ += part;
      done += part;
    }
    return done;
  }

  // Up to a line feed, which is taken and left out; none = the end came first, or a line too long.
  std::optional<std::string> line() {
    std::string text;
    std::uint8_t byte = 0;
    while (text.size() < longest_line && read(&byte, 1) == 1) {
      if (byte == '\n') return text;
      text.push_back(static_cast<char>(byte));
    }
    partial_ = !text.empty();
    return std::nullopt;
  }
  bool partial() const noexcept { return partial_; }

 private:
  // Refills the buffer, or reads large parts straight to where they are wanted.
  bool fill(std::size_t wanted, std::uint8_t* to, std::size_t& done) {
    const bool direct = wanted >= buffer_.size();
    while (!stopped_) {
      pollfd ready{fd_, POLLIN, 0};
      if (poll(&ready, 1, wait_ms) == 0) continue;
      const ssize_t got = direct ? ::read(fd_, to, wanted)
                                 : ::read(fd_, buffer_.data(), buffer_.size());
      if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (got < 0) failure_ = std::strerror(errno);
      if (got <= 0) return false;
      at_ = 0;
      filled_ = direct ? 0 : static_cast<std::size_t>(got);
      if (direct) done += static_cast<std::size_t>(got);
      return true;
    }
    return false;
  }

  int fd_;
  std::atomic<bool> stopped_{false};
  bool partial_ = false;
  std::string failure_;
  std::vector<std::uint8_t> buffer_ = std::vector<std::uint8_t>(1 << 16);
  std::size_t at_ = 0;
  std::size_t filled_ = 0;
};

// Names of the parameter C that are 8 bits deep, and by how much chroma is smaller.
struct Layout {
  const char* name;
  int shift_x;
  int shift_y;
  bool gray;
};
// The three kinds of 4:2:0 differ in where chroma lies, which the resizer takes for centred.
constexpr Layout layouts[] = {
    {"420", 1, 1, false},      {"420jpeg", 1, 1, false}, {"420mpeg2", 1, 1, false},
    {"420paldv", 1, 1, false}, {"422", 1, 0, false},     {"444", 0, 0, false},
    {"411", 2, 0, false},      {"mono", 0, 0, true},
};

std::vector<std::string> words(const std::string& line) {
  std::vector<std::string> found;
  std::size_t at = 0;
  while (at < line.size()) {
    const std::size_t end = std::min(line.find(' ', at), line.size());
    if (end > at) found.push_back(line.substr(at, end - at));
    at = end + 1;
  }
  return found;
}

// What a file says, as it may stand in a message: a file that is none says anything.
std::string shown(const std::string& value) {
  std::string text = value.substr(0, longest_shown);
  for (char& c : text) {
    if (c < ' ' || c > '~') c = '?';
  }
  return text + (value.size() > longest_shown ? "…" : "");
}

std::optional<int> whole_number(const std::string& text) {
  if (text.empty() || text.size() > 9 ||
      text.find_first_not_of("0123456789") != std::string::npos) {
    return std::nullopt;
  }
  return std::atoi(text.c_str());
}

class Y4m final : public Source {
 public:
  explicit Y4m(const std::string& name) : reader_(name) {
    info_.name = name;
    info_.kind = "video file";
    info_.codec = "rawvideo";
    info_.fps = default_fps;
    header();
  }

  const SourceInfo& info() const override { return info_; }
  const SourceStats& stats() const override { return stats_; }
  void stop() override { reader_.stop(); }

  bool next(Frame& frame) override {
    if (finished_ || reader_.stopped()) return false;
    const std::optional<std::string> line = reader_.line();
    if (!line) return finish(reader_.partial());
    if (line->compare(0, 5, "FRAME") != 0 || (line->size() > 5 && (*line)[5] != ' ')) {
      return finish(true);
    }
    auto bytes = std::make_shared<std::vector<std::uint8_t>>();
    if (!read_planes(*bytes)) return finish(true);
    Image image = image_;
    std::size_t offset = 0;
    for (Plane& plane : image.planes) {
      if (plane.width == 0) continue;
      plane.data = bytes->data() + offset;
      offset += static_cast<std::size_t>(plane.width) * static_cast<std::size_t>(plane.height);
    }
    frame.index = stats_.frames;
    frame.pts_s = static_cast<double>(stats_.frames) * rate_below_ / rate_above_;
    frame.picture = std::make_unique<PlanePicture>(image, std::move(bytes), portable_);
    frame.hole.reset();
    frame.damaged = false;
    ++stats_.frames;
    return true;
  }

 private:
  // Memory is filled as bytes come: a header may promise any size.
  bool read_planes(std::vector<std::uint8_t>& bytes) {
    bytes.reserve(frame_bytes_);
    while (bytes.size() < frame_bytes_) {
      const std::size_t done = bytes.size();
      const std::size_t part = std::min(frame_bytes_ - done, step_bytes);
      bytes.resize(done + part);
      if (reader_.read(bytes.data() + done, part) < part) return false;
    }
    return true;
  }

  [[noreturn]] void refuse(const std::string& why) const {
    throw Error(info_.name + " is no YUV4MPEG2 video that can be read (" + why +
                "). Make one with: ffmpeg -i FILM -pix_fmt yuv420p FILM.y4m");
  }

  void header() {
    const std::optional<std::string> line = reader_.line();
    const std::vector<std::string> found = line ? words(*line) : std::vector<std::string>{};
    if (found.empty() || found.front() != "YUV4MPEG2") refuse("its first line is another");
    std::string layout = "420";
    std::optional<bool> full_range;
    for (std::size_t i = 1; i < found.size(); ++i) {
      const std::string value = found[i].substr(1);
      switch (found[i][0]) {
        case 'W':
          info_.width = whole_number(value).value_or(0);
          break;
        case 'H':
          info_.height = whole_number(value).value_or(0);
          break;
        case 'F':
          rate(value);
          break;
        case 'C':
          layout = value;
          break;
        case 'X':  // as FFmpeg writes it
          if (value == "COLORRANGE=FULL") full_range = true;
          if (value == "COLORRANGE=LIMITED") full_range = false;
          break;
        default:  // I, A: fields and the shape of a pixel change nothing here
          break;
      }
    }
    if (info_.width < 1 || info_.height < 1 || info_.width > largest_side ||
        info_.height > largest_side ||
        (info_.width + 128LL) * (info_.height + 128LL) >= most_pixels) {
      refuse("its size is " + std::to_string(info_.width) + " x " + std::to_string(info_.height));
    }
    planes(layout, full_range);
  }

  void rate(const std::string& value) {
    const std::size_t colon = value.find(':');
    if (colon == std::string::npos) refuse("its frame rate is " + shown(value));
    const std::optional<int> above = whole_number(value.substr(0, colon));
    const std::optional<int> below = whole_number(value.substr(colon + 1));
    if (!above || !below) refuse("its frame rate is " + shown(value));
    if (*above == 0 || *below == 0) return;  // unknown
    rate_above_ = *above;
    rate_below_ = *below;
    info_.fps = rate_above_ / rate_below_;
  }

  void planes(const std::string& name, std::optional<bool> full_range) {
    const Layout* layout = nullptr;
    for (const Layout& one : layouts) {
      if (name == one.name) layout = &one;
    }
    if (layout == nullptr) refuse("its colour space is " + shown(name));
    image_.format = layout->gray ? PixelFormat::gray : PixelFormat::yuv;
    image_.width = info_.width;
    image_.height = info_.height;
    image_.full_range = full_range.value_or(layout->gray);
    for (std::size_t i = 0; i < (layout->gray ? 1U : 3U); ++i) {
      Plane& plane = image_.planes[i];
      plane.width = i == 0 ? info_.width : -((-info_.width) >> layout->shift_x);
      plane.height = i == 0 ? info_.height : -((-info_.height) >> layout->shift_y);
      plane.stride = plane.width;
      frame_bytes_ += static_cast<std::size_t>(plane.width) *
                      static_cast<std::size_t>(plane.height);
    }
  }

  bool finish(bool early) {
    finished_ = true;
    if (reader_.stopped()) return false;
    if (!reader_.failure().empty()) {
      stats_.notes.push_back("reading stopped early: " + reader_.failure());
    } else if (early) {
      stats_.notes.push_back("reading stopped early: what follows frame " +
                             std::to_string(stats_.frames) + " is no whole frame");
    }
    if (stats_.frames == 0) {
      throw Error(info_.name + " holds no frame that decodes. Give another video.");
    }
    return false;
  }

  Reader reader_;
  SourceInfo info_;
  SourceStats stats_;
  Image image_;
  std::size_t frame_bytes_ = 0;
  double rate_above_ = default_fps;
  double rate_below_ = 1.0;
  std::shared_ptr<Portable> portable_ = std::make_shared<Portable>();
  bool finished_ = false;
};

}  // namespace

std::unique_ptr<Source> open_y4m(const std::string& name) { return std::make_unique<Y4m>(name); }

}  // namespace vad::sources
