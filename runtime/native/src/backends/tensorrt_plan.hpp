// TensorRT plans as files: header and sidecar, as vad_runtime.engines.plan_file and
// contracts.engine read them. Needs no TensorRT.
//
// A plan says little about itself, and TensorRT says "failed" about a wrong one, or ends the
// process. So a file is looked at here first.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "vad/manifest.hpp"

namespace vad::tensorrt {

enum class Family : std::uint8_t { tensorrt, rtx };

// The command to give where the bundle is not known.
inline constexpr const char* build_command = "vad-export build-engine BUNDLE";

// What a plan says about itself.
struct PlanHeader {
  Family family = Family::tensorrt;
  std::string version;                  // of the library that built it: "10.3.0", "1.7.1.116"
  std::optional<std::uint64_t> size;    // of the plan in bytes; TensorRT's own plans do not say
  std::optional<std::vector<int>> sms;  // compute capabilities; TensorRT's own plans do not say
  bool later_sms = false;               // it also runs on GPUs that came after those
  std::uint64_t offset = 0;             // where the plan begins: behind a wrapper of others
  bool wrapped = false;                 // Ultralytics' metadata stand in front of it
};

// Throws Error: missing, a folder, unreadable, empty, a text, a graph, no plan, cut off. Before 8.6
// the version stood elsewhere: with `any_version`, none or a wrong one is taken.
PlanHeader read_header(const std::string& plan, const std::string& build = build_command,
                       bool any_version = false);

struct Tensor {
  std::string name;
  std::string dtype;                // as NumPy calls it
  std::vector<std::int64_t> shape;  // -1 = the batch
};

// The content of PLAN.engine.json; contracts/engine.py explains each field.
struct Sidecar {
  std::string file;
  std::string sha256;
  std::int64_t bytes = 0;
  Family family = Family::tensorrt;
  std::string version;
  std::string architecture;
  std::vector<int> sms;
  bool later_sms = false;
  std::optional<std::string> gpu;
  std::optional<std::string> cuda;
  std::optional<std::string> l4t;
  bool version_compatible = false;
  bool hardware_compatible = false;
  bool host_code = false;
  Precision precision = Precision::fp32;
  std::string source;
  std::string source_sha256;
  std::vector<Tensor> inputs;
  std::vector<Tensor> outputs;
  std::vector<int> batches;
  Json options = Json::Object{};
  std::string created;

  // Throws Error: not JSON, a newer schema, an unknown or missing key, a wrong type.
  static Sidecar parse(std::string_view text, const std::string& where);
};

// Reads PLAN.json beside the plan. `header` = what read_header() gave, if it was called: a plan
// that others wrote gets another message. Throws Error: as parse(), or there is none.
Sidecar read_sidecar(const std::string& plan, const PlanHeader* header = nullptr,
                     const std::string& build = build_command);

}  // namespace vad::tensorrt
