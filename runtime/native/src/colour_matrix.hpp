// The portable resizer's colours, for the processor and the GPU.

#pragma once

#include <cstdint>

#include "vad/image.hpp"

namespace vad {

// Whole numbers of 1/65536; docs/portable-resizer.md has the table.
struct ColourMatrix {
  std::int32_t luma_offset = 0;
  std::int32_t luma = 65536;
  std::int32_t red_cr = 0;
  std::int32_t green_cb = 0;  // to be taken away, as green_cr
  std::int32_t green_cr = 0;
  std::int32_t blue_cb = 0;
};

ColourMatrix colour_matrix(Matrix matrix, bool full_range);

}  // namespace vad
