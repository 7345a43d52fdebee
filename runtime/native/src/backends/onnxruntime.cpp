// ONNX Runtime on a CPU: runs everywhere, and the reference for parity.
//
// By its C interface, whose functions keep their places: built with any header since 1.12, this
// runs with any library since then.

#include <cstddef>
#include <iterator>
#include <stdexcept>
#include <utility>

#include <onnxruntime_c_api.h>

#include "checks.hpp"
#include "factories.hpp"
#include "vad/error.hpp"

namespace vad {
namespace {

// The oldest interface that has all that is used here; asking for no newer one than needed lets
// older libraries in.
constexpr std::uint32_t api_version = 12;
static_assert(ORT_API_VERSION >= api_version, "ONNX Runtime 1.12 or newer is needed");

// What the engine refused; the caller knows what it was doing.
class Refused : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

const OrtApi& api() {
  static const OrtApi* const found = OrtGetApiBase()->GetApi(api_version);
  if (found == nullptr) {
    throw Error(std::string("onnxruntime ") + OrtGetApiBase()->GetVersionString() +
                " is too old. Install 1.12 or newer.");
  }
  return *found;
}

void check(OrtStatus* status) {
  if (status == nullptr) return;
  const std::string message = api().GetErrorMessage(status);
  api().ReleaseStatus(status);
  throw Refused(first_line(message));
}

template <typename T>
using Handle = std::unique_ptr<T, void(ORT_API_CALL*)(T*)>;

// handle(&OrtApi::ReleaseX, create): owns what `create(T**)` made.
template <typename T, typename Create>
Handle<T> handle(void(ORT_API_CALL* release)(T*), Create create) {
  T* made = nullptr;
  check(create(&made));
  return Handle<T>(made, release);
}

// One of a process, never freed: sessions need it until their end.
const OrtEnv* environment() {
  static const OrtEnv* const one = [] {
    OrtEnv* made = nullptr;
    check(api().CreateEnv(ORT_LOGGING_LEVEL_ERROR, "vad-edge", &made));
    return made;
  }();
  return one;
}

std::string arithmetic_of(Precision precision) {
  switch (precision) {
    case Precision::fp16:
      return "fp16 graph (in fp32 where the engine has no fp16)";
    case Precision::int8:
      return "int8 graph (in int8 what the engine fuses, the rest in fp32)";
    case Precision::mixed:
      return "mixed graph, optimiser off (rounded to int8, computed in fp16 or fp32)";
    default:
      return "fp32";
  }
}

std::string numpy_name(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
      return "float32";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
      return "float16";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE:
      return "float64";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
      return "uint8";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8:
      return "int8";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16:
      return "uint16";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16:
      return "int16";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
      return "int32";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
      return "int64";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL:
      return "bool";
    default:
      return "type " + std::to_string(static_cast<int>(type));
  }
}

std::vector<std::int64_t> dimensions(const OrtTensorTypeAndShapeInfo* info) {
  std::size_t rank = 0;
  check(api().GetDimensionsCount(info, &rank));
  std::vector<std::int64_t> shape(rank);
  check(api().GetDimensions(info, shape.data(), rank));
  return shape;
}

ONNXTensorElementDataType element_type(const OrtTensorTypeAndShapeInfo* info) {
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  check(api().GetTensorElementType(info, &type));
  return type;
}

using GetName = decltype(OrtApi::SessionGetInputName);
using GetCount = decltype(OrtApi::SessionGetInputCount);

std::vector<std::string> names_of(const OrtSession* session, GetCount count_of, GetName name_of) {
  OrtAllocator* allocator = nullptr;
  check(api().GetAllocatorWithDefaultOptions(&allocator));
  std::size_t count = 0;
  check(count_of(session, &count));
  std::vector<std::string> names;
  for (std::size_t i = 0; i < count; ++i) {
    char* name = nullptr;
    check(name_of(session, i, allocator, &name));
    names.emplace_back(name);
    check(api().AllocatorFree(allocator, name));
  }
  return names;
}

GraphFacts facts_of(const OrtSession* session) {
  GraphFacts facts;
  facts.inputs = names_of(session, api().SessionGetInputCount, api().SessionGetInputName);
  facts.outputs = names_of(session, api().SessionGetOutputCount, api().SessionGetOutputName);
  if (facts.inputs.empty()) return facts;
  const auto info = handle<OrtTypeInfo>(api().ReleaseTypeInfo, [&](OrtTypeInfo** made) {
    return api().SessionGetInputTypeInfo(session, 0, made);
  });
  const OrtTensorTypeAndShapeInfo* tensor = nullptr;  // part of `info`
  check(api().CastTypeInfoToTensorInfo(info.get(), &tensor));
  if (tensor == nullptr) {
    facts.dtype = "no tensor";
    return facts;
  }
  facts.dtype = numpy_name(element_type(tensor));
  for (const std::int64_t size : dimensions(tensor)) {
    facts.shape.push_back(size >= 0 ? std::optional<std::int64_t>(size) : std::nullopt);
  }
  return facts;
}

Handle<OrtSession> session_of(const std::string& file, Precision precision, int threads) {
  const auto settings = handle<OrtSessionOptions>(
      api().ReleaseSessionOptions,
      [](OrtSessionOptions** made) { return api().CreateSessionOptions(made); });
  OrtSessionOptions* set = settings.get();
  check(api().SetIntraOpNumThreads(set, threads));
  check(api().SetInterOpNumThreads(set, 1));
  check(api().SetSessionLogSeverityLevel(set, ORT_LOGGING_LEVEL_ERROR));
  if (precision == Precision::mixed) {
    // The optimiser is wrong for Q/DQ pairs around fp16. Without it every quantised value is
    // rounded to int8 as the graph says and then computed in floating point: slow, but right.
    check(api().SetSessionGraphOptimizationLevel(set, ORT_DISABLE_ALL));
  }
  // Spinning threads would steal the core that decodes the next frames.
  check(api().AddSessionConfigEntry(set, "session.intra_op.allow_spinning", "0"));
  return handle<OrtSession>(api().ReleaseSession, [&](OrtSession** made) {
    return api().CreateSession(environment(), file.c_str(), set, made);
  });
}

class OnnxRuntimeBackend final : public Backend {
 public:
  OnnxRuntimeBackend(const std::string& file, const Manifest& manifest,
                     const BackendOptions& options)
      : clip_(manifest.clip),
        score_(manifest.score),
        session_(nullptr, api().ReleaseSession),
        memory_(nullptr, api().ReleaseMemoryInfo) {
    const int threads = threads_of(options.threads);
    const Precision precision = options.precision.value_or(Precision::fp32);
    GraphFacts facts;
    try {
      session_ = session_of(file, precision, threads);
      memory_ = handle<OrtMemoryInfo>(api().ReleaseMemoryInfo, [](OrtMemoryInfo** made) {
        return api().CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, made);
      });
      facts = facts_of(session_.get());
    } catch (const Refused& error) {
      throw Error("onnxruntime cannot load " + file_name(file) + ": " + error.what());
    }
    check_input_name(file, facts);
    check_graph(file, manifest, facts);
    device_ = std::string("onnxruntime ") + OrtGetApiBase()->GetVersionString() + " on cpu, " +
              arithmetic_of(precision) + ", " + std::to_string(threads) + " threads";
  }

  const std::string& device() const override { return device_; }

  std::unique_ptr<Ring> ring() override { return host_ring(clip_.frames, clip_.frame_bytes()); }

  std::vector<float> infer(const std::uint8_t* clip) override {
    std::vector<float> score;
    try {
      score = run(clip);
    } catch (const Refused& error) {
      throw Error(std::string("onnxruntime failed: ") + error.what());
    }
    check_finite(score);
    return score;
  }

 private:
  std::vector<float> run(const std::uint8_t* clip) {
    const std::int64_t shape[] = {1, clip_.frames, clip_.height, clip_.width, clip_.channels()};
    // ONNX Runtime only reads its input, but takes no read-only memory.
    auto* memory = const_cast<std::uint8_t*>(clip);
    const auto input = handle<OrtValue>(api().ReleaseValue, [&](OrtValue** made) {
      return api().CreateTensorWithDataAsOrtValue(memory_.get(), memory, clip_.clip_bytes(), shape,
                                                  std::size(shape),
                                                  ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, made);
    });
    const char* const input_name = "clip";
    const char* const output_name = "score";
    const OrtValue* const inputs[] = {input.get()};
    const auto output = handle<OrtValue>(api().ReleaseValue, [&](OrtValue** made) {
      return api().Run(session_.get(), nullptr, &input_name, inputs, 1, &output_name, 1, made);
    });
    return values_of(output.get());
  }

  std::vector<float> values_of(OrtValue* value) const {
    const auto info = handle<OrtTensorTypeAndShapeInfo>(
        api().ReleaseTensorTypeAndShapeInfo,
        [&](OrtTensorTypeAndShapeInfo** made) { return api().GetTensorTypeAndShape(value, made); });
    check_score_shape(dimensions(info.get()), score_);
    const ONNXTensorElementDataType type = element_type(info.get());
    if (type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) throw wrong_score_type(numpy_name(type));
    void* data = nullptr;
    check(api().GetTensorMutableData(value, &data));
    const auto* values = static_cast<const float*>(data);
    return {values, values + (score_.per == ScoreSpec::Per::clip ? 1 : score_.count)};
  }

  ClipSpec clip_;
  ScoreSpec score_;
  Handle<OrtSession> session_;
  Handle<OrtMemoryInfo> memory_;
  std::string device_;
};

}  // namespace

std::unique_ptr<Backend> onnxruntime_backend(const std::string& file, const Bundle& bundle,
                                             const BackendOptions& options) {
  if (options.device != "auto" && options.device != "cpu") {
    throw Error("onnxruntime runs on cpu here, not on " + options.device + ". Use cpu.");
  }
  if (options.precision == Precision::bf16) {
    throw Error("onnxruntime has no bf16 arithmetic on a CPU. "
                "Use --backend openvino or --precision fp32.");
  }
  return std::make_unique<OnnxRuntimeBackend>(file, bundle.manifest(), options);
}

}  // namespace vad
