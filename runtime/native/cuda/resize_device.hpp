// The portable resizer, one output pixel at a time (docs/portable-resizer.md has the rule). The same
// lines are compiled for the GPU (resize.cu) and for the processor, where a test runs the whole grid
// and compares it with vad::Resizer. Whole numbers only, so there is no rounding to differ in.

#ifndef VAD_CUDA_RESIZE_DEVICE_HPP
#define VAD_CUDA_RESIZE_DEVICE_HPP

#include <cstdint>

#ifdef __CUDACC__
#define VAD_DEVICE __host__ __device__ __forceinline__
#define VAD_DEVICE_CALL __host__ __device__ __noinline__  // once in the machine code, not five times
#else
#define VAD_DEVICE inline
#define VAD_DEVICE_CALL inline
#endif

namespace vad {
namespace cuda {

// The kernel's only parameter. Fixed types and no gaps: the host's compiler and nvcc agree on it.

struct PlaneArguments {
  std::uint64_t data;     // address of the first sample
  std::int64_t stride;    // bytes from row to row; negative = bottom up
  std::int32_t step;      // bytes from sample to sample: 1, 2 in nv12's chroma, 3 in RGB
  std::int32_t area;      // 1 = area, 0 = bilinear
  std::uint32_t in_x;     // area: S' and D', the size and the model's without their common divisor;
  std::uint32_t out_x;    // bilinear: S and D
  std::uint32_t in_y;
  std::uint32_t out_y;
};

struct ResizeArguments {
  PlaneArguments planes[3];  // Y, Cb, Cr; or R, G, B; or gray alone
  std::uint64_t out;         // height * width * channels bytes
  std::int32_t width;
  std::int32_t height;
  std::int32_t channels;  // of the model: 1 or 3
  std::int32_t kind;      // of the picture: kGray, kRgb or kYuv
  // 65536ths; see the rule.
  std::int32_t luma_offset;
  std::int32_t luma;
  std::int32_t red_cr;
  std::int32_t green_cb;
  std::int32_t green_cr;
  std::int32_t blue_cb;
};

static_assert(sizeof(PlaneArguments) == 40, "no gaps");
static_assert(sizeof(ResizeArguments) == 168, "no gaps");

constexpr std::int32_t kGray = 0;
constexpr std::int32_t kRgb = 1;
constexpr std::int32_t kYuv = 2;

// Threads of a block, each one output pixel. 8 rows of 32: a warp reads along source rows.
constexpr unsigned kBlockX = 32;
constexpr unsigned kBlockY = 8;

VAD_DEVICE std::uint32_t smaller(std::uint32_t a, std::uint32_t b) { return a < b ? a : b; }
VAD_DEVICE std::uint32_t larger(std::uint32_t a, std::uint32_t b) { return a > b ? a : b; }

// Weight of source sample j for output i, in 1/D' of a sample: how far [i S', (i+1) S') and
// [j D', (j+1) D') overlap. Sizes are below 65536, so 32 bits hold the products.
VAD_DEVICE std::uint32_t overlap(std::uint32_t i, std::uint32_t j, std::uint32_t in,
                                 std::uint32_t out) {
  return smaller((i + 1) * in, (j + 1) * out) - larger(i * in, j * out);
}

VAD_DEVICE int area_sample(const PlaneArguments& plane, std::uint32_t x, std::uint32_t y) {
  const std::uint8_t* data = reinterpret_cast<const std::uint8_t*>(plane.data);
  const std::uint32_t first_x = x * plane.in_x / plane.out_x;
  const std::uint32_t last_x = ((x + 1) * plane.in_x - 1) / plane.out_x;
  const std::uint32_t first_y = y * plane.in_y / plane.out_y;
  const std::uint32_t last_y = ((y + 1) * plane.in_y - 1) / plane.out_y;
  const std::uint32_t left = overlap(x, first_x, plane.in_x, plane.out_x);
  const std::uint32_t right = overlap(x, last_x, plane.in_x, plane.out_x);
  std::uint64_t sum = 0;
  for (std::uint32_t j = first_y; j <= last_y; ++j) {
    const std::uint8_t* row = data + static_cast<std::int64_t>(j) * plane.stride;
    std::uint32_t inside = 0;  // whole samples: D' each; 255 * S' fits
    for (std::uint32_t i = first_x + 1; i < last_x; ++i) {
      inside += row[static_cast<std::int64_t>(i) * plane.step];
    }
    std::uint32_t across = inside * plane.out_x;
    across += left * row[static_cast<std::int64_t>(first_x) * plane.step];
    if (last_x != first_x) across += right * row[static_cast<std::int64_t>(last_x) * plane.step];
    sum += static_cast<std::uint64_t>(across) * overlap(y, j, plane.in_y, plane.out_y);
  }
  const std::uint64_t total = static_cast<std::uint64_t>(plane.in_x) * plane.in_y;
  return static_cast<int>((2 * sum + total) / (2 * total));
}

// Left sample and the weight of the one right of it, in 1/(2 D). An edge repeats.
VAD_DEVICE std::uint32_t bilinear_at(std::uint32_t i, std::uint32_t in, std::uint32_t out,
                                     std::uint32_t* weight) {
  const std::int64_t last = 2 * static_cast<std::int64_t>(out) * (in - 1);
  std::int64_t n = static_cast<std::int64_t>(2 * i + 1) * in - out;
  n = n < 0 ? 0 : n > last ? last : n;
  *weight = static_cast<std::uint32_t>(n % (2 * out));
  return static_cast<std::uint32_t>(n / (2 * out));
}

VAD_DEVICE int bilinear_sample(const PlaneArguments& plane, std::uint32_t x, std::uint32_t y) {
  std::uint32_t right = 0;
  std::uint32_t below = 0;
  const std::uint32_t x0 = bilinear_at(x, plane.in_x, plane.out_x, &right);
  const std::uint32_t y0 = bilinear_at(y, plane.in_y, plane.out_y, &below);
  const std::uint32_t x1 = smaller(x0 + 1, plane.in_x - 1);  // its weight is 0 at the edge
  const std::uint32_t y1 = smaller(y0 + 1, plane.in_y - 1);
  const std::uint8_t* data = reinterpret_cast<const std::uint8_t*>(plane.data);
  const std::uint8_t* upper = data + static_cast<std::int64_t>(y0) * plane.stride;
  const std::uint8_t* lower = data + static_cast<std::int64_t>(y1) * plane.stride;
  const std::int64_t a = static_cast<std::int64_t>(x0) * plane.step;
  const std::int64_t b = static_cast<std::int64_t>(x1) * plane.step;
  const std::uint32_t left = 2 * plane.out_x - right;
  const std::uint32_t above = 2 * plane.out_y - below;
  const std::uint32_t first = left * upper[a] + right * upper[b];
  const std::uint32_t second = left * lower[a] + right * lower[b];
  const std::uint64_t sum =
      static_cast<std::uint64_t>(first) * above + static_cast<std::uint64_t>(second) * below;
  const std::uint64_t total = 4 * static_cast<std::uint64_t>(plane.out_x) * plane.out_y;
  return static_cast<int>((2 * sum + total) / (2 * total));
}

VAD_DEVICE_CALL int sample(PlaneArguments plane, std::uint32_t x, std::uint32_t y) {
  return plane.area ? area_sample(plane, x, y) : bilinear_sample(plane, x, y);
}

// Rounded, from 65536ths to 0..255. The shift of a negative number is arithmetic on all compilers
// that this is built with.
VAD_DEVICE std::uint8_t clamped(std::int32_t sum) {
  const std::int32_t value = (sum + 32768) >> 16;
  return static_cast<std::uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

VAD_DEVICE void resize_pixel(const ResizeArguments& arguments, std::uint32_t x, std::uint32_t y) {
  std::uint8_t* out = reinterpret_cast<std::uint8_t*>(arguments.out) +
                      (static_cast<std::int64_t>(y) * arguments.width + x) * arguments.channels;
  const int first = sample(arguments.planes[0], x, y);
  if (arguments.kind == kRgb) {
    const int second = sample(arguments.planes[1], x, y);
    const int third = sample(arguments.planes[2], x, y);
    if (arguments.channels == 1) {
      out[0] = clamped(19595 * first + 38470 * second + 7471 * third);
    } else {
      out[0] = static_cast<std::uint8_t>(first);
      out[1] = static_cast<std::uint8_t>(second);
      out[2] = static_cast<std::uint8_t>(third);
    }
    return;
  }
  const std::int32_t luma = arguments.luma * (first - arguments.luma_offset);
  if (arguments.kind == kGray || arguments.channels == 1) {
    const std::uint8_t value = clamped(luma);
    for (std::int32_t channel = 0; channel < arguments.channels; ++channel) out[channel] = value;
    return;
  }
  const int cb = sample(arguments.planes[1], x, y) - 128;
  const int cr = sample(arguments.planes[2], x, y) - 128;
  out[0] = clamped(luma + arguments.red_cr * cr);
  out[1] = clamped(luma - arguments.green_cb * cb - arguments.green_cr * cr);
  out[2] = clamped(luma + arguments.blue_cb * cb);
}

}  // namespace cuda
}  // namespace vad

#endif  // VAD_CUDA_RESIZE_DEVICE_HPP
