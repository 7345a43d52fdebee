#include "vad/ring.hpp"

#include <cstring>
#include <limits>
#include <new>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "vad/error.hpp"
#include "vad/mirrored.hpp"

namespace vad {
namespace {

// What the two rings have in common: both have room for 2 * capacity frames, and frame i is to be
// found at i + capacity too.
class HostRing : public Ring {
 public:
  HostRing(std::size_t frames, std::size_t capacity, std::size_t frame_bytes)
      : frames_(frames), capacity_(capacity), frame_bytes_(frame_bytes) {}

  std::uint8_t* slot() override { return at(committed_ % capacity_); }

  void commit() override {
    finish(slot());
    ++committed_;
  }

  const std::uint8_t* latest() const override {
    if (committed_ < frames_) {
      throw std::logic_error("the ring holds " + std::to_string(committed_) + " of " +
                             std::to_string(frames_) + " frames; commit more first");
    }
    return at((committed_ - frames_) % capacity_);
  }

  void clear() override { committed_ = 0; }

 protected:
  std::size_t half_bytes() const noexcept { return capacity_ * frame_bytes_; }
  std::size_t frame_bytes() const noexcept { return frame_bytes_; }

 private:
  virtual std::uint8_t* memory() const noexcept = 0;
  virtual void finish(std::uint8_t* frame) = 0;

  std::uint8_t* at(std::size_t frame) const noexcept { return memory() + frame * frame_bytes_; }

  std::size_t frames_;
  std::size_t capacity_;
  std::size_t frame_bytes_;
  std::size_t committed_ = 0;
};

class MirroredRing final : public HostRing {
 public:
  MirroredRing(std::size_t frames, std::size_t capacity, std::size_t frame_bytes)
      : HostRing(frames, capacity, frame_bytes), buffer_(capacity * frame_bytes) {}

 private:
  std::uint8_t* memory() const noexcept override { return buffer_.data(); }
  void finish(std::uint8_t*) override {}

  MirroredBuffer buffer_;
};

class TwofoldRing final : public HostRing {
 public:
  TwofoldRing(std::size_t frames, std::size_t capacity, std::size_t frame_bytes)
      : HostRing(frames, capacity, frame_bytes), memory_(2 * capacity * frame_bytes) {}

 private:
  std::uint8_t* memory() const noexcept override { return memory_.data(); }
  void finish(std::uint8_t* frame) override {
    std::memcpy(frame + half_bytes(), frame, frame_bytes());
  }

  mutable std::vector<std::uint8_t> memory_;
};

// The smallest count of at least `frames` frames that fills whole pages. Frames of an odd size do
// so only every page_size() frames, which may be a lot of memory: none if it is more than four
// times the need and not negligible either.
std::optional<std::size_t> page_aligned_capacity(std::size_t frames, std::size_t frame_bytes) {
  const std::size_t page = MirroredBuffer::page_size();
  const std::size_t step = page / std::gcd(page, frame_bytes);
  const std::size_t capacity = (frames + step - 1) / step * step;
  constexpr std::size_t negligible_bytes = std::size_t{1} << 20;
  if (capacity > 4 * frames + negligible_bytes / frame_bytes) return std::nullopt;
  return capacity;
}

[[noreturn]] void refuse_memory(int frames, std::size_t frame_bytes) {
  throw Error("There is no memory for " + std::to_string(frames) + " frames of " +
              std::to_string(frame_bytes) + " bytes. Use a bundle with smaller clips.");
}

}  // namespace

std::unique_ptr<Ring> host_ring(int frames, std::size_t frame_bytes) {
  if (frames < 1 || frame_bytes < 1) {
    throw std::invalid_argument("a ring holds at least one frame of at least one byte");
  }
  const auto length = static_cast<std::size_t>(frames);
  // Room for one more, so that a picture that fails halfway spoils no frame of the last clip.
  const std::size_t wanted = length + 1;
  constexpr std::size_t most = std::numeric_limits<std::ptrdiff_t>::max();
  if (frame_bytes > most / 16 / wanted) refuse_memory(frames, frame_bytes);
  try {
    if (const auto capacity = page_aligned_capacity(wanted, frame_bytes)) {
      try {
        return std::make_unique<MirroredRing>(length, *capacity, frame_bytes);
      } catch (const std::system_error&) {
        // An old kernel or a sandbox without memfd_create: the other ring gives the same clips.
      }
    }
    return std::make_unique<TwofoldRing>(length, wanted, frame_bytes);
  } catch (const std::bad_alloc&) {
    refuse_memory(frames, frame_bytes);
  } catch (const std::length_error&) {
    refuse_memory(frames, frame_bytes);
  }
}

}  // namespace vad
