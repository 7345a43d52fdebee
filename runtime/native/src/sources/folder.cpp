#include "sources/folder.hpp"

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <optional>
#include <set>
#include <system_error>
#include <utility>
#include <vector>

#include "sources/picture.hpp"
#include "vad/error.hpp"
#if VAD_WITH_FFMPEG
#include "sources/ffmpeg.hpp"
#endif

namespace vad::sources {
namespace {

namespace fs = std::filesystem;

const std::set<std::string> image_suffixes{".jpg", ".jpeg", ".png", ".bmp",
                                           ".tif", ".tiff", ".webp"};
const std::set<std::string> video_suffixes{
    ".mp4", ".avi", ".mkv", ".mov", ".m4v", ".webm", ".mpg", ".mpeg", ".ts",
    ".m2ts", ".mts", ".wmv", ".flv", ".3gp", ".ogv", ".h264", ".hevc"};

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string lower(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

// The run of digits, or of anything else, that starts at `at`.
std::string part(const std::string& text, std::size_t& at, bool digits) {
  const std::size_t start = at;
  while (at < text.size() && is_digit(text[at]) == digits) ++at;
  return text.substr(start, at - start);
}

int compare_numbers(std::string one, std::string other) {
  one.erase(0, std::min(one.find_first_not_of('0'), one.size()));
  other.erase(0, std::min(other.find_first_not_of('0'), other.size()));
  if (one.size() != other.size()) return one.size() < other.size() ? -1 : 1;
  return one.compare(other);
}

std::vector<std::string> children(const fs::path& folder, const std::set<std::string>& suffixes) {
  std::vector<std::string> found;
  try {
    for (const fs::directory_entry& child : fs::directory_iterator(folder)) {
      const std::string name = child.path().filename().string();
      std::error_code ignored;
      if (name[0] != '.' && suffixes.count(lower(child.path().extension().string())) == 1 &&
          child.is_regular_file(ignored)) {
        found.push_back(name);
      }
    }
  } catch (const fs::filesystem_error& error) {
    throw Error(folder.string() + " cannot be read (" + error.code().message() +
                "). Check its rights.");
  }
  std::sort(found.begin(), found.end());
  std::stable_sort(found.begin(), found.end(), natural_less);
  return found;
}

#if VAD_WITH_FFMPEG
class Folder final : public Source {
 public:
  Folder(const std::string& path, std::vector<std::string> files, const ClipSpec& spec,
         const SourceOptions& options)
      : path_(path), files_(std::move(files)) {
    FramePtr first;
    for (std::size_t i = 0; i < files_.size() && !first; ++i) first = image(i);
    if (!first) throw Error(path + " holds no image that decodes. Give another folder.");
    info_.name = path;
    info_.kind = "frame folder";
    info_.codec = lower(fs::path(files_.front()).extension().string().substr(1));
    info_.width = first->width;
    info_.height = first->height;
    info_.fps = options.fps.value_or(spec.fps.value_or(default_fps));
    info_.frames = static_cast<std::int64_t>(files_.size());
  }

  const SourceInfo& info() const override { return info_; }
  const SourceStats& stats() const override { return stats_; }
  void stop() override { stopped_ = true; }

  // An image that does not decode leaves a hole and is counted.
  bool next(Frame& frame) override {
    while (at_ < files_.size() && !stopped_) {
      const std::size_t index = at_++;
      FramePtr picture = image(index);
      if (!picture) {
        ++stats_.undecodable_packets;
        hole_ = "undecodable image";
        continue;
      }
      const std::pair<int, int> size(picture->width, picture->height);
      if (size_ && *size_ != size) hole_ = "change of resolution";
      size_ = size;
      ++stats_.frames;
      if (hole_) ++stats_.holes[*hole_];
      frame.index = static_cast<std::int64_t>(index);
      frame.pts_s = static_cast<double>(index) / info_.fps;
      frame.picture = picture_of(std::move(picture), scaler_);
      frame.hole = std::exchange(hole_, std::nullopt);
      frame.damaged = false;
      return true;
    }
    return false;
  }

 private:
  FramePtr image(std::size_t index) const { return read_image((path_ / files_[index]).string()); }

  fs::path path_;
  std::vector<std::string> files_;
  SourceInfo info_;
  SourceStats stats_;
  std::shared_ptr<FrameScaler> scaler_ = std::make_shared<FrameScaler>();
  std::size_t at_ = 0;
  std::optional<std::pair<int, int>> size_;
  std::optional<std::string> hole_;
  std::atomic<bool> stopped_{false};
};
#endif

}  // namespace

bool natural_less(const std::string& one, const std::string& other) {
  const std::string a = lower(one);
  const std::string b = lower(other);
  std::size_t i = 0;
  std::size_t j = 0;
  for (bool digits = false; i < a.size() || j < b.size(); digits = !digits) {
    const std::string left = part(a, i, digits);
    const std::string right = part(b, j, digits);
    // The end of a name comes before a number, as a shorter list comes before a longer one.
    if (digits && left.empty() != right.empty()) return left.empty();
    const int order = digits ? compare_numbers(left, right) : left.compare(right);
    if (order != 0) return order < 0;
  }
  return false;
}

std::unique_ptr<Source> open_folder(const std::string& path, const ClipSpec& spec,
                                    const SourceOptions& options) {
  std::vector<std::string> images = children(path, image_suffixes);
  if (images.empty()) {
    const std::size_t videos = children(path, video_suffixes).size();
    throw Error(path +
                (videos > 0 ? " holds " + std::to_string(videos) + " videos but no frames"
                            : " holds no frames") +
                ". Give a video file or a folder of images.");
  }
#if VAD_WITH_FFMPEG
  return std::make_unique<Folder>(path, std::move(images), spec, options);
#else
  (void)spec;
  (void)options;
  throw Error(path + " holds images, which need FFmpeg, and this build lacks it. Build with "
                     "VAD_FFMPEG=ON, or give a .y4m file.");
#endif
}

}  // namespace vad::sources
