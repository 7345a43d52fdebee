// Which back end runs a bundle. As vad_runtime/backends/registry.py.

#include <algorithm>
#include <utility>

#include <sys/stat.h>

#include "checks.hpp"
#include "factories.hpp"
#include "number.hpp"
#include "vad/cuda.hpp"
#include "vad/error.hpp"

namespace vad {
namespace {

struct Entry {
  const char* name;
  std::unique_ptr<Backend> (*make)(const std::string&, const Bundle&, const BackendOptions&);
  bool automatic;
  bool gpu;    // it computes on an NVIDIA GPU
  bool plans;  // it runs TensorRT plans, so the options about these mean something to it
};

// `auto` takes the first that works: those for a GPU where there is one, then those for a CPU in
// the order of speed (docs/results/backends.md).
constexpr Entry entries[] = {
#ifdef VAD_WITH_TENSORRT
    {"tensorrt", tensorrt_backend, true, true, true},
#endif
#ifdef VAD_WITH_OPENVINO
    {"openvino", openvino_backend, true, false, false},
#endif
#ifdef VAD_WITH_ONNXRUNTIME
    {"onnxruntime", onnxruntime_backend, true, false, false},
#endif
    {"fake", fake_backend, false, false, false},
};

const char* const fastest = "the fastest installed engine on this CPU";
const char* const first_on_gpu = "the first installed engine that runs it on this GPU";

const Entry* entry_of(const std::string& name) {
  for (const Entry& entry : entries) {
    if (name == entry.name) return &entry;
  }
  return nullptr;
}

bool starts_with(const std::string& text, const std::string& start) {
  return text.compare(0, start.size(), start) == 0;
}

bool is(const std::string& path, mode_t kind) {
  struct stat found{};
  return !path.empty() && stat(path.c_str(), &found) == 0 && (found.st_mode & S_IFMT) == kind;
}

// A message as the middle of another.
std::string without_stop(const Error& error) {
  std::string text = error.what();
  while (!text.empty() && text.back() == '.') text.pop_back();
  return text;
}

// bf16 is arithmetic of the fp32 graph.
Precision artefact_precision(Precision precision) {
  return precision == Precision::bf16 ? Precision::fp32 : precision;
}

std::vector<std::string> plan_options(const BackendOptions& options) {
  std::vector<std::string> given;
  if (!options.engine.empty()) given.emplace_back("--engine");
  if (options.host_code) given.emplace_back("--host-code");
  if (options.no_sidecar) given.emplace_back("--no-sidecar");
  return given;
}

const std::pair<std::string, Artefact>& artefact_for(const Bundle& bundle,
                                                     const BackendOptions& options) {
  const Precision precision = options.precision.value_or(Precision::fp32);
  const auto* found = bundle.manifest().artefact_of(precision);
  if (found != nullptr) return *found;
  const std::string wanted = name(artefact_precision(precision));
  std::vector<std::string> have;
  for (const auto& artefact : bundle.manifest().artefacts) have.push_back(artefact.first);
  throw Error(bundle.name() + " has no " + wanted + " artefact (it has: " + joined(have, ", ") +
              "). " +
              (wanted == "fp32" ? "Export an fp32 graph."
                                : "Make one with: vad-export quantise " + bundle.path() +
                                      " --precision " + wanted));
}

Choice opened(const Bundle& bundle, const Entry& entry, const BackendOptions& options,
              const std::string& reason) {
  const std::vector<std::string> pointless = plan_options(options);
  if (!entry.plans && !pointless.empty()) {
    throw Error(std::string(entry.name) + " runs no TensorRT plans, so " +
                joined(pointless, " and ") + " cannot be honoured. Use --backend tensorrt.");
  }
  const auto& [short_name, artefact] = artefact_for(bundle, options);
  Choice choice;
  choice.backend = entry.make(bundle.file(artefact), bundle, options);
  choice.name = entry.name;
  choice.artefact = options.no_sidecar ? "unknown" : short_name;  // the plan's, and who knows that
  choice.reason = reason;
  return choice;
}

// A plan that was named has a precision; without a sidecar the back end says what is wrong with it.
BackendOptions with_precision_of_plan_file(BackendOptions options) {
  if (!options.precision && is(options.engine, S_IFREG)) {
    options.precision = precision_of_plan(options.engine);
  }
  return options;
}

// The precision of the plans that were built, which is what they were built for.
Precision precision_of_plans(const Bundle& bundle, const BackendOptions& options) {
  std::vector<Precision> found;
  const std::string folder =
      options.engine.empty() ? bundle.path() + "/engines" : options.engine;
  if (is(folder, S_IFDIR)) found = precisions_of_plans(folder);
  if (found.empty() || std::count(found.begin(), found.end(), Precision::fp32) != 0) {
    return Precision::fp32;
  }
  if (found.size() == 1) return found[0];
  std::vector<std::string> names;
  for (const Precision precision : found) names.emplace_back(name(precision));
  std::sort(names.begin(), names.end());
  throw Error(folder + " holds plans in " + joined(names, " and ") +
              ". Say which with --precision.");
}

std::string plan_line(const PlanChoice& plan) {
  const Entry* entry = entry_of(plan.backend);
  const bool on_gpu = entry != nullptr && entry->gpu;
  std::string line = "planned on " + plan.cpu;
  if (plan.target_ms) line += " for " + significant_text(*plan.target_ms, 6) + " ms a clip";
  line += ": " + significant_text(plan.median_ms, 3) + " ms";
  return on_gpu ? line : line + " with " + std::to_string(plan.threads) + " threads";
}

// What the bundle's plan chose; if that cannot be followed, `why_not` becomes the tail of a reason.
std::optional<Choice> planned(const Bundle& bundle, BackendOptions options, std::string& why_not) {
  const std::optional<PlanChoice>& plan = bundle.manifest().plan;
  if (!plan) return std::nullopt;
  try {
    const Entry* entry = entry_of(plan->backend);
    if (entry == nullptr) throw Error("no back end is called '" + plan->backend + "' here");
    if (bundle.manifest().artefact_of(plan->precision) == nullptr) {
      throw Error(std::string("its ") + name(artefact_precision(plan->precision)) +
                  " artefact is gone");
    }
    options.precision = plan->precision;
    return opened(bundle, *entry, options, plan_line(*plan));
  } catch (const Error& error) {
    why_not = "; the plan (" + plan->backend + ", " + name(plan->precision) +
              ") is not followed: " + without_stop(error);
    return std::nullopt;
  }
}

// What `auto` may try, in order. Engines for a GPU are left out without a word where nobody could
// expect one: without a driver, or where `cpu` was asked for. Asked for `cuda`, or for a plan,
// nothing else will do.
std::vector<const Entry*> candidates(const BackendOptions& options) {
  const bool plans = !plan_options(options).empty();
  const bool on_gpu = starts_with(options.device, "cuda");
  const bool gpus = plans || on_gpu || (options.device != "cpu" && cuda::driver_installed());
  std::vector<const Entry*> found;
  for (const Entry& entry : entries) {
    if (!entry.automatic || (entry.gpu && !gpus)) continue;
    if ((plans && !entry.plans) || (on_gpu && !entry.gpu)) continue;
    found.push_back(&entry);
  }
  if (found.empty() && plans) {
    throw Error("this build has no TensorRT, so " + joined(plan_options(options), " and ") +
                " cannot be honoured. Build it with -DVAD_TENSORRT=ON.");
  }
  if (found.empty() && on_gpu) {
    throw Error("this build has no engine for " + options.device +
                ". Use --device cpu, or build it with -DVAD_TENSORRT=ON.");
  }
  if (found.empty()) {
    throw Error("this build has no engine for a CPU. Build it with -DVAD_OPENVINO=ON "
                "-DOpenVINO_DIR=SITE-PACKAGES/openvino/cmake, or with -DVAD_ONNXRUNTIME=ON.");
  }
  return found;
}

Choice first_that_runs(const Bundle& bundle, const BackendOptions& options,
                       const std::string& why_no_plan) {
  std::vector<std::string> refusals;
  for (const Entry* entry : candidates(options)) {
    std::string reason = entry->gpu ? first_on_gpu : fastest;
    if (!refusals.empty()) reason = "next best, since " + joined(refusals, "; ");
    try {
      return opened(bundle, *entry, options, reason + why_no_plan);
    } catch (const Error& error) {
      refusals.push_back(without_stop(error));
    }
  }
  throw Error("no back end can run " + bundle.name() + ": " + joined(refusals, "; ") + ".");
}

const Entry& entry_asked_for(const std::string& name) {
  const Entry* entry = entry_of(name);
  if (entry != nullptr) return *entry;
  const std::string known = joined(backend_names(), ", ");
  for (const std::string optional : {"tensorrt", "openvino", "onnxruntime"}) {
    if (name != optional) continue;
    std::string option = "VAD_";
    for (const char c : name) option += static_cast<char>(c - 'a' + 'A');
    throw Error(name + " is not in this build, which has: " + known + ". Build it with -D" +
                option + "=ON.");
  }
  throw Error("no back end is called '" + name + "'. Use auto or one of: " + known);
}

}  // namespace

std::string Choice::line() const {
  return backend->device() + ", artefact " + artefact + " (" + reason + ")";
}

std::vector<std::string> backend_names() {
  std::vector<std::string> names;
  for (const Entry& entry : entries) names.emplace_back(entry.name);
  return names;
}

Choice open_backend(const Bundle& bundle, const std::string& name, const BackendOptions& options) {
  if (bundle.manifest().takes_features) {
    throw Error(bundle.name() + " scores precomputed features of whole videos, not frames. "
                "Use: vad-run score " + bundle.name() + " FEATURES");
  }
  BackendOptions wanted = with_precision_of_plan_file(options);
  if (name != "auto") {
    const Entry& entry = entry_asked_for(name);
    if (!wanted.precision) {
      // Whoever names an engine compares; `auto` is for whoever wants speed.
      wanted.precision = entry.plans ? precision_of_plans(bundle, wanted) : Precision::fp32;
    }
    return opened(bundle, entry, wanted, "asked for");
  }
  std::string why_no_plan;
  if (!wanted.precision) {
    std::optional<Choice> choice = planned(bundle, wanted, why_no_plan);
    if (choice) return std::move(*choice);
  }
  artefact_for(bundle, wanted);  // refused once, not by each engine
  return first_that_runs(bundle, wanted, why_no_plan);
}

}  // namespace vad
