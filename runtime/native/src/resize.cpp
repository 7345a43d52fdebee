#include "vad/resize.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "colour_matrix.hpp"
#include "resize_kernels.hpp"

namespace vad {
namespace {

using kernels::Colours;
using kernels::Edge;
using kernels::Kernels;
using kernels::Pair;
using kernels::Source;

constexpr int max_size = 65535;

// Null where it was not compiled in.
const Kernels* kernels_of(Simd simd) noexcept {
  if (simd == Simd::baseline) return kernels::baseline();
#if defined(__x86_64__)
  return simd == Simd::avx512 ? kernels::avx512() : kernels::avx2();
#else
  return nullptr;
#endif
}

bool processor_has(Simd simd) noexcept {
  if (simd == Simd::baseline) return true;
#if defined(__x86_64__)
  // Also asks whether the operating system keeps the wider registers.
  __builtin_cpu_init();
  if (simd == Simd::avx2) return __builtin_cpu_supports("avx2");
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#else
  return false;
#endif
}

Simd best_simd() { return usable_simd().front(); }

void check_size(const char* what, int width, int height) {
  if (width < 1 || height < 1 || width > max_size || height > max_size) {
    throw std::invalid_argument(std::string(what) + " must be of 1x1 to 65535x65535, not " +
                                std::to_string(width) + "x" + std::to_string(height));
  }
}

// ---- images -------------------------------------------------------------------------------------

struct Layout {
  int planes;
  std::array<int, 3> steps;
};

Layout layout_of(PixelFormat format) {
  switch (format) {
    case PixelFormat::gray:
      return {1, {1, 0, 0}};
    case PixelFormat::rgb:
    case PixelFormat::bgr:
      return {1, {3, 0, 0}};
    case PixelFormat::nv12:
      return {2, {1, 2, 0}};
    case PixelFormat::yuv:
      return {3, {1, 1, 1}};
  }
  throw std::invalid_argument("the image has an unknown pixel format");
}

std::array<Source, 3> sources_of(const Image& image, const Layout& layout) {
  check_size("an image", image.width, image.height);
  std::array<Source, 3> sources;
  for (int i = 0; i < layout.planes; ++i) {
    const Plane& plane = image.planes[static_cast<std::size_t>(i)];
    const std::string what = "plane " + std::to_string(i);
    if (plane.data == nullptr) throw std::invalid_argument(what + " of the image is missing");
    check_size(what.c_str(), plane.width, plane.height);
    if (i == 0 && (plane.width != image.width || plane.height != image.height)) {
      throw std::invalid_argument(
          "plane 0 must be as large as the image, " + std::to_string(image.width) + "x" +
          std::to_string(image.height) + ", not " + std::to_string(plane.width) + "x" +
          std::to_string(plane.height));
    }
    const int step = layout.steps[static_cast<std::size_t>(i)];
    const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(plane.width) * step;
    const bool long_enough = plane.stride >= row || plane.stride <= -row;
    if (plane.height > 1 && !long_enough) {
      throw std::invalid_argument(what + " has rows of " + std::to_string(row) +
                                  " bytes and a stride of " + std::to_string(plane.stride));
    }
    sources[static_cast<std::size_t>(i)] = {plane.data, plane.stride, plane.width, plane.height,
                                            step};
  }
  return sources;
}

// ---- axes ---------------------------------------------------------------------------------------

std::vector<Edge> edges_of(std::uint32_t samples, std::uint32_t outputs) {
  const std::uint32_t common = std::gcd(samples, outputs);
  const std::uint64_t length = samples / common;  // of an output, in parts
  const std::uint64_t parts = outputs / common;   // of a sample
  std::vector<Edge> edges(outputs + std::size_t{1});
  for (std::size_t i = 0; i < edges.size(); ++i) {
    edges[i] = {static_cast<std::int32_t>(i * length / parts),
                static_cast<std::uint32_t>(i * length % parts)};
  }
  return edges;
}

std::vector<Pair> pairs_of(std::int64_t samples, std::int64_t outputs) {
  std::vector<Pair> pairs(static_cast<std::size_t>(outputs));
  for (std::int64_t i = 0; i < outputs; ++i) {
    const std::int64_t centre = (2 * i + 1) * samples - outputs;
    const std::int64_t at =
        std::clamp(centre, std::int64_t{0}, 2 * outputs * (samples - 1));
    pairs[static_cast<std::size_t>(i)] = {static_cast<std::int32_t>(at / (2 * outputs)),
                                          static_cast<std::uint32_t>(at % (2 * outputs))};
  }
  return pairs;
}

// ---- colours ------------------------------------------------------------------------------------

// In double, a coefficient is right to 1e-11 of 1/65536 and none is that close to a half.
std::int32_t rounded(double coefficient) {
  return static_cast<std::int32_t>(std::floor(coefficient * 65536.0 + 0.5));
}

Colours colours_of(const Image& image, Colour colour) {
  Colours result;
  const bool rgb = colour == Colour::rgb;
  if (image.format == PixelFormat::rgb || image.format == PixelFormat::bgr) {
    result.kind = rgb ? Colours::Kind::rgb_to_rgb : Colours::Kind::rgb_to_gray;
    return result;
  }
  result.matrix = colour_matrix(image.matrix, image.full_range);
  if (!rgb || image.format == PixelFormat::gray) {
    result.kind = rgb ? Colours::Kind::gray_to_rgb : Colours::Kind::gray_to_gray;
  } else {
    result.kind = Colours::Kind::yuv_to_rgb;
  }
  return result;
}

// Grows and never shrinks, so that a camera that changes its size does not allocate each time.
template <typename T>
T* at_least(std::vector<T>& space, std::size_t size) {
  if (space.size() < size) space.resize(size);
  return space.data();
}

std::size_t padded(std::size_t size) {
  const std::size_t tiles = 2 * kernels::tile;
  return (size + tiles - 1) / tiles * tiles;
}

}  // namespace

const char* name(Simd simd) noexcept {
  switch (simd) {
    case Simd::avx512:
      return "avx512";
    case Simd::avx2:
      return "avx2";
    case Simd::baseline:
      break;
  }
  return "baseline";
}

std::vector<Simd> usable_simd() {
  const char* limit = std::getenv("VAD_SIMD");
  const std::string asked = limit == nullptr ? "" : limit;
  std::vector<Simd> usable;
  for (const Simd simd : {Simd::avx512, Simd::avx2, Simd::baseline}) {
    if (asked == "avx2" && simd == Simd::avx512) continue;
    if (asked == "baseline" && simd != Simd::baseline) continue;
    if (kernels_of(simd) != nullptr && processor_has(simd)) usable.push_back(simd);
  }
  return usable;
}

ColourMatrix colour_matrix(Matrix matrix, bool full_range) {
  double kr = 0.299;
  double kb = 0.114;
  if (matrix == Matrix::bt709) {
    kr = 0.2126;
    kb = 0.0722;
  } else if (matrix == Matrix::bt2020) {
    kr = 0.2627;
    kb = 0.0593;
  }
  const double kg = 1.0 - kr - kb;
  const double chroma = full_range ? 1.0 : 255.0 / 224.0;
  ColourMatrix result;
  result.luma_offset = full_range ? 0 : 16;
  result.luma = rounded(full_range ? 1.0 : 255.0 / 219.0);
  result.red_cr = rounded(2.0 * (1.0 - kr) * chroma);
  result.green_cb = rounded(2.0 * (1.0 - kb) * kb / kg * chroma);
  result.green_cr = rounded(2.0 * (1.0 - kr) * kr / kg * chroma);
  result.blue_cb = rounded(2.0 * (1.0 - kb) * chroma);
  return result;
}

struct Resizer::State {
  // What a plane needs of a size; kept until a plane of another size comes.
  struct Axes {
    int width = 0;
    int height = 0;
    bool area = false;
    bool small = false;
    std::uint32_t column_parts = 1;
    std::uint32_t row_parts = 1;
    kernels::Divisor divisor;
    std::vector<Edge> column_edges;
    std::vector<Edge> row_edges;
    std::vector<std::int32_t> lefts;
    std::vector<std::uint32_t> weights;
    std::vector<Pair> rows;
  };

  Target target;
  Simd simd;
  const Kernels* kernels;
  std::array<Axes, 2> axes;  // of luma or the only plane, and of the chroma planes
  std::array<std::vector<std::uint8_t>, 3> planes;
  std::vector<std::uint8_t> colour_work;
  std::vector<std::uint16_t> sums;
  std::vector<std::uint16_t> turned;
  std::vector<std::uint16_t> quotients;
  std::vector<std::uint16_t> pairs;
  std::vector<std::uint32_t> wide;
  std::array<std::vector<std::uint32_t>, 2> blended;

  std::size_t pixels() const {
    return static_cast<std::size_t>(target.width) * static_cast<std::size_t>(target.height);
  }
  const Axes& axes_for(const Source& source, Axes& kept) const;
  void resize(const Source& source, Axes& kept, std::uint8_t* const* out);
  void area(const Source& source, const Axes& sizes, std::uint8_t* const* out);
  void bilinear(const Source& source, const Axes& sizes, std::uint8_t* const* out);
};

const Resizer::State::Axes& Resizer::State::axes_for(const Source& source, Axes& kept) const {
  if (kept.width == source.width && kept.height == source.height) return kept;
  Axes made;
  made.width = source.width;
  made.height = source.height;
  made.area = target.interpolation == Interpolation::area && target.width <= source.width &&
              target.height <= source.height;
  const auto across = static_cast<std::uint32_t>(source.width);
  const auto down = static_cast<std::uint32_t>(source.height);
  const auto columns = static_cast<std::uint32_t>(target.width);
  const auto rows = static_cast<std::uint32_t>(target.height);
  std::uint64_t total = 0;
  if (made.area) {
    made.column_edges = edges_of(across, columns);
    made.row_edges = edges_of(down, rows);
    made.column_parts = columns / std::gcd(across, columns);
    made.row_parts = rows / std::gcd(down, rows);
    const std::uint32_t parts = down / std::gcd(down, rows);
    total = std::uint64_t{across / std::gcd(across, columns)} * parts;
    made.small = total <= kernels::small_total && parts <= kernels::small_parts;
  } else {
    made.rows = pairs_of(source.height, target.height);
    made.column_parts = 2 * columns;
    made.row_parts = 2 * rows;
    for (const Pair& pair : pairs_of(source.width, target.width)) {
      // The last column is the whole of the last pair's second sample: nothing is read beyond it.
      const bool last = source.width > 1 && pair.left == source.width - 1;
      made.lefts.push_back(last ? pair.left - 1 : pair.left);
      made.weights.push_back(last ? made.column_parts : pair.weight);
    }
    total = std::uint64_t{made.column_parts} * made.row_parts;
    made.small = total <= kernels::small_total;
  }
  // floor((2 * sum + total) / (2 * total)), also for an odd total.
  made.divisor = {total, total / 2};
  kept = std::move(made);
  return kept;
}

void Resizer::State::resize(const Source& source, Axes& kept, std::uint8_t* const* out) {
  const Axes& sizes = axes_for(source, kept);
  sizes.area ? area(source, sizes, out) : bilinear(source, sizes, out);
}

void Resizer::State::area(const Source& source, const Axes& sizes, std::uint8_t* const* out) {
  const std::size_t samples = static_cast<std::size_t>(source.width) *
                              static_cast<std::size_t>(source.step);
  kernels::Area job;
  job.source = source;
  job.width = target.width;
  job.height = target.height;
  job.columns = sizes.column_edges.data();
  job.rows = sizes.row_edges.data();
  job.column_parts = sizes.column_parts;
  job.row_parts = sizes.row_parts;
  job.small = sizes.small;
  job.divisor = sizes.divisor;
  // The kernel multiplies the column after the last one by 0, one for each step.
  job.pitch = padded(samples + static_cast<std::size_t>(source.step));
  if (sizes.small) {
    job.sums = at_least(sums, job.pitch * kernels::tile);
    job.turned = at_least(turned, job.pitch * kernels::tile);
    job.quotients = at_least(
        quotients, padded(static_cast<std::size_t>(target.width)) * kernels::tile);
  } else {
    job.wide = at_least(wide, job.pitch);
  }
  std::copy(out, out + source.step, job.out);
  kernels->area(job);
}

void Resizer::State::bilinear(const Source& source, const Axes& sizes, std::uint8_t* const* out) {
  const std::size_t width = static_cast<std::size_t>(target.width);
  kernels::Bilinear job;
  job.source = source;
  job.width = target.width;
  job.height = target.height;
  job.lefts = sizes.lefts.data();
  job.weights = sizes.weights.data();
  job.rows = sizes.rows.data();
  job.column_parts = sizes.column_parts;
  job.row_parts = sizes.row_parts;
  job.small = sizes.small;
  job.divisor = sizes.divisor;
  for (std::size_t i = 0; i < 2; ++i) {
    job.blended[i] = at_least(blended[i], width * static_cast<std::size_t>(source.step));
  }
  job.pairs = at_least(pairs, width);
  std::copy(out, out + source.step, job.out);
  kernels->bilinear(job);
}

Resizer::Resizer(Target target) : Resizer(target, best_simd()) {}

Resizer::Resizer(Target target, Simd simd) : state_(std::make_unique<State>()) {
  check_size("a target", target.width, target.height);
  const std::vector<Simd> usable = usable_simd();
  if (std::find(usable.begin(), usable.end(), simd) == usable.end()) {
    throw std::invalid_argument(std::string("this build or this processor has no ") + name(simd));
  }
  state_->target = target;
  state_->simd = simd;
  state_->kernels = kernels_of(simd);
}

Resizer::~Resizer() = default;
Resizer::Resizer(Resizer&&) noexcept = default;
Resizer& Resizer::operator=(Resizer&&) noexcept = default;

const Target& Resizer::target() const noexcept { return state_->target; }

Simd Resizer::simd() const noexcept { return state_->simd; }

void Resizer::operator()(const Image& image, std::uint8_t* out) {
  State& state = *state_;
  const Layout layout = layout_of(image.format);
  const std::array<Source, 3> sources = sources_of(image, layout);
  const Colours colours = colours_of(image, state.target.colour);
  const std::size_t pixels = state.pixels();

  // Luma that needs no stretching is resized into its place.
  const bool gray = colours.kind == Colours::Kind::gray_to_gray;
  if (gray && image.full_range) {
    state.resize(sources[0], state.axes[0], &out);
    return;
  }
  std::array<std::uint8_t*, 3> planes{};
  const bool one_plane = gray || colours.kind == Colours::Kind::gray_to_rgb;
  for (std::size_t i = 0; i < (one_plane ? 1U : 3U); ++i) {
    planes[i] = at_least(state.planes[i], pixels);
  }
  // Blue first: the planes are filled in the other order.
  if (image.format == PixelFormat::bgr) std::swap(planes[0], planes[2]);
  state.resize(sources[0], state.axes[0], planes.data());
  if (image.format == PixelFormat::bgr) std::swap(planes[0], planes[2]);
  if (colours.kind == Colours::Kind::yuv_to_rgb) {
    for (int i = 1; i < layout.planes; ++i) {
      const std::size_t at = static_cast<std::size_t>(i);
      state.resize(sources[at], state.axes[1], planes.data() + at);
    }
  }
  state.kernels->colours(colours, planes.data(), pixels,
                         at_least(state.colour_work, 3 * kernels::work_pixels), out);
}

}  // namespace vad
