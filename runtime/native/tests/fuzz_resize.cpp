// fuzz_resize COUNT SEED: resizes COUNT random pictures with every instruction set at hand and
// prints a line for each, from which another implementation can repeat the case:
//
//   case=7 seed=12345 pixels=random format=nv12 width=64 height=48 planes=64x48@80,32x24@-64
//   matrix=bt709 range=full target=24x32 colour=rgb interpolation=area digest=<16 hex digits>
//
// (one line). Planes are WIDTHxHEIGHT@STRIDE of samples, a stride below 0 is bottom up; the target
// is HEIGHTxWIDTH. `seed` is that of the pixels: byte i of plane p (rows from the top, without
// padding, samples of an interleaved plane one by one) is the top byte of SplitMix64 number
// seed + p * 2^32 + i, that is of mixed() in resize_cases.hpp; with pixels=edges 0 or 255 (below
// 128 or not), with pixels=white always 255. The digest is FNV-1a of 64 bits over the output.
//
// Exits with 1 where two instruction sets differ, with 2 for wrong arguments.

#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "resize_cases.hpp"
#include "vad/resize.hpp"

namespace {

std::uint64_t fnv1a(const std::vector<std::uint8_t>& bytes) {
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (const std::uint8_t byte : bytes) hash = (hash ^ byte) * 0x100000001b3U;
  return hash;
}

std::string planes_text(const vad::Image& image) {
  std::string text;
  for (int i = 0; i < resize_cases::planes_of(image.format); ++i) {
    const vad::Plane& plane = image.planes[static_cast<std::size_t>(i)];
    text += (i == 0 ? "" : ",") + std::to_string(plane.width) + "x" +
            std::to_string(plane.height) + "@" + std::to_string(plane.stride);
  }
  return text;
}

void print_case(std::uint64_t index, const resize_cases::Case& made, std::uint64_t digest) {
  using resize_cases::name;
  const vad::Image& image = made.image;
  const vad::Target& target = made.target;
  std::printf("case=%" PRIu64 " seed=%" PRIu64
              " pixels=%s format=%s width=%d height=%d planes=%s matrix=%s range=%s target=%dx%d"
              " colour=%s interpolation=%s digest=%016" PRIx64 "\n",
              index, made.seed, name(made.pixels), name(image.format).c_str(), image.width,
              image.height, planes_text(image).c_str(), name(image.matrix).c_str(),
              image.full_range ? "full" : "limited", target.height, target.width,
              target.colour == vad::Colour::gray ? "gray" : "rgb",
              target.interpolation == vad::Interpolation::area ? "area" : "bilinear", digest);
}

bool read_number(const char* text, std::uint64_t& number) {
  char* end = nullptr;
  number = std::strtoull(text, &end, 10);
  return end != text && *end == '\0';
}

}  // namespace

int main(int count_of_arguments, char** arguments) {
  std::uint64_t count = 0;
  std::uint64_t seed = 0;
  if (count_of_arguments != 3 || !read_number(arguments[1], count) ||
      !read_number(arguments[2], seed)) {
    std::fputs("usage: fuzz_resize COUNT SEED\n", stderr);
    return 2;
  }
  const std::vector<vad::Simd> sets = vad::usable_simd();
  for (std::uint64_t i = 0; i < count; ++i) {
    // A 32-bit seed for each case, so that counters of pixels seldom overlap and never wrap.
    const std::uint64_t case_seed = resize_cases::mixed(seed + (i << 32U)) >> 32U;
    const resize_cases::Case made = resize_cases::any_case(case_seed);
    std::uint64_t first = 0;
    for (const vad::Simd simd : sets) {
      std::vector<std::uint8_t> out(made.target.bytes(), 0x5a);
      vad::Resizer resizer(made.target, simd);
      resizer(made.image, out.data());
      const std::uint64_t digest = fnv1a(out);
      if (simd == sets.front()) {
        first = digest;
        print_case(i, made, digest);
      } else if (digest != first) {
        std::fprintf(stderr, "case %" PRIu64 ": %s differs from %s\n", i, vad::name(simd),
                     vad::name(sets.front()));
        return 1;
      }
    }
  }
  return 0;
}
