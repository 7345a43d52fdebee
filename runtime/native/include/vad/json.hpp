// JSON, read strictly (RFC 8259) and written as Python's runtime writes it.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace vad {

class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::vector<std::pair<std::string, Json>>;  // in the order of the text

  Json() = default;  // null
  Json(std::nullptr_t) {}                             // NOLINT: values convert
  Json(bool value) : value_(value) {}                 // NOLINT
  Json(std::int64_t value) : value_(value) {}         // NOLINT
  Json(int value) : value_(std::int64_t{value}) {}    // NOLINT
  Json(double value) : value_(value) {}               // NOLINT
  Json(std::string value) : value_(std::move(value)) {}  // NOLINT
  Json(const char* value) : value_(std::string(value)) {}  // NOLINT
  Json(Array value) : value_(std::move(value)) {}     // NOLINT
  Json(Object value) : value_(std::move(value)) {}    // NOLINT

  // Parses one value with nothing behind it. Throws Error that says where and why: bad syntax, bad
  // UTF-8, a lone surrogate, more than 512 levels, a number that no double holds. A whole number
  // beyond 64 bits becomes a double. A name that an object has twice keeps its first place and its
  // last value, as in Python.
  static Json parse(std::string_view text);
  // `indent` spaces a level, or all on one line for 0; doubles in the fewest digits that come back
  // as they were, as Python's msgspec writes them (1.0, 1e-7, 1.5e300); NaN and infinity are null;
  // bytes that are no UTF-8 become U+FFFD.
  std::string dump(int indent = 0) const;

  bool is_null() const noexcept { return std::holds_alternative<std::monostate>(value_); }
  const bool* as_bool() const noexcept { return std::get_if<bool>(&value_); }
  const std::int64_t* as_int() const noexcept { return std::get_if<std::int64_t>(&value_); }
  const double* as_double() const noexcept { return std::get_if<double>(&value_); }
  const std::string* as_string() const noexcept { return std::get_if<std::string>(&value_); }
  const Array* as_array() const noexcept { return std::get_if<Array>(&value_); }
  const Object* as_object() const noexcept { return std::get_if<Object>(&value_); }
  // The member of that name; of several the last; nullptr if there is none or this is no object.
  const Json* find(std::string_view name) const noexcept;

 private:
  std::variant<std::monostate, bool, std::int64_t, double, std::string, Array, Object> value_;
};

}  // namespace vad
