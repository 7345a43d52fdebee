// Takes a JSON object apart strictly: what is missing, unknown, or of another kind is an error that
// names the place, in the words of Python's msgspec.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "vad/json.hpp"

namespace vad {

// A reason without the file's name and the next step, which Manifest::parse() adds.
class BadValue {
 public:
  // `where` is a place as msgspec writes it: `$.clip.frames`; `$` is the whole and is left out.
  BadValue(const std::string& reason, const std::string& where)
      : reason_(where == "$" ? reason : reason + " - at `" + where + '`') {}
  const std::string& reason() const noexcept { return reason_; }

 private:
  std::string reason_;
};

// One value and the place where it stands.
struct Value {
  const Json* json;
  std::string where;

  [[noreturn]] void refuse(const std::string& reason) const { throw BadValue(reason, where); }

  [[noreturn]] void refuse_kind(const std::string& wanted) const {
    refuse("Expected `" + wanted + "`, got `" + kind() + '`');
  }

  const char* kind() const noexcept {
    if (json->as_bool() != nullptr) return "bool";
    if (json->as_int() != nullptr) return "int";
    if (json->as_double() != nullptr) return "float";
    if (json->as_string() != nullptr) return "str";
    if (json->as_array() != nullptr) return "array";
    return json->as_object() != nullptr ? "object" : "null";
  }

  bool flag() const {
    if (json->as_bool() == nullptr) refuse_kind("bool");
    return *json->as_bool();
  }

  const std::string& text(const char* wanted = "str") const {
    if (json->as_string() == nullptr) refuse_kind(wanted);
    return *json->as_string();
  }

  // Whole numbers are numbers too.
  double real(const char* wanted = "float") const {
    if (const std::int64_t* integer = json->as_int()) return static_cast<double>(*integer);
    if (json->as_double() == nullptr) refuse_kind(wanted);
    return *json->as_double();
  }

  double positive(const char* wanted = "float") const {
    const double value = real(wanted);
    if (value <= 0) refuse("Expected `float` > 0.0");
    return value;
  }

  std::int64_t whole(const char* wanted = "int") const {
    if (json->as_int() == nullptr) refuse_kind(wanted);
    return *json->as_int();
  }

  // Python has no upper limit, but no clip, filter or score has as many.
  int count() const {
    const std::int64_t value = whole();
    constexpr int largest = std::numeric_limits<int>::max();
    if (value < -largest || value > largest) {
      refuse("Expected `int` of at most " + std::to_string(largest));
    }
    return static_cast<int>(value);
  }

  int count_from(int lowest) const {
    const int value = count();
    if (value < lowest) refuse("Expected `int` >= " + std::to_string(lowest));
    return value;
  }

  const Json::Array& array() const {
    if (json->as_array() == nullptr) refuse_kind("array");
    return *json->as_array();
  }

  const Json::Object& object(const char* wanted = "object") const {
    if (json->as_object() == nullptr) refuse_kind(wanted);
    return *json->as_object();
  }

  // Position of a text among `names`.
  std::size_t one_of(std::initializer_list<std::string_view> names) const {
    const auto found = std::find(names.begin(), names.end(), text());
    if (found == names.end()) refuse("Invalid enum value '" + text() + '\'');
    return static_cast<std::size_t>(found - names.begin());
  }
};

// The members of an object, all of which have one of `names`.
class Fields {
 public:
  Fields(Value value, std::initializer_list<std::string_view> names, const char* wanted = "object")
      : value_(std::move(value)) {
    for (const auto& [name, member] : value_.object(wanted)) {
      (void)member;
      if (std::find(names.begin(), names.end(), name) == names.end()) {
        refuse("Object contains unknown field `" + name + '`');
      }
    }
  }

  [[noreturn]] void refuse(const std::string& reason) const { value_.refuse(reason); }

  Value required(const std::string& name) const {
    if (const auto value = optional(name)) return *value;
    refuse("Object missing required field `" + name + '`');
  }

  // None where the member is missing.
  std::optional<Value> optional(const std::string& name) const {
    const Json* member = value_.json->find(name);
    if (member == nullptr) return std::nullopt;
    return Value{member, value_.where + '.' + name};
  }

  // None where the member is missing or null.
  std::optional<Value> nullable(const std::string& name) const {
    const auto value = optional(name);
    return value && value->json->is_null() ? std::nullopt : value;
  }

 private:
  Value value_;
};

}  // namespace vad
