// The sidecar of a plan, read strictly: the twin of vad_runtime.contracts.engine.

#include <algorithm>
#include <array>
#include <limits>

#include "tensorrt_plan.hpp"
#include "vad/error.hpp"

namespace vad::tensorrt {
namespace {

constexpr std::int64_t newest_schema = 1;
constexpr const char* again = "Build the engine again with: vad-export build-engine";

constexpr std::array<const char*, 24> keys{
    "schema",       "file",          "sha256",  "bytes",
    "family",       "version",       "architecture", "sms",
    "later_sms",    "gpu",           "cuda",    "l4t",
    "version_compatible", "hardware_compatible", "host_code", "precision",
    "source",       "source_sha256", "inputs",  "outputs",
    "batches",      "options",       "build",   "created",
};

// Takes the members of one object; each refusal names the file and the path of the key.
class Reader {
 public:
  Reader(const Json& object, std::string where, std::string path)
      : object_(object), where_(std::move(where)), path_(std::move(path)) {
    if (object_.as_object() == nullptr) refuse("expected an object", path_);
  }

  template <typename Names>
  void only(const Names& names) const {
    for (const auto& member : *object_.as_object()) {
      const bool known = std::any_of(names.begin(), names.end(),
                                     [&](const char* name) { return member.first == name; });
      if (!known) refuse("unknown key `" + member.first + "`", path_);
    }
  }

  const Json& need(const char* name) const {
    const Json* found = object_.find(name);
    if (found == nullptr) refuse(std::string("missing key `") + name + "`", path_);
    return *found;
  }
  const Json* optional(const char* name) const { return object_.find(name); }

  std::string text(const char* name) const { return text_of(need(name), name); }
  std::optional<std::string> text_or_null(const char* name) const {
    const Json* found = optional(name);
    if (found == nullptr || found->is_null()) return std::nullopt;
    return text_of(*found, name);
  }
  std::string text_or_empty(const char* name) const {
    const Json* found = optional(name);
    return found == nullptr ? std::string() : text_of(*found, name);
  }
  bool flag(const char* name) const {
    const Json* found = optional(name);
    if (found == nullptr) return false;
    const bool* value = found->as_bool();
    if (value == nullptr) refuse("expected true or false", path_ + "." + name);
    return *value;
  }
  std::int64_t number(const char* name) const { return number_of(need(name), name); }
  std::vector<std::int64_t> numbers(const char* name) const {
    std::vector<std::int64_t> found;
    for (const Json& item : list(name)) found.push_back(number_of(item, name));
    return found;
  }
  // Compute capabilities and batches; Python takes any whole number, and none beyond an int fits.
  std::vector<int> small_numbers(const char* name) const {
    std::vector<int> found;
    for (const std::int64_t value : numbers(name)) {
      constexpr std::int64_t most = std::numeric_limits<int>::max();
      found.push_back(static_cast<int>(std::min(std::max(value, -most), most)));
    }
    return found;
  }
  const Json::Array& list(const char* name) const {
    const Json::Array* found = need(name).as_array();
    if (found == nullptr) refuse("expected a list", path_ + "." + name);
    return *found;
  }
  std::vector<Tensor> tensors(const char* name) const {
    std::vector<Tensor> found;
    for (const Json& item : list(name)) {
      const Reader one(item, where_, path_ + "." + name + "[...]");
      one.only(std::array<const char*, 3>{"name", "dtype", "shape"});
      found.push_back({one.text("name"), one.text("dtype"), one.numbers("shape")});
    }
    return found;
  }
  Json object(const char* name) const {
    const Json* found = optional(name);
    if (found == nullptr) return Json::Object{};
    if (found->as_object() == nullptr) refuse("expected an object", path_ + "." + name);
    return *found;
  }

  [[noreturn]] void refuse(const std::string& what, const std::string& path) const {
    throw Error(where_ + ": " + what + (path == "$" ? "" : " at `" + path + "`") + ". " + again);
  }

 private:
  std::string text_of(const Json& value, const char* name) const {
    const std::string* found = value.as_string();
    if (found == nullptr) refuse("expected a text", path_ + "." + name);
    return *found;
  }
  std::int64_t number_of(const Json& value, const char* name) const {
    if (const std::int64_t* found = value.as_int()) return *found;
    // msgspec takes 1.0 for a whole number, too.
    const double* real = value.as_double();
    constexpr double limit = 9007199254740992.0;  // 2^53: beyond it, a double skips whole numbers
    if (real != nullptr && *real > -limit && *real < limit) {
      const auto whole = static_cast<std::int64_t>(*real);
      if (static_cast<double>(whole) == *real) return whole;
    }
    refuse("expected a whole number", path_ + "." + name);
  }

  const Json& object_;
  std::string where_;
  std::string path_;
};

Json parsed(std::string_view text, const std::string& where) {
  try {
    return Json::parse(text);
  } catch (const Error& error) {
    throw Error(where + ": not JSON (" + error.what() + "). " + again);
  }
}

}  // namespace

Sidecar Sidecar::parse(std::string_view text, const std::string& where) {
  const Json json = parsed(text, where);
  const Json* schema = json.find("schema");
  if (schema == nullptr || schema->as_int() == nullptr) {
    throw Error(where + ": no schema number, so no sidecar of an engine. " + again);
  }
  if (*schema->as_int() > newest_schema) {
    throw Error(where + ": engine schema " + std::to_string(*schema->as_int()) +
                ", but this vad-edge reads up to " + std::to_string(newest_schema) +
                ". Install a newer vad-edge.");
  }
  const Reader all(json, where, "$");
  all.only(keys);
  Sidecar found;
  found.file = all.text("file");
  found.sha256 = all.text("sha256");
  found.bytes = all.number("bytes");
  if (found.bytes < 1) all.refuse("expected a number >= 1", "$.bytes");
  const std::string family = all.text("family");
  if (family != "tensorrt" && family != "rtx") all.refuse("unknown family " + family, "$.family");
  found.family = family == "rtx" ? Family::rtx : Family::tensorrt;
  found.version = all.text("version");
  found.architecture = all.text("architecture");
  found.sms = all.small_numbers("sms");
  found.later_sms = all.flag("later_sms");
  found.gpu = all.text_or_null("gpu");
  found.cuda = all.text_or_null("cuda");
  found.l4t = all.text_or_null("l4t");
  found.version_compatible = all.flag("version_compatible");
  found.hardware_compatible = all.flag("hardware_compatible");
  found.host_code = all.flag("host_code");
  const std::string precision = all.text("precision");
  const std::optional<Precision> known = precision_from_name(precision);
  if (!known) all.refuse("unknown precision " + precision, "$.precision");
  found.precision = *known;
  found.source = all.text("source");
  found.source_sha256 = all.text("source_sha256");
  found.inputs = all.tensors("inputs");
  found.outputs = all.tensors("outputs");
  found.batches = all.small_numbers("batches");
  found.options = all.object("options");
  all.object("build");
  found.created = all.text_or_empty("created");
  return found;
}

}  // namespace vad::tensorrt
