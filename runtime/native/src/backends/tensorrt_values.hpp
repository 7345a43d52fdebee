// Shapes, element types and numbers of TensorRT, whichever version they come from.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

#include <NvInferRuntime.h>

namespace vad::tensorrt {

using Shape = std::vector<std::int64_t>;

// An element type: nvinfer1::DataType. Its numbers are the same in all versions, its names are not
// (8.5 has no kBF16 and no kINT64).
struct Type {
  const char* name;
  std::size_t bytes;  // 0 = elements are no whole bytes, or nobody knows
};

inline Type type_of(nvinfer1::DataType type) {
  static const std::map<std::int32_t, Type> known{
      {0, {"float32", 4}}, {1, {"float16", 2}}, {2, {"int8", 1}},     {3, {"int32", 4}},
      {4, {"bool", 1}},    {5, {"uint8", 1}},   {6, {"float8", 1}},   {7, {"bfloat16", 2}},
      {8, {"int64", 8}},
  };
  const auto found = known.find(static_cast<std::int32_t>(type));
  return found == known.end() ? Type{"of an unknown type", 0} : found->second;
}

inline Shape shape_of(const nvinfer1::Dims& dims) {
  Shape shape;
  for (std::int32_t i = 0; i < dims.nbDims; ++i) shape.push_back(dims.d[i]);
  return shape;
}

inline nvinfer1::Dims dims_of(const Shape& shape) {
  nvinfer1::Dims dims{};
  dims.nbDims = static_cast<std::int32_t>(shape.size());
  for (std::size_t i = 0; i < shape.size(); ++i) {
    // 32 bits up to 8.6, 64 from 10 on.
    dims.d[i] = static_cast<std::remove_reference_t<decltype(dims.d[0])>>(shape[i]);
  }
  return dims;
}

inline std::string text_of(const Shape& shape) {
  std::string text;
  for (const std::int64_t size : shape) {
    text += (text.empty() ? "" : ", ") + (size < 0 ? std::string("N") : std::to_string(size));
  }
  return "(" + text + ")";
}

inline std::size_t elements_of(const Shape& shape) {
  std::size_t count = 1;
  for (const std::int64_t size : shape) count *= static_cast<std::size_t>(size);
  return count;
}

// IEEE 754 binary16.
inline float float_from_half(std::uint16_t half) {
  const int exponent = half >> 10 & 31;
  const auto fraction = static_cast<float>(half & 1023);
  float value = 0.0F;
  if (exponent == 31) {
    value = fraction == 0.0F ? INFINITY : NAN;
  } else if (exponent == 0) {
    value = std::ldexp(fraction, -24);
  } else {
    value = std::ldexp(1024.0F + fraction, exponent - 25);
  }
  return (half & 0x8000) != 0 ? -value : value;
}

// Kernels that add up in any order differ a little from run to run.
inline bool alike(const std::vector<float>& one, const std::vector<float>& other) {
  float largest = 0.0F;
  for (const float value : other) {
    if (std::isfinite(value)) largest = std::max(largest, std::fabs(value));
  }
  if (largest == 0.0F) largest = 1.0F;
  return std::equal(one.begin(), one.end(), other.begin(), [&](float a, float b) {
    if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
    return a == b || std::fabs(a - b) <= 0.01F * largest + 0.01F * std::fabs(b);
  });
}

}  // namespace vad::tensorrt
