// Random pictures for the tests of the resizer, each plane in a block of exactly its size, so that
// AddressSanitizer sees a read of one byte too many.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "vad/resize.hpp"

namespace resize_cases {

// SplitMix64 (Steele, Lea, Flood 2014) of a counter: any element without the ones before it.
inline std::uint64_t mixed(std::uint64_t counter) {
  std::uint64_t z = (counter + 1) * 0x9e3779b97f4a7c15U;
  z = (z ^ (z >> 30U)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27U)) * 0x94d049bb133111ebU;
  return z ^ (z >> 31U);
}

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(mixed(seed)) {}
  // One of low..high; the error of the remainder does not matter here.
  int operator()(int low, int high) {
    const auto count = static_cast<std::uint64_t>(high - low) + 1;
    return low + static_cast<int>(mixed(state_++) % count);
  }

 private:
  std::uint64_t state_;
};

enum class Pixels : std::uint8_t { random, edges, white };

inline const char* name(Pixels pixels) {
  const char* names[] = {"random", "edges", "white"};
  return names[static_cast<int>(pixels)];
}

// Byte `at` of the samples of a plane, rows of the picture from the top, padding not counted.
inline std::uint8_t pixel(Pixels pixels, std::uint64_t seed, int plane, std::uint64_t at) {
  const auto counter = seed + (static_cast<std::uint64_t>(plane) << 32U) + at;
  const auto value = static_cast<std::uint8_t>(mixed(counter) >> 56U);
  if (pixels == Pixels::white) return 255;
  return pixels == Pixels::random ? value : value < 128 ? 0 : 255;
}

struct Block {
  explicit Block(std::size_t size)
      : data(static_cast<std::uint8_t*>(std::malloc(size)), &std::free) {}
  std::unique_ptr<std::uint8_t, void (*)(void*)> data;
};

struct Case {
  vad::Image image;
  vad::Target target;
  Pixels pixels = Pixels::random;
  std::uint64_t seed = 0;
  std::vector<Block> blocks;
};

inline int planes_of(vad::PixelFormat format) {
  if (format == vad::PixelFormat::yuv) return 3;
  return format == vad::PixelFormat::nv12 ? 2 : 1;
}

inline int step_of(vad::PixelFormat format, int plane) {
  if (format == vad::PixelFormat::rgb || format == vad::PixelFormat::bgr) return 3;
  return format == vad::PixelFormat::nv12 && plane == 1 ? 2 : 1;
}

// The stride is tight or padded, and a quarter of the planes is bottom up. The block ends with the
// last sample of the row that lies last in memory.
inline void add_plane(Case& made, int index, int width, int height, Random& random) {
  const int row = width * step_of(made.image.format, index);
  const int padding = random(0, 2) == 0 ? 0 : random(1, 70);
  const bool bottom_up = random(0, 3) == 0;
  const std::size_t pitch = static_cast<std::size_t>(row) + static_cast<std::size_t>(padding);
  const std::size_t last = pitch * (static_cast<std::size_t>(height) - 1);
  made.blocks.emplace_back(last + static_cast<std::size_t>(row));
  std::uint8_t* start = made.blocks.back().data.get();
  vad::Plane& plane = made.image.planes[static_cast<std::size_t>(index)];
  plane.width = width;
  plane.height = height;
  plane.stride = static_cast<std::ptrdiff_t>(bottom_up ? -static_cast<std::ptrdiff_t>(pitch)
                                                       : static_cast<std::ptrdiff_t>(pitch));
  plane.data = bottom_up ? start + last : start;
  for (std::size_t i = 0; i < last + static_cast<std::size_t>(row); ++i) start[i] = 0xa5;
  for (int y = 0; y < height; ++y) {
    std::uint8_t* out = start + (bottom_up ? last - pitch * static_cast<std::size_t>(y)
                                           : pitch * static_cast<std::size_t>(y));
    for (int x = 0; x < row; ++x) {
      const auto at = static_cast<std::uint64_t>(y) * static_cast<std::uint64_t>(row) +
                      static_cast<std::uint64_t>(x);
      out[x] = pixel(made.pixels, made.seed, index, at);
    }
  }
}

// Mostly small, some of a camera's size, some long and thin; sizes that share factors and not.
inline int any_size(Random& random, int most) {
  const int kind = random(0, 9);
  if (kind < 5) return random(1, most < 40 ? most : 40);
  if (kind < 8) return 8 * random(1, most < 8 ? 1 : most / 8);
  return random(1, most);
}

inline Case any_case(std::uint64_t seed) {
  Random random(seed);
  Case made;
  made.seed = seed;
  made.pixels = static_cast<Pixels>(random(0, 5) > 2 ? 0 : random(0, 2));
  vad::Image& image = made.image;
  image.format = static_cast<vad::PixelFormat>(random(0, 4));
  image.matrix = static_cast<vad::Matrix>(random(0, 2));
  image.full_range = random(0, 1) == 1;
  const int kind = random(0, 59);
  const int most = kind == 0 ? 4000 : kind < 10 ? 300 : 80;
  image.width = kind == 0 ? random(300, 4000) : any_size(random, most);
  image.height = any_size(random, kind == 0 ? 90 : most);
  if (kind == 1) std::swap(image.width, image.height);
  vad::Target& target = made.target;
  // Half of the targets are smaller than the picture: the area filter.
  const bool smaller = random(0, 3) != 0;
  target.width = random(1, smaller ? (image.width < 150 ? image.width : 150) : 90);
  target.height = random(1, smaller ? (image.height < 150 ? image.height : 150) : 90);
  if (random(0, 7) == 0) target.width = image.width < 400 ? image.width : 8;
  if (random(0, 7) == 0) target.height = image.height < 400 ? image.height : 8;
  target.colour = random(0, 2) == 0 ? vad::Colour::gray : vad::Colour::rgb;
  target.interpolation =
      random(0, 3) == 0 ? vad::Interpolation::bilinear : vad::Interpolation::area;

  add_plane(made, 0, image.width, image.height, random);
  const bool nv12 = image.format == vad::PixelFormat::nv12;
  const int across = nv12 ? 2 : random(0, 3) == 0 ? 1 : 2;
  const int down = nv12 ? 2 : random(0, 2) == 0 ? 1 : 2;
  for (int i = 1; i < planes_of(image.format); ++i) {
    add_plane(made, i, (image.width + across - 1) / across, (image.height + down - 1) / down,
              random);
  }
  return made;
}

inline std::string name(vad::PixelFormat format) {
  const char* names[] = {"gray", "rgb", "bgr", "nv12", "yuv"};
  return names[static_cast<int>(format)];
}

inline std::string name(vad::Matrix matrix) {
  const char* names[] = {"bt601", "bt709", "bt2020"};
  return names[static_cast<int>(matrix)];
}

}  // namespace resize_cases
