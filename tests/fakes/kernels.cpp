// The kernels of runtime/native/cuda on the processor, for the fake libcuda.

#include "resize_emulated.hpp"

extern "C" void vad_resize(unsigned blocks_x, unsigned blocks_y, unsigned threads_x,
                           unsigned threads_y, const void* parameter) {
  if (threads_x != vad::cuda::kBlockX || threads_y != vad::cuda::kBlockY) return;
  vad::cuda::emulate_grid(blocks_x, blocks_y,
                          *static_cast<const vad::cuda::ResizeArguments*>(parameter));
}
