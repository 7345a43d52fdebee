// The rule of docs/portable-resizer.md, sample by sample and slowly; it shares nothing with the
// resizer.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "resize_cases.hpp"
#include "vad/resize.hpp"

namespace resize_rule {

using Bytes = std::vector<std::uint8_t>;

struct Samples {
  int width;
  int height;
  std::vector<int> values;
  int at(int x, int y) const {
    return values[static_cast<std::size_t>(y) * static_cast<std::size_t>(width) +
                  static_cast<std::size_t>(x)];
  }
};

inline Samples samples_of(const vad::Plane& plane, int step, int channel) {
  Samples samples{plane.width, plane.height, {}};
  for (int y = 0; y < plane.height; ++y) {
    for (int x = 0; x < plane.width; ++x) {
      samples.values.push_back(plane.data[plane.stride * y + x * step + channel]);
    }
  }
  return samples;
}

// How much of source sample `s` the output `i` covers, in 1/D of a sample.
inline std::int64_t overlap(std::int64_t s, std::int64_t i, std::int64_t S, std::int64_t D) {
  const std::int64_t low = std::max(s * D, i * S);
  const std::int64_t high = std::min((s + 1) * D, (i + 1) * S);
  return std::max<std::int64_t>(high - low, 0);
}

inline std::vector<std::vector<std::pair<int, std::int64_t>>> shares(int S, int D, bool area) {
  std::vector<std::vector<std::pair<int, std::int64_t>>> result(static_cast<std::size_t>(D));
  for (int i = 0; i < D; ++i) {
    auto& row = result[static_cast<std::size_t>(i)];
    if (area) {
      for (int s = 0; s < S; ++s) {
        const std::int64_t share = overlap(s, i, S, D);
        if (share > 0) row.emplace_back(s, share);
      }
    } else {
      const std::int64_t n = std::min(
          std::max((2 * std::int64_t{i} + 1) * S - D, std::int64_t{0}),
          2 * std::int64_t{D} * (S - 1));
      row.emplace_back(static_cast<int>(n / (2 * D)), 2 * D - n % (2 * D));
      if (n % (2 * D) != 0) row.emplace_back(static_cast<int>(n / (2 * D)) + 1, n % (2 * D));
    }
  }
  return result;
}

inline Samples naive_plane(const Samples& source, const vad::Target& target) {
  const bool area = target.interpolation == vad::Interpolation::area &&
                    target.width <= source.width && target.height <= source.height;
  const auto columns = shares(source.width, target.width, area);
  const auto rows = shares(source.height, target.height, area);
  // Without the common factors, the largest total is 65535 * 4000 * 255 * 2: far below 2^63.
  const std::int64_t total = area ? std::int64_t{source.width} * source.height
                                  : std::int64_t{4} * target.width * target.height;
  Samples result{target.width, target.height, {}};
  for (const auto& row : rows) {
    for (const auto& column : columns) {
      std::int64_t sum = 0;
      for (const auto& [y, down] : row) {
        for (const auto& [x, across] : column) sum += source.at(x, y) * down * across;
      }
      result.values.push_back(static_cast<int>((2 * sum + total) / (2 * total)));
    }
  }
  return result;
}

inline std::uint8_t clamp_sum(long long sum) {
  const long long value = (sum + 32768) >> 16;
  return static_cast<std::uint8_t>(std::min(255LL, std::max(0LL, value)));
}

inline Bytes naive(const vad::Image& image, const vad::Target& target) {
  std::vector<Samples> channels;
  for (int i = 0; i < resize_cases::planes_of(image.format); ++i) {
    const int step = resize_cases::step_of(image.format, i);
    for (int c = 0; c < step; ++c) {
      const auto& plane = image.planes[static_cast<std::size_t>(i)];
      channels.push_back(naive_plane(samples_of(plane, step, c), target));
    }
  }
  if (image.format == vad::PixelFormat::bgr) std::swap(channels[0], channels[2]);
  const bool packed =
      image.format == vad::PixelFormat::rgb || image.format == vad::PixelFormat::bgr;
  const double kr[] = {.299, .2126, .2627};
  const double kb[] = {.114, .0722, .0593};
  const double r = kr[static_cast<int>(image.matrix)];
  const double b = kb[static_cast<int>(image.matrix)];
  const double g = 1 - r - b;
  const double scale = image.full_range ? 1 : 255.0 / 224;
  const long long cy = std::llround(65536 * (image.full_range ? 1 : 255.0 / 219));
  const long long rv = std::llround(65536 * 2 * (1 - r) * scale);
  const long long gu = std::llround(65536 * 2 * (1 - b) * b / g * scale);
  const long long gv = std::llround(65536 * 2 * (1 - r) * r / g * scale);
  const long long bu = std::llround(65536 * 2 * (1 - b) * scale);
  Bytes out;
  for (std::size_t i = 0; i < channels[0].values.size(); ++i) {
    const long long first = channels[0].values[i];
    const long long y = cy * (first - (image.full_range ? 0 : 16));
    if (packed) {
      const long long green = channels[1].values[i];
      const long long blue = channels[2].values[i];
      if (target.colour == vad::Colour::gray) {
        out.push_back(clamp_sum(19595 * first + 38470 * green + 7471 * blue));
      } else {
        for (const long long value : {first, green, blue}) {
          out.push_back(static_cast<std::uint8_t>(value));
        }
      }
    } else if (target.colour == vad::Colour::gray) {
      out.push_back(clamp_sum(y));
    } else if (image.format == vad::PixelFormat::gray) {
      out.insert(out.end(), 3, clamp_sum(y));
    } else {
      const long long u = channels[1].values[i] - 128;
      const long long v = channels[2].values[i] - 128;
      out.push_back(clamp_sum(y + rv * v));
      out.push_back(clamp_sum(y - gu * u - gv * v));
      out.push_back(clamp_sum(y + bu * u));
    }
  }
  return out;
}

}  // namespace resize_rule
