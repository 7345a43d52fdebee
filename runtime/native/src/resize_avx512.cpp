// The kernels for AVX-512; compiled with that instruction set switched on, and empty without.

#include "resize_kernels.hpp"

#if defined(__AVX512BW__)

#define VAD_SIMD_NAMESPACE set_avx512
#define VAD_VECTOR_BYTES 64
#include "resize_kernels.inl"

namespace vad {
namespace kernels {

const Kernels* avx512() noexcept { return &set_avx512::table; }

}  // namespace kernels
}  // namespace vad

#else

namespace vad {
namespace kernels {

const Kernels* avx512() noexcept { return nullptr; }

}  // namespace kernels
}  // namespace vad

#endif
