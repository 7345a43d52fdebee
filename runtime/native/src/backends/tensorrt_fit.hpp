// Whether a plan fits this machine, decided before any TensorRT sees it: the twin of
// vad_runtime.engines.compare, fit and lookup. Needs no TensorRT.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tensorrt_plan.hpp"
#include "vad/bundle.hpp"
#include "vad/cuda.hpp"

namespace vad::tensorrt {

// The libraries that can load TensorRT's plans, the most able first.
enum class Flavour : std::uint8_t { tensorrt, lean, dispatch };

const char* title(Flavour flavour) noexcept;  // "TensorRT lean runtime"

// What this machine has to run plans with.
struct Machine {
  std::optional<cuda::Gpu> gpu;
  std::optional<std::string> cuda;  // newest version that the driver knows: "12.6"
  std::optional<std::string> l4t;   // Jetson Linux: "36.4.0"; none = no Jetson
  std::string architecture;         // of the processor: "x86_64", "aarch64"
  std::vector<std::pair<Flavour, std::string>> libraries;  // those that load, with their versions
  std::string missing;  // why there is no library, with the next step; told where there is none

  const std::string* version(Flavour flavour) const noexcept;  // nullptr = not here
};

// Architecture and Jetson Linux of this machine; the rest is left empty.
Machine this_platform();

// One thing in which a plan and this machine do not go together.
struct Difference {
  std::string field;
  std::string plan;
  std::string here;

  std::string text() const { return field + ": the plan " + plan + ", " + here; }
};

// What cannot be known (no GPU, no driver) is no difference.
std::vector<Difference> differences(const Sidecar& sidecar, const Machine& machine);
// What a plan's header says otherwise than its sidecar.
std::vector<Difference> contradictions(const Sidecar& sidecar, const PlanHeader& header);
// As far as both go: a Jetson's `10.3.0` is a wheel's `10.3.0.26`.
bool same_version(const std::string& one, const std::string& other);
// The library here that can load a plan; none = none can.
std::optional<Flavour> flavour_for(const Sidecar& sidecar, const Machine& machine);

// A plan that fits, with what was read of it.
struct Fit {
  std::string plan;
  PlanHeader header;
  Sidecar sidecar;
  Flavour flavour = Flavour::tensorrt;  // the library that shall load it
  std::string rebuild;                  // the command that builds it again
  bool bare = false;                    // it has no sidecar, and `sidecar` says nothing
};

// The plan that runs a bundle's graph here: `engine` (a plan or a folder of plans), or if that is
// empty the best of the bundle's `engines/`. Of several: a plan of exactly the library that is here
// before one that is compatible with it, one tuned for this GPU before one for many, and of two
// such the one built last. Throws Error: there is none, or none fits; then why.
Fit plan_for(const std::string& bundle, const std::string& graph_sha256, Precision precision,
             const Machine& machine, const std::string& engine);

// A plan that has no sidecar, since trtexec or another tool wrote it: the only way where vad-export
// does not run, as on JetPack 5. Nothing says which graph it was built from, in which precision and
// for which GPU; TensorRT refuses another version's, and its shapes are compared when it is loaded.
// `graph` = the file that it should have been built from. Throws Error: no plan file, of another
// family, or it has a sidecar.
Fit bare_plan(const std::string& graph, const ClipSpec& clip, const Machine& machine,
              const std::string& engine);

// Compares what a plan's sidecar says of its input, output and batches with the bundle. Throws
// Error.
void require_shape(const Fit& fit, const Manifest& manifest);

// The plans in a folder by name; none where there is no folder.
std::vector<std::string> engines_of(const std::string& folder);

// The command that builds an engine for this machine, with the settings that the old one had.
std::string rebuild_command(const std::string& bundle, const Sidecar* sidecar, Precision precision,
                            const Machine& machine);

}  // namespace vad::tensorrt
