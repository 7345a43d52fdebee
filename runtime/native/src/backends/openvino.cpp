// OpenVINO on a CPU: the fastest measured engine for every model of this project.

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <exception>
#include <iterator>
#include <utility>

#include <openvino/core/version.hpp>
#include <openvino/runtime/core.hpp>
#include <openvino/runtime/properties.hpp>

#include "checks.hpp"
#include "factories.hpp"
#include "openvino_unsigned.hpp"
#include "vad/error.hpp"

namespace vad {
namespace {

// The one core of this process, never freed: each core's CPU plug-in gives its thread a signal
// stack of its own, and two that are freed in another order than they were made leave a stale one.
ov::Core& core() {
  static ov::Core* const one = new ov::Core();
  return *one;
}

struct Arithmetic {
  ov::element::Type hint = ov::element::f32;
  std::string text;         // for people
  bool counts_layers = false;  // `text` goes on with how many layers compute in int8
};

Arithmetic arithmetic_of(const BackendOptions& options, const Manifest& manifest, bool has_bf16) {
  const ov::element::Type bf16 = ov::element::bf16;
  if (!options.precision) {
    // Only where the export has measured, on this model, that the scores stay the same.
    if (has_bf16 && !manifest.bf16_allowed) {
      return {ov::element::f32, "fp32 (bf16 is not proven for this bundle)", false};
    }
    if (has_bf16) return {bf16, "bf16", false};
    return {ov::element::f32, "fp32", false};
  }
  switch (*options.precision) {
    case Precision::fp32:
      return {ov::element::f32, "fp32", false};
    case Precision::bf16:
      if (!has_bf16) throw Error("this CPU has no bf16 arithmetic. Use --precision fp32.");
      return {bf16, "bf16", false};
    case Precision::fp16:
      // The CPU plug-in widens the graph; the hint f16 is for processors with AMX-FP16 only.
      return {ov::element::f32, "fp16 graph computed in fp32", false};
    case Precision::int8:
    case Precision::mixed:
      return {has_bf16 ? bf16 : ov::element::Type(ov::element::f32), name(*options.precision),
              true};
  }
  throw std::logic_error("a precision without a name");
}

// The name that the manifest knows: a cast that is optimised away leaves several.
std::string output_name(const ov::Output<const ov::Node>& port, const Manifest& manifest) {
  const auto& names = port.get_names();
  if (names.count("score") != 0) return "score";
  for (const OutputSpec& output : manifest.outputs) {
    if (names.count(output.name) != 0) return output.name;
  }
  return port.get_any_name();
}

std::string numpy_name(const ov::element::Type& type) {
  if (type == ov::element::boolean) return "bool";
  const std::string bits = std::to_string(type.bitwidth());
  if (type.is_real()) return type == ov::element::bf16 ? "bfloat16" : "float" + bits;
  return (type.is_signed() ? "int" : "uint") + bits;
}

GraphFacts facts_of(const ov::Model& model, const Manifest& manifest) {
  GraphFacts facts;
  for (const auto& port : model.inputs()) facts.inputs.push_back(port.get_any_name());
  for (const auto& port : model.outputs()) facts.outputs.push_back(output_name(port, manifest));
  if (facts.inputs.empty()) return facts;
  facts.dtype = numpy_name(model.inputs()[0].get_element_type());
  const ov::PartialShape shape = model.inputs()[0].get_partial_shape();
  if (shape.rank().is_dynamic()) return facts;
  for (const ov::Dimension& size : shape) {
    facts.shape.push_back(size.is_static() ? std::optional<std::int64_t>(size.get_length())
                                           : std::nullopt);
  }
  return facts;
}

// How many of the layers that multiply run in int8: OpenVINO fuses what it can.
std::string int8_layers(const ov::CompiledModel& compiled) {
  const std::set<std::string> multiplying{"Convolution", "Deconvolution", "FullyConnected",
                                          "MatMul"};
  int all = 0;
  int in_int8 = 0;
  for (const auto& node : compiled.get_runtime_model()->get_ordered_ops()) {
    const ov::RTMap& facts = node->get_rt_info();
    if (multiplying.count(facts.at("layerType").as<std::string>()) == 0) continue;
    // Convolutions that only copy pixels (COPY in contracts/manifest.py).
    if (node->get_friendly_name().rfind("vad_copy_", 0) == 0) continue;
    const std::string type = facts.at("runtimePrecision").as<std::string>();
    ++all;
    if (type == "u8" || type == "i8") ++in_int8;
  }
  return std::to_string(in_int8) + " of " + std::to_string(all) + " layers";
}

std::string version() {
  const std::string build = ov::get_openvino_version().buildNumber;
  return build.substr(0, build.find('-'));
}

std::vector<float> floats_of(const ov::Tensor& tensor) {
  if (tensor.get_element_type() != ov::element::f32) {
    throw wrong_score_type(numpy_name(tensor.get_element_type()));
  }
  const auto* values = tensor.data<const float>();
  return {values, values + tensor.get_size()};
}

class OpenVinoBackend final : public Backend {
 public:
  OpenVinoBackend(const std::string& file, const Manifest& manifest, const BackendOptions& options)
      : clip_(manifest.clip), score_(manifest.score) {
    const int threads = threads_of(options.threads);
    const bool has_bf16 = cpu_has_bf16();
    const Arithmetic arithmetic = arithmetic_of(options, manifest, has_bf16);
    ov::CompiledModel compiled;
    std::string chip;
    std::string layers;
    try {
      compiled = compile(file, manifest, arithmetic.hint, threads);
      request_ = compiled.create_infer_request();
      chip = core().get_property("CPU", ov::device::full_name);
      if (arithmetic.counts_layers) layers = int8_layers(compiled);
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {  // OpenVINO lets others through than its own, too
      throw Error("openvino cannot load " + file_name(file) + ": " + last_line(error.what()) +
                  " Try --backend onnxruntime.");
    }
    const auto& outputs = compiled.outputs();
    while (output_name(outputs.at(score_index_), manifest) != "score") ++score_index_;
    device_ = "openvino " + version() + " on cpu (" + first_line(chip) + "), " + arithmetic.text;
    if (arithmetic.counts_layers) {
      device_ += " (" + layers + "; the rest in " + (has_bf16 ? "bf16" : "fp32") + ")";
    }
    device_ += ", " + std::to_string(threads) + " threads";
  }

  const std::string& device() const override { return device_; }

  std::unique_ptr<Ring> ring() override { return host_ring(clip_.frames, clip_.frame_bytes()); }

  std::vector<float> infer(const std::uint8_t* clip) override {
    std::vector<float> score;
    try {
      const ov::Shape shape{1, size(clip_.frames), size(clip_.height), size(clip_.width),
                            size(clip_.channels())};
      // OpenVINO only reads its input, but takes no read-only memory.
      auto* memory = const_cast<std::uint8_t*>(clip);
      request_.set_input_tensor(ov::Tensor(ov::element::u8, shape, memory));
      request_.infer();
      const ov::Tensor answer = request_.get_output_tensor(score_index_);
      const ov::Shape& found = answer.get_shape();
      check_score_shape({found.begin(), found.end()}, score_);
      score = floats_of(answer);
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      throw Error("openvino failed: " + last_line(error.what()));
    }
    check_finite(score);
    return score;
  }

 private:
  static std::size_t size(int length) { return static_cast<std::size_t>(length); }

  static bool cpu_has_bf16() {
    try {
      const std::vector<std::string> can = core().get_property("CPU", ov::device::capabilities);
      return std::find(can.begin(), can.end(), "BF16") != can.end();
    } catch (const std::exception& error) {
      throw Error("openvino finds no CPU (" + first_line(error.what()) + ").");
    }
  }

  static ov::CompiledModel compile(const std::string& file, const Manifest& manifest,
                                   const ov::element::Type& hint, int threads) {
    const std::shared_ptr<ov::Model> model = core().read_model(file);
    const GraphFacts facts = facts_of(*model, manifest);
    check_input_name(file, facts);
    // `reshape` would bend a graph to any size without a word.
    check_graph(file, manifest, facts);
    const ClipSpec& clip = manifest.clip;
    model->reshape(ov::PartialShape{1, clip.frames, clip.height, clip.width, clip.channels()});
    if (unsigned_is_safe()) read_unsigned(model);  // without INT8 there is nothing to be changed
    // Without a hint OpenVINO silently computes in bf16 where the processor can.
    return core().compile_model(
        model, "CPU", ov::hint::inference_precision(hint),
        ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
        ov::inference_num_threads(threads), ov::num_streams(1),
        // Pinned, every process begins with processor 0: two of one thread each share it.
        ov::hint::enable_cpu_pinning(false));
  }

  ClipSpec clip_;
  ScoreSpec score_;
  ov::InferRequest request_;  // keeps its model alive
  std::size_t score_index_ = 0;
  std::string device_;
};

}  // namespace

std::unique_ptr<Backend> openvino_backend(const std::string& file, const Bundle& bundle,
                                          const BackendOptions& options) {
  if (options.device != "auto" && options.device != "cpu") {
    throw Error("openvino runs on cpu here, not on " + options.device + ". Use cpu.");
  }
  return std::make_unique<OpenVinoBackend>(file, bundle.manifest(), options);
}

}  // namespace vad
