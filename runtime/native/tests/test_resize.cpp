// A plain program: the first broken expectation prints where it stands and exits 1.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "expect.hpp"
#include "resize_cases.hpp"
#include "resize_rule.hpp"
#include "vad/resize.hpp"

namespace {

using vad::Colour;
using vad::Image;
using vad::Interpolation;
using vad::Matrix;
using vad::PixelFormat;
using vad::Resizer;
using vad::Simd;
using vad::Target;
using resize_rule::Bytes;
using resize_rule::naive;

Bytes resized(const Image& image, const Target& target, Simd simd) {
  Bytes out(target.bytes(), 0x5a);
  Resizer resizer(target, simd);
  resizer(image, out.data());
  return out;
}

// ---- pictures -----------------------------------------------------------------------------------

Image gray_image(const Bytes& pixels, int width, int height) {
  Image image;
  image.width = width;
  image.height = height;
  image.full_range = true;
  image.planes[0] = {pixels.data(), width, width, height};
  return image;
}

Target gray_target(int height, int width, Interpolation interpolation = Interpolation::area) {
  return {height, width, Colour::gray, interpolation};
}

// ---- expectations -------------------------------------------------------------------------------

void random_pictures_follow_the_rule_with_every_instruction_set() {
  for (std::uint64_t seed = 0; seed < 600; ++seed) {
    const resize_cases::Case made = resize_cases::any_case(seed);
    const Bytes expected = naive(made.image, made.target);
    for (const Simd simd : vad::usable_simd()) {
      EXPECT(resized(made.image, made.target, simd) == expected);
    }
  }
}

void sizes_of_cameras_and_models_follow_the_rule() {
  const int sizes[][4] = {{1920, 1080, 112, 112}, {1920, 1080, 224, 224}, {320, 240, 112, 112},
                          {720, 405, 112, 112},   {854, 480, 171, 128},   {1279, 719, 128, 127}};
  for (const auto& size : sizes) {
    const Bytes pixels = [&] {
      Bytes made(static_cast<std::size_t>(size[0]) * static_cast<std::size_t>(size[1]));
      for (std::size_t i = 0; i < made.size(); ++i) {
        made[i] = resize_cases::pixel(resize_cases::Pixels::edges, 5, 0, i);
      }
      return made;
    }();
    const Image image = gray_image(pixels, size[0], size[1]);
    for (const Interpolation interpolation : {Interpolation::area, Interpolation::bilinear}) {
      const Target target = gray_target(size[3], size[2], interpolation);
      const Bytes expected = naive(image, target);
      for (const Simd simd : vad::usable_simd()) {
        EXPECT(resized(image, target, simd) == expected);
      }
    }
  }
}

// Sums at their largest, sizes at their largest, and both sides of the limits between the paths.
void a_white_picture_stays_white_at_any_size() {
  const int sizes[][4] = {{65535, 1, 65534, 1},  {65535, 2, 112, 1},    {1, 65535, 1, 112},
                          {2, 65535, 2, 65534},  {4095, 1024, 1, 1},    {4096, 1024, 1, 1},
                          {4097, 1024, 1, 1},    {257, 257, 256, 256},  {258, 258, 257, 257},
                          {65535, 64, 1, 1},     {65535, 65, 1, 1},     {65535, 257, 1, 1},
                          {3, 3, 1023, 1025},    {3, 3, 1024, 1024},    {3, 3, 1025, 1024},
                          {3, 3, 1500, 1500},    {1, 1, 3000, 3}};
  for (const auto& size : sizes) {
    const Bytes pixels(static_cast<std::size_t>(size[0]) * static_cast<std::size_t>(size[1]), 255);
    const Image image = gray_image(pixels, size[0], size[1]);
    for (const Interpolation interpolation : {Interpolation::area, Interpolation::bilinear}) {
      const Target target = gray_target(size[3], size[2], interpolation);
      for (const Simd simd : vad::usable_simd()) {
        EXPECT(resized(image, target, simd) == Bytes(target.bytes(), 255));
      }
    }
  }
}

// The one place where an estimate could be one too large or too small.
void a_mean_of_exactly_a_half_rounds_up_and_one_part_less_rounds_down() {
  for (const int total : {2, 6, 30, 120, 250, 256, 1024, 4096}) {
    for (int value = 0; value < 255; value += 3) {
      const int half = total / 2;
      for (const int above : {half - 1, half, half + 1}) {
        Bytes pixels(static_cast<std::size_t>(total), static_cast<std::uint8_t>(value));
        for (int i = 0; i < above; ++i) ++pixels[static_cast<std::size_t>(i)];
        const int expected = above >= half ? value + 1 : value;
        for (const Simd simd : vad::usable_simd()) {
          const Bytes across = resized(gray_image(pixels, total, 1), gray_target(1, 1), simd);
          const Bytes down = resized(gray_image(pixels, 1, total), gray_target(1, 1), simd);
          EXPECT(across[0] == expected);
          EXPECT(down[0] == expected);
        }
      }
    }
  }
}

void a_picture_of_the_target_size_is_copied() {
  const resize_cases::Case made = [] {
    resize_cases::Random random(3);
    resize_cases::Case picture;
    picture.image.format = PixelFormat::rgb;
    picture.image.width = 37;
    picture.image.height = 21;
    resize_cases::add_plane(picture, 0, 37, 21, random);
    return picture;
  }();
  for (const Interpolation interpolation : {Interpolation::area, Interpolation::bilinear}) {
    for (const Simd simd : vad::usable_simd()) {
      const Bytes out = resized(made.image, {21, 37, Colour::rgb, interpolation}, simd);
      for (std::size_t i = 0; i < out.size(); ++i) {
        EXPECT(out[i] == resize_cases::pixel(made.pixels, made.seed, 0, i));
      }
    }
  }
}

void white_and_black_of_limited_range_become_255_and_0() {
  for (const Matrix matrix : {Matrix::bt601, Matrix::bt709, Matrix::bt2020}) {
    const Bytes luma = {16, 235, 0, 255};
    const Bytes chroma = {128};
    Image image;
    image.format = PixelFormat::yuv;
    image.width = 2;
    image.height = 2;
    image.matrix = matrix;
    image.planes[0] = {luma.data(), 2, 2, 2};
    image.planes[1] = {chroma.data(), 1, 1, 1};
    image.planes[2] = {chroma.data(), 1, 1, 1};
    const Bytes out = resized(image, {2, 2, Colour::rgb, Interpolation::area}, Simd::baseline);
    EXPECT(out == (Bytes{0, 0, 0, 255, 255, 255, 0, 0, 0, 255, 255, 255}));
  }
}

void one_resizer_takes_pictures_of_changing_size_and_format() {
  std::vector<Resizer> resizers;
  const Target target{20, 24, Colour::rgb, Interpolation::area};
  for (const Simd simd : vad::usable_simd()) resizers.emplace_back(target, simd);
  for (std::uint64_t seed = 1000; seed < 1200; ++seed) {
    resize_cases::Case made = resize_cases::any_case(seed / 2);  // each size twice
    const Bytes expected = naive(made.image, target);
    for (Resizer& resizer : resizers) {
      Bytes out(target.bytes());
      resizer(made.image, out.data());
      EXPECT(out == expected);
    }
  }
}

void the_output_ends_where_it_should() {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    const resize_cases::Case made = resize_cases::any_case(seed);
    for (const Simd simd : vad::usable_simd()) {
      Bytes out(made.target.bytes() + 64, 0x77);
      Resizer resizer(made.target, simd);
      resizer(made.image, out.data() + 32);
      for (std::size_t i = 0; i < 32; ++i) {
        EXPECT(out[i] == 0x77);
        EXPECT(out[out.size() - 1 - i] == 0x77);
      }
    }
  }
}

template <typename Call>
std::string refusal(Call call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

void what_is_no_image_is_refused() {
  const Bytes pixels(100, 9);
  const auto refused = [&](const Image& image) {
    return refusal([&] { resized(image, gray_target(2, 2), Simd::baseline); });
  };
  const Image good = gray_image(pixels, 10, 10);
  EXPECT(refused(good).empty());

  Image image = good;
  image.planes[0].data = nullptr;
  EXPECT(refused(image) == "plane 0 of the image is missing");
  image = good;
  image.planes[0].stride = 9;
  EXPECT(refused(image) == "plane 0 has rows of 10 bytes and a stride of 9");
  image.planes[0].stride = -9;
  EXPECT(refused(image) == "plane 0 has rows of 10 bytes and a stride of -9");
  image = good;
  image.planes[0].width = 9;
  EXPECT(refused(image) == "plane 0 must be as large as the image, 10x10, not 9x10");
  image = good;
  image.width = 65536;
  EXPECT(refused(image) == "an image must be of 1x1 to 65535x65535, not 65536x10");
  image = good;
  image.height = 0;
  EXPECT(!refused(image).empty());
  image = good;
  image.format = PixelFormat::nv12;
  EXPECT(refused(image) == "plane 1 of the image is missing");
  image.planes[1] = {pixels.data(), 9, 5, 5};
  EXPECT(refused(image) == "plane 1 has rows of 10 bytes and a stride of 9");
  image = good;
  image.format = static_cast<PixelFormat>(77);
  EXPECT(refused(image) == "the image has an unknown pixel format");

  EXPECT(refusal([] { Resizer resizer(gray_target(0, 5)); }) ==
         "a target must be of 1x1 to 65535x65535, not 5x0");
  EXPECT(!refusal([] { Resizer resizer(gray_target(5, 65536)); }).empty());
}

void the_environment_limits_the_instruction_set() {
  const std::vector<Simd> all = vad::usable_simd();
  EXPECT(all.back() == Simd::baseline);
  setenv("VAD_SIMD", "baseline", 1);
  EXPECT(vad::usable_simd() == std::vector<Simd>{Simd::baseline});
  EXPECT(Resizer(gray_target(1, 1)).simd() == Simd::baseline);
  if (all.size() > 1) {
    EXPECT(refusal([&] { Resizer resizer(gray_target(1, 1), all.front()); }) ==
           std::string("this build or this processor has no ") + vad::name(all.front()));
  }
  setenv("VAD_SIMD", "avx2", 1);
  for (const Simd simd : vad::usable_simd()) EXPECT(simd != Simd::avx512);
  unsetenv("VAD_SIMD");
  EXPECT(vad::usable_simd() == all);
  EXPECT(Resizer(gray_target(1, 1)).simd() == all.front());
}

}  // namespace

int main() {
  the_environment_limits_the_instruction_set();
  random_pictures_follow_the_rule_with_every_instruction_set();
  sizes_of_cameras_and_models_follow_the_rule();
  a_white_picture_stays_white_at_any_size();
  a_mean_of_exactly_a_half_rounds_up_and_one_part_less_rounds_down();
  a_picture_of_the_target_size_is_copied();
  white_and_black_of_limited_range_become_255_and_0();
  one_resizer_takes_pictures_of_changing_size_and_format();
  the_output_ends_where_it_should();
  what_is_no_image_is_refused();
  std::string sets;
  for (const Simd simd : vad::usable_simd()) sets += std::string(" ") + vad::name(simd);
  std::printf("resize: all expectations hold for%s\n", sets.c_str());
}
