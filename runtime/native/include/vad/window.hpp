// Frames to clips: a ring, a hop, and no clip across a hole. As vad_runtime.windows.

#pragma once

#include <cstdint>
#include <deque>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "vad/manifest.hpp"
#include "vad/ring.hpp"
#include "vad/source.hpp"

namespace vad {

// Says in front of which frames something is missing.
class HoleRule {
 public:
  explicit HoleRule(std::optional<double> fps);  // none = the source itself says where
  std::optional<std::string> cause(const Frame& frame);

 private:
  double longest_s_ = std::numeric_limits<double>::infinity();
  std::optional<double> before_s_;
};

struct Clip {
  const std::uint8_t* pixels = nullptr;  // as Ring::latest()
  std::vector<std::int64_t> indices;     // of each of the T frames
};

class Window {
 public:
  // Throws Error where `hop` is no positive multiple of the stride. The ring outlives the window.
  Window(const ClipSpec& spec, Ring& ring, std::optional<int> hop = std::nullopt);

  int hop() const noexcept;
  bool empty() const noexcept { return seen_ == 0; }
  // Takes the next frame; a clip when one is due. The picture is written into the ring only if
  // the stride keeps it.
  std::optional<Clip> push(const Frame& frame);
  // Empties the window at a hole or at the end; a last clip if frames have come that no clip held.
  std::optional<Clip> flush();

 private:
  Clip clip();

  ClipSpec spec_;
  Ring& ring_;
  int hop_kept_ = 1;
  std::deque<std::int64_t> indices_;
  std::int64_t seen_ = 0;
  std::int64_t kept_ = 0;
  std::int64_t in_clips_ = 0;
};

}  // namespace vad
