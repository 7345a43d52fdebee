// From a picture to the kernel's parameter.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <numeric>
#include <stdexcept>
#include <string>

#include "colour_matrix.hpp"
#include "resize_device.hpp"
#include "vad/image.hpp"
#include "vad/resize.hpp"

namespace vad::cuda {

// `offset` and `step` are in bytes: red is sample 0 of each 3 bytes of an RGB plane.
inline PlaneArguments plane_arguments(const Plane& plane, int offset, int step, int columns,
                                      const Target& target) {
  constexpr int most = 65535;
  if (plane.data == nullptr) throw std::invalid_argument("a plane of the image is missing");
  if (plane.width < 1 || plane.height < 1 || plane.width > most || plane.height > most) {
    throw std::invalid_argument("a plane must have 1..65535 samples in each direction, not " +
                                std::to_string(plane.width) + " x " +
                                std::to_string(plane.height));
  }
  const std::int64_t row = static_cast<std::int64_t>(plane.width) * columns;
  if (std::abs(static_cast<std::int64_t>(plane.stride)) < row && plane.height > 1) {
    throw std::invalid_argument("a stride of " + std::to_string(plane.stride) +
                                " bytes is shorter than a row of " + std::to_string(row));
  }
  const bool area = target.interpolation == Interpolation::area && target.width <= plane.width &&
                    target.height <= plane.height;
  const int common_x = area ? std::gcd(plane.width, target.width) : 1;
  const int common_y = area ? std::gcd(plane.height, target.height) : 1;
  PlaneArguments result{};
  result.data = reinterpret_cast<std::uint64_t>(plane.data + offset);
  result.stride = plane.stride;
  result.step = step;
  result.area = area ? 1 : 0;
  result.in_x = static_cast<std::uint32_t>(plane.width / common_x);
  result.out_x = static_cast<std::uint32_t>(target.width / common_x);
  result.in_y = static_cast<std::uint32_t>(plane.height / common_y);
  result.out_y = static_cast<std::uint32_t>(target.height / common_y);
  return result;
}

// Throws std::invalid_argument, as vad::Resizer does of the planes that are read.
inline ResizeArguments resize_arguments(const Image& image, const Target& target,
                                        std::uint8_t* out) {
  const Plane& first = image.planes[0];
  if (first.width != image.width || first.height != image.height) {
    throw std::invalid_argument("plane 0 must be as large as the image, " +
                                std::to_string(image.width) + "x" + std::to_string(image.height) +
                                ", not " + std::to_string(first.width) + "x" +
                                std::to_string(first.height));
  }
  ResizeArguments result{};
  result.out = reinterpret_cast<std::uint64_t>(out);
  result.width = target.width;
  result.height = target.height;
  result.channels = target.channels();

  const auto add = [&](int at, int plane, int offset, int step) {
    result.planes[at] =
        plane_arguments(image.planes[static_cast<std::size_t>(plane)], offset, step, step, target);
  };
  // A gray model reads the luma alone.
  const bool chroma = target.colour == Colour::rgb;
  switch (image.format) {
    case PixelFormat::gray:
      result.kind = kGray;
      add(0, 0, 0, 1);
      break;
    case PixelFormat::rgb:
    case PixelFormat::bgr:
      result.kind = kRgb;
      for (int at = 0; at < 3; ++at) {
        add(at, 0, image.format == PixelFormat::rgb ? at : 2 - at, 3);
      }
      break;
    case PixelFormat::nv12:
      result.kind = kYuv;
      add(0, 0, 0, 1);
      if (chroma) add(1, 1, 0, 2);
      if (chroma) add(2, 1, 1, 2);
      break;
    case PixelFormat::yuv:
      result.kind = kYuv;
      for (int at = 0; at < (chroma ? 3 : 1); ++at) add(at, at, 0, 1);
      break;
  }

  const ColourMatrix colours = colour_matrix(image.matrix, image.full_range);
  result.luma_offset = colours.luma_offset;
  result.luma = colours.luma;
  result.red_cr = colours.red_cr;
  result.green_cb = colours.green_cb;
  result.green_cr = colours.green_cr;
  result.blue_cb = colours.blue_cb;
  return result;
}

}  // namespace vad::cuda
