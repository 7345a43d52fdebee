// What the resizer asks of an instruction set: three kernels, compiled once for each.
//
// Plain structures and pointers only. A template of the standard library that a kernel used would
// be compiled for AVX-512 here and for SSE2 there under one name, and the linker keeps either.

#pragma once

#include <cstddef>
#include <cstdint>

#include "colour_matrix.hpp"

namespace vad {
namespace kernels {

// Where output i of an axis begins: `fraction` parts of sample `index`, out of `parts` a sample.
// An axis has one more of them than outputs, and the last one is the end: index == samples.
struct Edge {
  std::int32_t index = 0;
  std::uint32_t fraction = 0;
};

// Two neighbours and the share of the second one. A second row of share 0 is not read, and may not
// be there; a second column always is, except in a plane of one column.
struct Pair {
  std::int32_t left = 0;
  std::uint32_t weight = 0;
};

// Samples of one plane, `step` of them interleaved: 1, 2 for nv12's chroma, 3 for packed colours.
struct Source {
  const std::uint8_t* data = nullptr;
  std::ptrdiff_t stride = 0;
  int width = 0;  // without the step
  int height = 0;
  int step = 1;
};

// A quotient of at most 255, rounded half up: (n + half) / total.
struct Divisor {
  std::uint64_t total = 1;
  std::uint64_t half = 0;
};

// Below this, the kernels compute in 32 bits: 256 * total is a positive int.
constexpr std::uint64_t small_total = std::uint64_t{1} << 22;
// A mean over this many parts of a row still fits 16 bits: 255 * 257 == 65535.
constexpr std::uint32_t small_parts = 257;
// Outputs are made in tiles of up to this many rows; work space is padded to whole tiles.
constexpr int tile = 16;

struct Area {
  Source source;
  int width = 0;  // of the result
  int height = 0;
  const Edge* columns = nullptr;  // width + 1
  const Edge* rows = nullptr;     // height + 1
  std::uint32_t column_parts = 1;
  std::uint32_t row_parts = 1;
  bool small = false;  // small_total and small_parts hold
  Divisor divisor;
  // Work space, for `pitch` (a multiple of 2 * tile, more than a row's samples) columns.
  std::size_t pitch = 0;
  std::uint16_t* sums = nullptr;        // tile rows of pitch: even columns, then odd ones
  std::uint16_t* turned = nullptr;      // the same with rows and columns exchanged
  std::uint16_t* quotients = nullptr;   // tile columns of the padded width
  std::uint32_t* wide = nullptr;        // one row of pitch, where !small
  std::uint8_t* out[3] = {};            // `step` planes of width * height
};

struct Bilinear {
  Source source;
  int width = 0;
  int height = 0;
  const std::int32_t* lefts = nullptr;     // width: `left` and `weight` of each column
  const std::uint32_t* weights = nullptr;
  const Pair* rows = nullptr;              // height
  std::uint32_t column_parts = 2;  // what the weights of two neighbours add up to
  std::uint32_t row_parts = 2;
  bool small = false;
  Divisor divisor;
  // Work space: two rows of blended samples, `step` times `width` of each, and one of pairs.
  std::uint32_t* blended[2] = {};
  std::uint16_t* pairs = nullptr;
  std::uint8_t* out[3] = {};
};

// What the colours of the source need.
struct Colours {
  enum class Kind : std::uint8_t { gray_to_gray, gray_to_rgb, rgb_to_gray, rgb_to_rgb, yuv_to_rgb };
  Kind kind = Kind::gray_to_gray;
  ColourMatrix matrix;
};

struct Kernels {
  void (*area)(const Area& job);
  void (*bilinear)(const Bilinear& job);
  // `planes`: luma or red first. `work`: 3 * `work_pixels` bytes.
  void (*colours)(const Colours& colours, const std::uint8_t* const* planes, std::size_t pixels,
                  std::uint8_t* work, std::uint8_t* out);
};

constexpr std::size_t work_pixels = 512;

// Null where the compiler was not asked for that instruction set.
const Kernels* baseline() noexcept;
const Kernels* avx2() noexcept;
const Kernels* avx512() noexcept;

}  // namespace kernels
}  // namespace vad
