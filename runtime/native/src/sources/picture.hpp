// Pictures at model size: what all sources have in common.

#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>

#include "vad/image.hpp"
#include "vad/manifest.hpp"
#include "vad/resize.hpp"
#include "vad/source.hpp"

namespace vad::sources {

constexpr double default_fps = 25.0;  // of what names none

// The portable resizer, kept for the next picture. Any thread may call it, one at a time does.
class Portable {
 public:
  void write(const Image& image, const Target& target, std::uint8_t* out);

 private:
  std::mutex mutex_;
  std::optional<Resizer> resizer_;
};

// Planes in plain memory, which `owner` keeps alive.
class PlanePicture final : public Picture {
 public:
  PlanePicture(const Image& image, std::shared_ptr<const void> owner,
               std::shared_ptr<Portable> portable)
      : image_(image), owner_(std::move(owner)), portable_(std::move(portable)) {}

  void write(const ClipSpec& spec, std::uint8_t* out) override;

 private:
  Image image_;
  std::shared_ptr<const void> owner_;
  std::shared_ptr<Portable> portable_;
};

// Throws Error where this build cannot make frames as `spec` wants them.
void require_resizer(const ClipSpec& spec);

}  // namespace vad::sources
