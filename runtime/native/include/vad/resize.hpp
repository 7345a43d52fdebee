// The portable resizer: from a decoder's planes to model size, in whole numbers only.
//
// Its result is defined, not just computed: the exact mean (or the exact bilinear value) rounded
// half up, then a fixed table of integers for the colours (docs/portable-resizer.md). So every
// processor, Python's fallback and the GPU give the same bytes.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "vad/image.hpp"

namespace vad {

enum class Colour : std::uint8_t { gray, rgb };
enum class Interpolation : std::uint8_t { area, bilinear };

struct Target {
  int height = 0;
  int width = 0;
  Colour colour = Colour::rgb;
  Interpolation interpolation = Interpolation::area;

  int channels() const noexcept { return colour == Colour::gray ? 1 : 3; }
  std::size_t bytes() const noexcept {
    return static_cast<std::size_t>(height) * static_cast<std::size_t>(width) *
           static_cast<std::size_t>(channels());
  }
};

// Instruction sets that the kernels were compiled for.
enum class Simd : std::uint8_t { baseline, avx2, avx512 };

const char* name(Simd simd) noexcept;  // "baseline" is SSE2 on x86-64 and NEON on aarch64
// Those that were compiled in and that this processor runs, best first. VAD_SIMD=baseline|avx2
// leaves out the better ones.
std::vector<Simd> usable_simd();

// Keeps weights and work space for the last size that it saw. Not for several threads.
class Resizer {
 public:
  // Throws std::invalid_argument for a size outside 1..65535, or a `simd` not in usable_simd().
  explicit Resizer(Target target);
  Resizer(Target target, Simd simd);
  ~Resizer();
  Resizer(Resizer&&) noexcept;
  Resizer& operator=(Resizer&&) noexcept;

  const Target& target() const noexcept;
  Simd simd() const noexcept;

  // Writes target().bytes() bytes: shape (height, width, channels), contiguous. Reads the planes
  // and nothing beyond them. Throws std::invalid_argument for an image that is none: a size outside
  // 1..65535, a first plane of another size than the image, a missing plane, a stride that is
  // shorter than a row (of more than one).
  void operator()(const Image& image, std::uint8_t* out);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace vad
