// How the registry makes a back end. What needs a library is defined only in a build that has it.

#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vad/backend.hpp"

namespace vad {

// All load the artefact at `file` and throw Error if it does not load, is not the graph that the
// manifest describes, or an option cannot be honoured. Without a precision in the options it is
// fp32, or bf16 where the processor has it and the manifest allows it.
std::unique_ptr<Backend> openvino_backend(const std::string& file, const Bundle& bundle,
                                          const BackendOptions& options);
std::unique_ptr<Backend> onnxruntime_backend(const std::string& file, const Bundle& bundle,
                                             const BackendOptions& options);
std::unique_ptr<Backend> fake_backend(const std::string& file, const Bundle& bundle,
                                      const BackendOptions& options);
// `file` is the graph that a plan was built from; the options have a precision.
std::unique_ptr<Backend> tensorrt_backend(const std::string& file, const Bundle& bundle,
                                          const BackendOptions& options);

// What a TensorRT plan was built for, by its sidecar; none = that is missing or cannot be read, and
// tensorrt_backend() says what is wrong with it.
std::optional<Precision> precision_of_plan(const std::string& plan_file);
// The same of all plans in a folder, each once; empty without such a folder.
std::vector<Precision> precisions_of_plans(const std::string& folder);

}  // namespace vad
