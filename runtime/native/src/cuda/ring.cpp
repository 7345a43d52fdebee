#include <algorithm>
#include <stdexcept>
#include <utility>

#include "driver.hpp"

namespace vad::cuda {

namespace {

std::size_t checked(int frames) {
  if (frames < 1) throw std::invalid_argument("a ring needs at least one frame");
  return static_cast<std::size_t>(frames);
}

}  // namespace

DeviceRing::DeviceRing(Stream& stream, int frames, const Target& target, bool resize,
                       std::size_t room_bytes)
    : stream_(stream),
      frames_(checked(frames)),
      frame_bytes_(target.bytes()),
      ring_(stream.device(), frames_ * frame_bytes_),
      clip_(stream.device(), std::max(room_bytes, frames_ * frame_bytes_)),
      slots_(stream.device(), frames_ * frame_bytes_) {
  if (resize && no_kernels(stream.device()).empty()) {
    resizer_ = std::make_unique<DeviceResizer>(stream.device(), target);
  }
  stream.device()->activate();
  check("cuMemsetD8Async",
        api().memory_set(address_of(clip_.data()), 0, clip_.bytes(), stream.handle()));
  stream.synchronise();
}

DeviceRing::~DeviceRing() {
  try {
    stream_.synchronise();  // copies from our slots may be under way
  } catch (const Error&) {
  }
}

std::uint8_t* DeviceRing::slot() {
  // An older copy from this slot may be under way. It may bring what it likes: the next one goes to
  // the same place behind it, and who called latest() has waited since.
  return slots_.data() + written_ % frames_ * frame_bytes_;
}

void DeviceRing::commit() {
  const std::size_t offset = written_ % frames_ * frame_bytes_;
  stream_.copy_in(ring_.data() + offset, slots_.data() + offset, frame_bytes_);
  ++written_;
}

bool DeviceRing::write_device(const Image& image) {
  if (resizer_ == nullptr) return false;
  (*resizer_)(image, ring_.data() + written_ % frames_ * frame_bytes_, stream_);
  // The decoder takes its picture back when we return.
  stream_.synchronise();
  ++written_;
  return true;
}

const std::uint8_t* DeviceRing::latest() const {
  if (written_ < frames_) {
    throw std::logic_error("the ring holds " + std::to_string(written_) + " of " +
                           std::to_string(frames_) + " frames");
  }
  //  written_ % T = 3:  ring  |fgh|abcde|  ->  clip  |abcde|fgh|
  const std::size_t newer = written_ % frames_ * frame_bytes_;
  const std::size_t older = ring_.bytes() - newer;
  stream_.copy_within(clip_.data(), ring_.data() + newer, older);
  if (newer > 0) stream_.copy_within(clip_.data() + older, ring_.data(), newer);
  return clip_.data();
}

void DeviceRing::clear() { written_ = 0; }

int DeviceRing::device() const noexcept { return stream_.device()->gpu().index; }

}  // namespace vad::cuda
