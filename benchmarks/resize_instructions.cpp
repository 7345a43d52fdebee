// resize_instructions WHAT SIMD FORMAT COLOUR INTERPOLATION: resizes one picture, with the compiled
// kernels (WHAT = kernel), with one plain loop over the same samples (WHAT = plain), or not at all
// (WHAT = nothing). callgrind counts each; kernel and plain less nothing are what the work takes.
//
// The plain loop is what anybody would write first: for each output, and each of its channels, a sum
// over its part of the source in whole numbers. It is compiled with the same flags as everything
// else, and shares nothing with the kernels but the rule (docs/portable-resizer.md). Prints a digest
// of the result, equal for `kernel` and `plain`.

#include <algorithm>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "vad/resize.hpp"

namespace {

constexpr int source_width = 640;
constexpr int source_height = 360;
constexpr int size = 112;

using Bytes = std::vector<std::uint8_t>;

struct Picture {
  std::vector<Bytes> planes;
  vad::Image image;
};

Bytes drawn(std::size_t count) {
  Bytes bytes(count);
  std::uint32_t state = 1;
  for (std::uint8_t& byte : bytes) {
    state = state * 1664525U + 1013904223U;
    byte = static_cast<std::uint8_t>(state >> 24U);
  }
  return bytes;
}

void add_plane(Picture& picture, int width, int height, int step) {
  const std::size_t index = picture.planes.size();
  picture.planes.push_back(drawn(static_cast<std::size_t>(width * step) *
                                 static_cast<std::size_t>(height)));
  picture.image.planes[index] = {picture.planes.back().data(), width * step, width, height};
}

Picture picture_of(const std::string& format) {
  Picture picture;
  picture.planes.reserve(3);
  picture.image.width = source_width;
  picture.image.height = source_height;
  const bool rgb = format == "rgb";
  picture.image.format = rgb ? vad::PixelFormat::rgb : vad::PixelFormat::yuv;
  add_plane(picture, source_width, source_height, rgb ? 3 : 1);
  if (!rgb) {
    add_plane(picture, source_width / 2, source_height / 2, 1);
    add_plane(picture, source_width / 2, source_height / 2, 1);
  }
  return picture;
}

// ---- the plain loop -----------------------------------------------------------------------------

// How much of sample `at` lies in part `i` of `parts`, in 1 / parts of a sample.
inline std::int64_t covered(std::int64_t at, std::int64_t i, std::int64_t samples,
                            std::int64_t parts) {
  return std::min((at + 1) * parts, (i + 1) * samples) - std::max(at * parts, i * samples);
}

std::uint8_t area_at(const vad::Plane& plane, int step, int channel, int y, int x) {
  const std::int64_t top = std::int64_t{y} * plane.height / size;
  const std::int64_t left = std::int64_t{x} * plane.width / size;
  std::int64_t sum = 0;
  for (std::int64_t row = top; row * size < std::int64_t{y + 1} * plane.height; ++row) {
    const std::int64_t down = covered(row, y, plane.height, size);
    for (std::int64_t col = left; col * size < std::int64_t{x + 1} * plane.width; ++col) {
      sum += plane.data[plane.stride * row + col * step + channel] * down *
             covered(col, x, plane.width, size);
    }
  }
  const std::int64_t total = std::int64_t{plane.width} * plane.height;
  return static_cast<std::uint8_t>((2 * sum + total) / (2 * total));
}

struct Neighbours {
  int first;
  int second;
  std::int64_t share;  // of the second, in 1 / (2 * size)
};

inline Neighbours neighbours(int samples, int i) {
  const std::int64_t n = std::clamp((2 * std::int64_t{i} + 1) * samples - size, std::int64_t{0},
                                    2 * std::int64_t{size} * (samples - 1));
  const int first = static_cast<int>(n / (2 * size));
  return {first, std::min(first + 1, samples - 1), n % (2 * size)};
}

std::uint8_t bilinear_at(const vad::Plane& plane, int step, int channel, int y, int x) {
  const Neighbours rows = neighbours(plane.height, y);
  const Neighbours columns = neighbours(plane.width, x);
  const auto at = [&](int row, int column) -> std::int64_t {
    return plane.data[plane.stride * row + column * step + channel];
  };
  const auto across = [&](int row) {
    return at(row, columns.first) * (2 * size - columns.share) +
           at(row, columns.second) * columns.share;
  };
  const std::int64_t sum =
      across(rows.first) * (2 * size - rows.share) + across(rows.second) * rows.share;
  constexpr std::int64_t total = std::int64_t{4} * size * size;
  return static_cast<std::uint8_t>((2 * sum + total) / (2 * total));
}

inline std::uint8_t clamped(int value) {
  return static_cast<std::uint8_t>(std::clamp((value + 32768) >> 16, 0, 255));
}

// BT.601, luma of 16 to 235.
void plain(const vad::Image& image, const vad::Target& target, std::uint8_t* out) {
  const bool gray = target.colour == vad::Colour::gray;
  const bool rgb = image.format == vad::PixelFormat::rgb;
  const auto value_at = target.interpolation == vad::Interpolation::area ? area_at : bilinear_at;
  for (int y = 0; y < size; ++y) {
    for (int x = 0; x < size; ++x) {
      int values[3] = {};
      for (int i = 0; i < (gray && !rgb ? 1 : 3); ++i) {
        const vad::Plane& plane = image.planes[rgb ? 0 : static_cast<std::size_t>(i)];
        values[i] = value_at(plane, rgb ? 3 : 1, rgb ? i : 0, y, x);
      }
      if (rgb && gray) {
        *out++ = clamped(19595 * values[0] + 38470 * values[1] + 7471 * values[2]);
      } else if (rgb) {
        for (const int value : values) *out++ = static_cast<std::uint8_t>(value);
      } else {
        const int luma = 76309 * (values[0] - 16);
        const int u = values[1] - 128;
        const int v = values[2] - 128;
        if (gray) {
          *out++ = clamped(luma);
        } else {
          *out++ = clamped(luma + 104597 * v);
          *out++ = clamped(luma - 25675 * u - 53279 * v);
          *out++ = clamped(luma + 132201 * u);
        }
      }
    }
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 6) return 2;
  const std::string what = arguments[1];
  const std::string simd = arguments[2];
  vad::Target target;
  target.height = target.width = size;
  target.colour = std::string(arguments[4]) == "gray" ? vad::Colour::gray : vad::Colour::rgb;
  target.interpolation = std::string(arguments[5]) == "area" ? vad::Interpolation::area
                                                             : vad::Interpolation::bilinear;
  const Picture picture = picture_of(arguments[3]);
  Bytes out(target.bytes());
  if (what == "plain") plain(picture.image, target, out.data());
  if (what == "kernel") {
    const std::vector<vad::Simd> usable = vad::usable_simd();
    const auto found = std::find_if(usable.begin(), usable.end(),
                                    [&](vad::Simd one) { return simd == vad::name(one); });
    if (found == usable.end()) {
      std::puts("unusable");
      return 0;
    }
    vad::Resizer resizer(target, *found);
    resizer(picture.image, out.data());
  }
  std::uint64_t digest = 0xcbf29ce484222325U;
  for (const std::uint8_t byte : out) digest = (digest ^ byte) * 0x100000001b3U;
  std::printf("%016" PRIx64 "\n", digest);
  return 0;
}
