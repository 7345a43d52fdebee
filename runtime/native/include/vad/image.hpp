// A decoded picture as a decoder leaves it: planes that somebody else owns.

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace vad {

enum class PixelFormat : std::uint8_t {
  gray,  // one plane
  rgb,   // one plane, three bytes a pixel
  bgr,   // the same, blue first
  nv12,  // a plane of luma, one of Cb and Cr in pairs, half the size in both directions
  yuv,   // planes of luma, Cb and Cr; the last two of any size (4:2:0, 4:2:2, 4:4:4)
};

// From Y'CbCr to R'G'B' (ITU-R BT.601-7, BT.709-6, BT.2020-2).
enum class Matrix : std::uint8_t { bt601, bt709, bt2020 };

struct Plane {
  const std::uint8_t* data = nullptr;
  std::ptrdiff_t stride = 0;  // bytes from one row to the next; negative = bottom up
  int width = 0;              // samples in a row: pixels, for nv12's second plane pairs
  int height = 0;
};

// A view: valid as long as the memory that it points to.
struct Image {
  PixelFormat format = PixelFormat::gray;
  int width = 0;
  int height = 0;
  std::array<Plane, 3> planes{};
  Matrix matrix = Matrix::bt601;
  bool full_range = false;  // luma of 0..255, not 16..235
};

}  // namespace vad
