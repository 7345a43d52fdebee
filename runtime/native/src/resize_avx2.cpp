// The kernels for AVX2; compiled with that instruction set switched on, and empty without.

#include "resize_kernels.hpp"

#if defined(__AVX2__)

#define VAD_SIMD_NAMESPACE set_avx2
#define VAD_VECTOR_BYTES 32
#include "resize_kernels.inl"

namespace vad {
namespace kernels {

const Kernels* avx2() noexcept { return &set_avx2::table; }

}  // namespace kernels
}  // namespace vad

#else

namespace vad {
namespace kernels {

const Kernels* avx2() noexcept { return nullptr; }

}  // namespace kernels
}  // namespace vad

#endif
