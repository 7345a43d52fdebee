// The Python face of the native parts: vad_runtime._native (typed in vad_runtime/_native.pyi).

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "vad/mirrored.hpp"
#include "vad/resize.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Bytes = nb::ndarray<nb::numpy, std::uint8_t, nb::ndim<1>, nb::c_contig>;

// Any strides between the rows, and a picture that may not be written to.
using PlaneArray = nb::ndarray<const std::uint8_t, nb::ndim<2>, nb::device::cpu>;
using Picture = nb::ndarray<std::uint8_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

// The value that goes by that name; the message lists the names.
template <typename Value>
Value named(const char* what, const std::string& name,
            const std::vector<std::pair<const char*, Value>>& values) {
  std::string names;
  for (const auto& [known, value] : values) {
    if (name == known) return value;
    names += (names.empty() ? "" : ", ") + std::string(known);
  }
  throw std::invalid_argument(std::string(what) + " must be one of " + names + ", not '" + name +
                              "'");
}

int size_of(const char* what, std::size_t size) {
  if (size > 65535) {
    throw std::invalid_argument(std::string(what) + " must be at most 65535, not " +
                                std::to_string(size));
  }
  return static_cast<int>(size);
}

vad::Plane plane_of(const PlaneArray& array, std::size_t index, std::size_t step) {
  const std::string what = "plane " + std::to_string(index);
  const std::size_t row = array.shape(1);
  if (array.size() == 0) throw std::invalid_argument(what + " is empty");
  if (row % step != 0) {
    throw std::invalid_argument(what + " must have rows of a multiple of " + std::to_string(step) +
                                " bytes, not " + std::to_string(row));
  }
  if (row > 1 && array.stride(1) != 1) {
    throw std::invalid_argument(what + " must have the bytes of a row side by side");
  }
  return {array.data(), static_cast<std::ptrdiff_t>(array.stride(0)),
          size_of("the width of a plane", row / step),
          size_of("the height of a plane", array.shape(0))};
}

vad::Image image_of(const std::string& format, const std::vector<PlaneArray>& planes,
                    const std::string& matrix, bool full_range) {
  using vad::Matrix;
  using vad::PixelFormat;
  vad::Image image;
  image.format = named<PixelFormat>("format", format,
                                    {{"gray", PixelFormat::gray},
                                     {"rgb", PixelFormat::rgb},
                                     {"bgr", PixelFormat::bgr},
                                     {"nv12", PixelFormat::nv12},
                                     {"yuv", PixelFormat::yuv}});
  image.matrix = named<Matrix>("matrix", matrix,
                               {{"bt601", Matrix::bt601},
                                {"bt709", Matrix::bt709},
                                {"bt2020", Matrix::bt2020}});
  image.full_range = full_range;
  const bool packed = image.format == PixelFormat::rgb || image.format == PixelFormat::bgr;
  const bool nv12 = image.format == PixelFormat::nv12;
  const std::size_t count = image.format == PixelFormat::yuv ? 3 : nv12 ? 2 : 1;
  if (planes.size() != count) {
    throw std::invalid_argument(format + " has " + std::to_string(count) +
                                (count == 1 ? " plane" : " planes") + ", not " +
                                std::to_string(planes.size()));
  }
  for (std::size_t i = 0; i < count; ++i) {
    image.planes[i] = plane_of(planes[i], i, packed ? 3 : nv12 && i == 1 ? 2 : 1);
  }
  image.width = image.planes[0].width;
  image.height = image.planes[0].height;
  return image;
}

// Its work space serves one call at a time, and Python may call from several threads.
class LockedResizer {
 public:
  LockedResizer(vad::Target target, vad::Simd simd) : resizer_(target, simd) {}

  const char* simd() const { return vad::name(resizer_.simd()); }

  void resize(const vad::Image& image, const Picture& out) {
    const vad::Target& target = resizer_.target();
    const auto wrong = [&](std::size_t axis, int size) {
      return out.shape(axis) != static_cast<std::size_t>(size);
    };
    if (wrong(0, target.height) || wrong(1, target.width) || wrong(2, target.channels())) {
      throw std::invalid_argument("out must have the shape (" + std::to_string(target.height) +
                                  ", " + std::to_string(target.width) + ", " +
                                  std::to_string(target.channels()) + ")");
    }
    std::uint8_t* data = out.data();
    const nb::gil_scoped_release released;
    const std::lock_guard<std::mutex> lock(mutex_);
    resizer_(image, data);
  }

 private:
  vad::Resizer resizer_;
  std::mutex mutex_;
};

vad::Simd simd_of(const std::optional<std::string>& name) {
  const std::vector<vad::Simd> usable = vad::usable_simd();
  if (!name) return usable.front();
  std::vector<std::pair<const char*, vad::Simd>> names;
  for (const vad::Simd simd : usable) names.emplace_back(vad::name(simd), simd);
  return named<vad::Simd>("simd", *name, names);
}

void raise_os_error(const std::exception_ptr& pointer, void* /* payload */) {
  try {
    std::rethrow_exception(pointer);
  } catch (const std::system_error& error) {
    errno = error.code().value();
    PyErr_SetFromErrno(PyExc_OSError);
  }
}

}  // namespace

NB_MODULE(_native, module) {
  // A thread that hangs in a driver or a network when the process ends keeps its ring: that is no
  // mistake in counting, and nine lines about it would stand below an operator's last line.
  nb::set_leak_warnings(false);
  nb::register_exception_translator(raise_os_error);

  nb::class_<vad::MirroredBuffer>(
      module, "MirroredBuffer",
      "Memory mapped twice back to back: byte i and byte i + capacity are the same byte.")
      .def(
          "__init__",
          [](vad::MirroredBuffer* self, std::int64_t bytes) {
            // As a signed number, -1 is a ValueError with the value in it, like any wrong size.
            if (bytes < 0) {
              throw std::invalid_argument("bytes must be a positive multiple of the page size " +
                                          std::to_string(vad::MirroredBuffer::page_size()) +
                                          ", not " + std::to_string(bytes));
            }
            new (self) vad::MirroredBuffer(static_cast<std::size_t>(bytes));
          },
          "bytes"_a)
      .def_static("page_size", &vad::MirroredBuffer::page_size)
      .def_prop_ro("capacity", &vad::MirroredBuffer::capacity)
      .def_prop_ro(
          "array",
          [](nb::pointer_and_handle<vad::MirroredBuffer> self) {
            // The owner `self.h` keeps the mapping alive as long as the array or a view of it.
            return Bytes(self.p->data(), {2 * self.p->capacity()}, self.h);
          },
          nb::rv_policy::reference);
  nb::class_<LockedResizer>(
      module, "Resizer",
      "The portable resizer: from a decoder's planes to model size, the same bytes everywhere.")
      .def(
          "__init__",
          [](LockedResizer* self, std::int64_t height, std::int64_t width,
             const std::string& colour, const std::string& interpolation,
             const std::optional<std::string>& simd) {
            for (const std::int64_t size : {height, width}) {
              if (size < 1 || size > 65535) {
                throw std::invalid_argument("height and width must be 1 to 65535, not " +
                                            std::to_string(size));
              }
            }
            vad::Target target;
            target.height = static_cast<int>(height);
            target.width = static_cast<int>(width);
            target.colour = named<vad::Colour>(
                "colour", colour, {{"gray", vad::Colour::gray}, {"rgb", vad::Colour::rgb}});
            target.interpolation =
                named<vad::Interpolation>("interpolation", interpolation,
                                          {{"area", vad::Interpolation::area},
                                           {"bilinear", vad::Interpolation::bilinear}});
            new (self) LockedResizer(target, simd_of(simd));
          },
          "height"_a, "width"_a, "colour"_a, "interpolation"_a, "simd"_a = nb::none())
      .def_prop_ro("simd", &LockedResizer::simd)
      .def(
          "__call__",
          [](LockedResizer& self, const std::string& format,
             const std::vector<PlaneArray>& planes, const std::string& matrix, bool full_range,
             const Picture& out) {
            self.resize(image_of(format, planes, matrix, full_range), out);
          },
          "format"_a, "planes"_a.noconvert(), "matrix"_a, "full_range"_a, "out"_a.noconvert());

  module.def("usable_simd", [] {
    std::vector<std::string> names;
    for (const vad::Simd simd : vad::usable_simd()) names.emplace_back(vad::name(simd));
    return names;
  });
}
