// The kernels' one body. The file that includes it names a namespace (VAD_SIMD_NAMESPACE) and the
// size of a vector register (VAD_VECTOR_BYTES); the compiler's vector extensions do the rest.

#include "resize_kernels.hpp"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the kernels take vectors of 32 bits for two of 16, lower half first"
#endif

namespace vad {
namespace kernels {
namespace VAD_SIMD_NAMESPACE {
namespace {

// Rows of a tile, one in each lane once it is turned.
constexpr int lanes = VAD_VECTOR_BYTES >= 32 ? 16 : 8;
static_assert(tile % lanes == 0, "work space is padded to whole tiles");

// Down a column: a register full, at the widest.
typedef std::uint16_t Wide __attribute__((vector_size(VAD_VECTOR_BYTES)));
typedef std::uint8_t Bytes __attribute__((vector_size(lanes), aligned(1), may_alias));
typedef std::uint16_t Lanes __attribute__((vector_size(lanes * 2)));
// The same lanes two by two; conversions between the two are casts of the register.
typedef std::uint32_t Halves __attribute__((vector_size(lanes * 2)));
typedef std::int32_t Signed __attribute__((vector_size(lanes * 2)));
typedef float Floats __attribute__((vector_size(lanes * 2)));

// Loads and stores at any address.
typedef Wide WideLoose __attribute__((aligned(1), may_alias));
typedef Lanes LanesLoose __attribute__((aligned(1), may_alias));
typedef Halves HalvesLoose __attribute__((aligned(1), may_alias));

#if defined(__clang__)
#define VAD_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define VAD_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Lanes{__VA_ARGS__})
#endif

// `zip_low` and `zip_high` interleave two vectors within each 128 bits, as x86's unpack does.
#if VAD_VECTOR_BYTES >= 32
inline Lanes zip_low(Lanes a, Lanes b) {
  return VAD_SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 8, 24, 9, 25, 10, 26, 11, 27);
}
inline Lanes zip_high(Lanes a, Lanes b) {
  return VAD_SHUFFLE(a, b, 4, 20, 5, 21, 6, 22, 7, 23, 12, 28, 13, 29, 14, 30, 15, 31);
}
inline Lanes lower_halves(Lanes a, Lanes b) {
  return VAD_SHUFFLE(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
}
inline Lanes upper_halves(Lanes a, Lanes b) {
  return VAD_SHUFFLE(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
}
#else
inline Lanes zip_low(Lanes a, Lanes b) { return VAD_SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
inline Lanes zip_high(Lanes a, Lanes b) { return VAD_SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }
#endif

// Three perfect shuffles exchange rows and columns of 8x8.
inline void turn_eight(Lanes* block) {
  for (int round = 0; round < 3; ++round) {
    Lanes next[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      next[2 * i] = zip_low(block[i], block[i + 4]);
      next[2 * i + 1] = zip_high(block[i], block[i + 4]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) block[i] = next[i];
  }
}

// block[i][k] becomes block[k][i]; `lanes` vectors.
inline void turn(Lanes* block) {
  turn_eight(block);
#if VAD_VECTOR_BYTES >= 32
  turn_eight(block + 8);
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const Lanes first = block[i];
    const Lanes second = block[i + 8];
    block[i] = lower_halves(first, second);
    block[i + 8] = upper_halves(first, second);
  }
#endif
}

// n / total for n < 256 * total <= 2^30, from an estimate in floating point that is never too small
// and at most one too large, and a check in whole numbers. The estimate: 1 / total is made larger
// by 2^-20, which is more than the three roundings take away (3 * 2^-23 in any rounding mode), and
// 256 * 2^-19 is far below 1.
struct Quotient {
  Floats inverse;
  Signed total;

  explicit Quotient(std::uint64_t divisor)
      : inverse(Floats{} + (1.0F + 1.0F / 1048576.0F) / static_cast<float>(divisor)),
        total(Signed{} + static_cast<std::int32_t>(divisor)) {}

  Halves operator()(Halves dividend) const {
    const Signed n = reinterpret_cast<Signed>(dividend);
    const Floats estimate = __builtin_convertvector(n, Floats) * inverse;
    const Signed quotient = __builtin_convertvector(estimate, Signed);
    // A comparison that holds is -1 in its lane.
    return reinterpret_cast<Halves>(quotient + (quotient * total > n));
  }
};

#include "resize_area.inl"
#include "resize_bilinear.inl"
#include "resize_colours.inl"

constexpr Kernels table = {area, bilinear, colours};

}  // namespace
}  // namespace VAD_SIMD_NAMESPACE
}  // namespace kernels
}  // namespace vad
