// Built into a fatbin, one machine code for each architecture (cmake/VadCuda.cmake), and loaded
// through the driver API by src/cuda/resize.cpp and vad_runtime/cuda/resize.py.

#include "resize_device.hpp"

extern "C" __global__ void __launch_bounds__(vad::cuda::kBlockX* vad::cuda::kBlockY)
    vad_resize(const vad::cuda::ResizeArguments arguments) {
  const unsigned x = blockIdx.x * vad::cuda::kBlockX + threadIdx.x;
  const unsigned y = blockIdx.y * vad::cuda::kBlockY + threadIdx.y;
  if (x < static_cast<unsigned>(arguments.width) && y < static_cast<unsigned>(arguments.height)) {
    vad::cuda::resize_pixel(arguments, x, y);
  }
}
