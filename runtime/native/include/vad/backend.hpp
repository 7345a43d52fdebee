// What runs a graph. Which ones there are was decided when this was built.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vad/bundle.hpp"
#include "vad/ring.hpp"

namespace vad {

struct BackendOptions {
  std::optional<Precision> precision;  // none = as Python's `auto`
  std::optional<int> threads;          // none = all that this process may use
  std::string device = "auto";         // auto, cpu, cuda, cuda:N
  std::string engine;                  // a TensorRT plan or a folder of plans; empty = the bundle's
  bool host_code = false;
  // `engine` is a plan that another tool wrote: nothing is known of it but what it holds itself.
  bool no_sidecar = false;
  bool graphs = true;
};

// One clip at a time, on one thread at a time.
class Backend {
 public:
  virtual ~Backend() = default;

  // What really computes, for people: engine, version, processor, precision, threads.
  virtual const std::string& device() const = 0;
  // A ring in the memory that infer() reads. The back end outlives it.
  virtual std::unique_ptr<Ring> ring() = 0;
  // Scores one clip: what Ring::latest() of a ring of this back end gave. One score, or
  // ScoreSpec::count of them; all finite. Throws Error: the engine failed.
  virtual std::vector<float> infer(const std::uint8_t* clip) = 0;
};

struct Choice {
  std::unique_ptr<Backend> backend;
  std::string name;      // `openvino`, `onnxruntime`, `tensorrt` or `fake`
  std::string artefact;  // short name
  std::string reason;

  std::string line() const;  // for the run's first line, as Python prints it
};

// `name` is `auto` or one of backend_names(). The same precedence as in Python: what `vad-export
// plan` chose where this machine has it, else the first that runs the bundle. Throws Error.
Choice open_backend(const Bundle& bundle, const std::string& name, const BackendOptions& options);
std::vector<std::string> backend_names();  // those in this build

}  // namespace vad
