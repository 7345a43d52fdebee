// The Python face of the native parts: vad_runtime._native (typed in vad_runtime/_native.pyi).

#include <cerrno>
#include <cstdint>
#include <exception>
#include <stdexcept>
#include <string>
#include <system_error>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "vad/mirrored.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Bytes = nb::ndarray<nb::numpy, std::uint8_t, nb::ndim<1>, nb::c_contig>;

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
}
