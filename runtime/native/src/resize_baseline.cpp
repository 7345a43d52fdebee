// The kernels for what every processor of the architecture has: SSE2 on x86-64, NEON on aarch64.

#define VAD_SIMD_NAMESPACE set_baseline
#define VAD_VECTOR_BYTES 16
#include "resize_kernels.inl"

namespace vad {
namespace kernels {

const Kernels* baseline() noexcept { return &set_baseline::table; }

}  // namespace kernels
}  // namespace vad
