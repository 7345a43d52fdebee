// For tests/runtime/test_cpp_tensorrt.py: one case of JSON a line in, one answer a line out.
//
//     {"call": "plan_for", "bundle": …, "sha256": …, "precision": …, "engine": …, "machine": {…},
//      "clip": [T, H, W, C] or null, "no_sidecar": …}
//     {"call": "open", "bundle": …, "precision": …, "engine": …, "host_code": …, "graphs": …,
//      "no_sidecar": …, "device": …, "frames": n, "rings": n}    opens TensorRT and scores n grey ramps
//
// An answer is {"plan": …, "flavour": …, …}, {"device": …, "scores": [[…]]} or {"error": …}.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "backends/tensorrt_fit.hpp"
#include "vad/backend.hpp"
#include "vad/error.hpp"
#include "vad/json.hpp"

namespace {

using vad::Json;
using vad::tensorrt::Flavour;

std::string text(const Json& json, const char* name) {
  const Json* found = json.find(name);
  return found == nullptr || found->is_null() ? std::string() : *found->as_string();
}

std::int64_t number(const Json& json, const char* name, std::int64_t otherwise = 0) {
  const Json* found = json.find(name);
  return found == nullptr || found->is_null() ? otherwise : *found->as_int();
}

bool flag(const Json& json, const char* name, bool otherwise) {
  const Json* found = json.find(name);
  return found == nullptr ? otherwise : *found->as_bool();
}

vad::tensorrt::Machine machine_of(const Json& json) {
  vad::tensorrt::Machine machine;
  machine.architecture = text(json, "architecture");
  machine.missing = text(json, "missing");
  if (!text(json, "cuda").empty()) machine.cuda = text(json, "cuda");
  if (!text(json, "l4t").empty()) machine.l4t = text(json, "l4t");
  if (number(json, "sm") != 0) {
    machine.gpu.emplace();
    machine.gpu->sm = static_cast<int>(number(json, "sm"));
    machine.gpu->name = text(json, "gpu");
  }
  const Json* libraries = json.find("libraries");
  for (const Flavour flavour : {Flavour::tensorrt, Flavour::lean, Flavour::dispatch}) {
    const char* name = flavour == Flavour::tensorrt ? "tensorrt"
                       : flavour == Flavour::lean   ? "lean"
                                                    : "dispatch";
    const std::string version = text(*libraries, name);
    if (!version.empty()) machine.libraries.emplace_back(flavour, version);
  }
  return machine;
}

Json plan_for(const Json& json) {
  const vad::tensorrt::Machine machine = machine_of(*json.find("machine"));
  const vad::tensorrt::Fit fit =
      flag(json, "no_sidecar", false)
          ? vad::tensorrt::bare_plan("model.onnx", {}, machine, text(json, "engine"))
          : vad::tensorrt::plan_for(text(json, "bundle"), text(json, "sha256"),
                                    *vad::precision_from_name(text(json, "precision")), machine,
                                    text(json, "engine"));
  const Json* clip = json.find("clip");
  if (clip != nullptr && !clip->is_null()) {
    const auto size = [&](std::size_t i) {
      return static_cast<int>(*(*clip->as_array())[i].as_int());
    };
    vad::Manifest manifest;
    manifest.clip.frames = size(0);
    manifest.clip.height = size(1);
    manifest.clip.width = size(2);
    manifest.clip.colour = size(3) == 1 ? vad::Colour::gray : vad::Colour::rgb;
    vad::tensorrt::require_shape(fit, manifest);
  }
  return Json::Object{{"plan", fit.plan},
                      {"flavour", vad::tensorrt::title(fit.flavour)},
                      {"version", fit.header.version},
                      {"offset", static_cast<std::int64_t>(fit.header.offset)},
                      {"rebuild", fit.rebuild}};
}

// Frame i of ring r is grey of 10 * r + i; from the first whole clip on, each frame gives scores.
Json opened(const Json& json) {
  const vad::Bundle bundle = vad::Bundle::open(text(json, "bundle"), false);
  vad::BackendOptions options;
  if (!text(json, "precision").empty()) {
    options.precision = vad::precision_from_name(text(json, "precision"));
  }
  if (!text(json, "device").empty()) options.device = text(json, "device");
  options.engine = text(json, "engine");
  options.host_code = flag(json, "host_code", false);
  options.no_sidecar = flag(json, "no_sidecar", false);
  options.graphs = flag(json, "graphs", true);
  const vad::Choice choice = vad::open_backend(bundle, "tensorrt", options);
  vad::Backend* const backend = choice.backend.get();
  const vad::ClipSpec& clip = bundle.manifest().clip;
  std::vector<std::unique_ptr<vad::Ring>> rings;
  for (std::int64_t r = 0; r < number(json, "rings", 1); ++r) rings.push_back(backend->ring());
  Json::Array all;
  for (std::int64_t i = 0; i < number(json, "frames"); ++i) {
    for (std::size_t r = 0; r < rings.size(); ++r) {
      std::memset(rings[r]->slot(), static_cast<int>(10 * r) + static_cast<int>(i),
                  clip.frame_bytes());
      rings[r]->commit();
      if (i + 1 < clip.frames) continue;
      Json::Array scores;
      for (const float score : backend->infer(rings[r]->latest())) {
        scores.emplace_back(static_cast<double>(score));
      }
      all.emplace_back(std::move(scores));
    }
  }
  return Json::Object{{"device", backend->device()},
                      {"artefact", choice.artefact},
                      {"scores", std::move(all)}};
}

}  // namespace

int main() {
  std::string line;
  while (std::getline(std::cin, line)) {
    Json answer;
    try {
      const Json json = Json::parse(line);
      answer = text(json, "call") == "open" ? opened(json) : plan_for(json);
    } catch (const vad::Error& error) {
      answer = Json::Object{{"error", error.what()}};
    }
    std::cout << answer.dump() << std::endl;
  }
  return 0;
}
