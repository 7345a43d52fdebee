// The lines that the GPU runs, run here for a whole grid: the same bytes as vad::Resizer.

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "../cuda/resize_arguments.hpp"
#include "../cuda/resize_emulated.hpp"
#include "expect.hpp"

namespace {

using vad::Colour;
using vad::Image;
using vad::Interpolation;
using vad::Matrix;
using vad::PixelFormat;
using vad::Plane;
using vad::Target;

using Pixels = std::vector<std::uint8_t>;

// An image that owns its planes, each in a block of exactly its size.
struct Picture {
  Image image;
  std::vector<std::unique_ptr<std::uint8_t[]>> blocks;

  void add(std::mt19937& random, int width, int height, int bytes) {
    const auto pick = [&random](int most) {
      return static_cast<int>(random() % (static_cast<unsigned>(most) + 1));
    };
    const int row = width * bytes;
    const int stride = row + (pick(1) != 0 ? pick(37) : 0);
    const auto size = static_cast<std::size_t>(stride) * static_cast<std::size_t>(height - 1) +
                      static_cast<std::size_t>(row);
    blocks.emplace_back(new std::uint8_t[size]);
    // Extremes are where rounding and clamping go wrong.
    const int kind = pick(3);
    for (std::size_t i = 0; i < size; ++i) {
      const auto value = static_cast<std::uint8_t>(random() >> 11);
      blocks.back()[i] = kind == 0 ? static_cast<std::uint8_t>(value < 128 ? 0 : 255) : value;
    }
    Plane plane{blocks.back().get(), stride, width, height};
    if (pick(3) == 0) {
      plane.data += static_cast<std::ptrdiff_t>(stride) * (height - 1);
      plane.stride = -stride;
    }
    image.planes[blocks.size() - 1] = plane;
  }
};

Picture picture(std::mt19937& random, PixelFormat format, int width, int height) {
  Picture result;
  result.image.format = format;
  result.image.width = width;
  result.image.height = height;
  result.image.matrix = static_cast<Matrix>(random() % 3);
  result.image.full_range = random() % 2 != 0;
  const bool packed = format == PixelFormat::rgb || format == PixelFormat::bgr;
  result.add(random, width, height, packed ? 3 : 1);
  if (format == PixelFormat::nv12) result.add(random, (width + 1) / 2, (height + 1) / 2, 2);
  if (format == PixelFormat::yuv) {
    const int x = 1 + static_cast<int>(random() % 2);
    const int y = 1 + static_cast<int>(random() % 2);
    for (int i = 0; i < 2; ++i) result.add(random, (width + x - 1) / x, (height + y - 1) / y, 1);
  }
  return result;
}

Pixels emulated(const Image& image, const Target& target) {
  Pixels out(target.bytes(), 0xA5);
  const vad::cuda::ResizeArguments arguments =
      vad::cuda::resize_arguments(image, target, out.data());
  const auto blocks = [](int size, unsigned block) {
    return (static_cast<unsigned>(size) + block - 1) / block;
  };
  vad::cuda::emulate_grid(blocks(target.width, vad::cuda::kBlockX),
                          blocks(target.height, vad::cuda::kBlockY), arguments);
  return out;
}

void a_mean_is_rounded_half_up() {
  const std::uint8_t pixels[] = {0, 1, 2, 3};  // mean 1.5
  Image image;
  image.width = image.height = 2;
  image.full_range = true;
  image.planes[0] = {pixels, 2, 2, 2};
  EXPECT(emulated(image, {1, 1, Colour::gray, Interpolation::area}) == Pixels{2});
  // 3 samples to 2: weights 2/3 and 1/3. (2 * 0 + 10) / 3 = 3.3, (10 + 2 * 4) / 3 = 6.
  const std::uint8_t row[] = {0, 10, 4};
  image.width = 3;
  image.height = 1;
  image.planes[0] = {row, 3, 3, 1};
  EXPECT((emulated(image, {1, 2, Colour::gray, Interpolation::area}) == Pixels{3, 6}));
}

void enlarging_interpolates_between_centres() {
  const std::uint8_t row[] = {0, 100};
  Image image;
  image.width = 2;
  image.height = 1;
  image.full_range = true;
  image.planes[0] = {row, 2, 2, 1};
  const Pixels expected{0, 25, 75, 100};  // centres at -1/4, 1/4, 3/4 and 5/4
  EXPECT(emulated(image, {1, 4, Colour::gray, Interpolation::area}) == expected);
  EXPECT(emulated(image, {1, 4, Colour::gray, Interpolation::bilinear}) == expected);
}

void bt601_has_its_known_integers() {
  Image image;
  image.format = PixelFormat::yuv;
  const std::uint8_t sample = 128;
  for (Plane& plane : image.planes) plane = {&sample, 1, 1, 1};
  image.width = image.height = 1;
  std::uint8_t out[3];
  const auto arguments =
      vad::cuda::resize_arguments(image, {1, 1, Colour::rgb, Interpolation::area}, out);
  EXPECT(arguments.luma == 76309);
  EXPECT(arguments.red_cr == 104597);
  EXPECT(arguments.green_cb == 25675);
  EXPECT(arguments.green_cr == 53279);
  EXPECT(arguments.blue_cb == 132201);
}

void the_largest_picture_overflows_nothing() {
  constexpr int most = 65535;
  Pixels white(most, 255);
  Image image;
  image.width = most;
  image.height = most;
  image.full_range = true;
  image.planes[0] = {white.data(), 0, most, most};  // one row for all: no gigabytes of test
  vad::cuda::ResizeArguments arguments{};
  std::uint8_t out[2] = {};
  arguments.planes[0] = {reinterpret_cast<std::uint64_t>(white.data()), 0, 1, 1, most, 2, 64, 1};
  arguments.out = reinterpret_cast<std::uint64_t>(out);
  arguments.width = 2;
  arguments.height = 1;
  arguments.channels = 1;
  arguments.luma = 65536;
  vad::cuda::emulate_grid(1, 1, arguments);
  EXPECT(out[0] == 255 && out[1] == 255);
  arguments.planes[0] = {reinterpret_cast<std::uint64_t>(white.data()), 0, 1, 0, most, most, most,
                         most};
  arguments.width = arguments.height = most;
  vad::cuda::ResizeArguments corner = arguments;
  corner.out = reinterpret_cast<std::uint64_t>(out) -
               (static_cast<std::uint64_t>(most - 1) * most + most - 1);
  vad::cuda::resize_pixel(corner, most - 1, most - 1);
  EXPECT(out[0] == 255);
}

void nonsense_is_refused() {
  const auto refused = [](const Image& image) {
    std::uint8_t out = 0;
    try {
      vad::cuda::resize_arguments(image, {1, 1, Colour::gray, Interpolation::area}, &out);
    } catch (const std::invalid_argument&) {
      return true;
    }
    return false;
  };
  const std::uint8_t pixels[16] = {};
  Image image;
  image.width = image.height = 4;
  EXPECT(refused(image));
  image.planes[0] = {pixels, 4, 4, 4};
  EXPECT(!refused(image));
  image.planes[0].stride = 3;
  EXPECT(refused(image));
  image.planes[0] = {pixels, 4, 0, 4};
  EXPECT(refused(image));
  image.planes[0] = {pixels, 4, 4, 3};
  EXPECT(refused(image));  // smaller than the image
  image.width = 70000;
  image.height = 1;
  image.planes[0] = {pixels, 70000, 70000, 1};
  EXPECT(refused(image));
}

void every_format_and_size_equals_the_processors() {
  std::mt19937 random(7);
  const auto size = [&random](int most) { return 1 + static_cast<int>(random() % unsigned(most)); };
  for (int round = 0; round < 3000; ++round) {
    const auto format = static_cast<PixelFormat>(random() % 5);
    const int largest = round % 50 == 0 ? 700 : 60;
    const Picture source = picture(random, format, size(largest), size(largest));
    const Target target{size(70), size(70), static_cast<Colour>(random() % 2),
                        static_cast<Interpolation>(random() % 2)};
    Pixels expected(target.bytes());
    vad::Resizer resizer(target);
    resizer(source.image, expected.data());
    if (emulated(source.image, target) != expected) {
      std::fprintf(stderr, "round %d: format %d, %d x %d to %d x %d: not the same\n", round,
                   static_cast<int>(format), source.image.width, source.image.height, target.width,
                   target.height);
      std::exit(1);
    }
  }
}

}  // namespace

int main() {
  a_mean_is_rounded_half_up();
  enlarging_interpolates_between_centres();
  bt601_has_its_known_integers();
  the_largest_picture_overflows_nothing();
  nonsense_is_refused();
  every_format_and_size_equals_the_processors();
  return 0;
}
