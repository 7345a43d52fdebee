// The kernel of resize.cu on the processor, for tests: every thread of every block, one by one.

#pragma once

#include "resize_device.hpp"

namespace vad::cuda {

inline void emulate_grid(unsigned blocks_x, unsigned blocks_y, const ResizeArguments& arguments) {
  for (unsigned block_y = 0; block_y < blocks_y; ++block_y) {
    for (unsigned block_x = 0; block_x < blocks_x; ++block_x) {
      for (unsigned thread = 0; thread < kBlockX * kBlockY; ++thread) {
        const unsigned x = block_x * kBlockX + thread % kBlockX;
        const unsigned y = block_y * kBlockY + thread / kBlockX;
        if (x < static_cast<unsigned>(arguments.width) &&
            y < static_cast<unsigned>(arguments.height)) {
          resize_pixel(arguments, x, y);
        }
      }
    }
  }
}

}  // namespace vad::cuda
