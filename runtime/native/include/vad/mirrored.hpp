// One piece of memory, mapped twice back to back.
//
//     address   0         n        2n
//               |abcdefgh||abcdefgh|      byte i and byte i + n are the same byte
//                    |----------|         so every stretch of n bytes is contiguous
//
// A ring buffer on top of it hands out its last frames as one plain array, wherever it has
// wrapped, and never moves a frame.

#pragma once

#include <cstddef>
#include <cstdint>

namespace vad {

class MirroredBuffer {
 public:
  // `bytes` must be a positive multiple of page_size(): only whole pages can be mapped twice.
  // The memory is zero and costs no RAM until it is touched. Throws std::invalid_argument for a
  // size that cannot be, std::system_error when the kernel refuses.
  explicit MirroredBuffer(std::size_t bytes);
  ~MirroredBuffer();

  // Views point into the mapping, so it neither moves nor is copied. A forked child shares the
  // memory with its parent (it is not copy-on-write).
  MirroredBuffer(const MirroredBuffer&) = delete;
  MirroredBuffer& operator=(const MirroredBuffer&) = delete;

  // 2 * capacity() bytes may be read and written here.
  std::uint8_t* data() const noexcept { return data_; }
  // Bytes of memory, counted once.
  std::size_t capacity() const noexcept { return capacity_; }

  static std::size_t page_size() noexcept;

 private:
  std::uint8_t* data_;
  std::size_t capacity_;
};

}  // namespace vad
