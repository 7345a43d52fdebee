// TensorRT and its lean and dispatch runtimes: runs plans on an NVIDIA GPU. One source for 8.5 to
// 11: it calls only what all of these have (tests/runtime/test_cpp_tensorrt.py holds it to that).
//
//     DeviceRing::latest() ─► execute ─► device ═══► pinned ─► scores
//                              └──── one CUDA graph ────┘

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <random>
#include <utility>

#include "factories.hpp"
#include "tensorrt_fit.hpp"
#include "tensorrt_library.hpp"
#include "tensorrt_values.hpp"
#include "vad/cuda.hpp"

namespace vad {
namespace {

using tensorrt::Fit;
using tensorrt::Library;
using tensorrt::Machine;
using tensorrt::Shape;
using tensorrt::Type;
using tensorrt::alike;
using tensorrt::dims_of;
using tensorrt::elements_of;
using tensorrt::float_from_half;
using tensorrt::shape_of;
using tensorrt::text_of;
using tensorrt::type_of;

std::vector<char> plan_bytes(const Fit& fit) {
  std::ifstream stream(fit.plan, std::ios::binary);
  stream.seekg(0, std::ios::end);
  const std::streamoff end = stream.tellg();
  const auto start = static_cast<std::streamoff>(fit.header.offset);
  std::vector<char> bytes(static_cast<std::size_t>(std::max<std::streamoff>(end - start, 0)));
  stream.seekg(start);
  stream.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!stream) throw Error(fit.plan + " cannot be read. Check its rights.");
  return bytes;
}

// One plan on one GPU. Of several optimisation profiles the one with the smallest batch is used:
// here comes one clip at a time. Places in a batch that no clip needs are computed and ignored.
class TensorRtBackend final : public Backend {
 public:
  TensorRtBackend(const Library& library, const Fit& fit, const cuda::Gpu& gpu,
                  const Manifest& manifest, const BackendOptions& options)
      : library_(library),
        clip_(manifest.clip),
        score_(manifest.score),
        gpu_(cuda::Device::open(gpu)),
        stream_(gpu_) {
    gpu_->activate();
    load(fit, options.host_code);
    check(fit, manifest);
    prepare(fit);
    if (!options.graphs) no_graph_ = "switched off";
    warm_up();
    Library::forget();
    device_ = library_.name() + " on cuda:" + std::to_string(gpu.index) + " (" + gpu.name +
              ", SM " + std::to_string(gpu.sm) + "), " +
              (fit.bare ? "a plan without sidecar, in the precision that it was built in"
                        : name(*options.precision)) +
              ", batch " + std::to_string(batch_) + ", " +
              (no_graph_.empty() ? "CUDA graph" : "no CUDA graph (" + no_graph_ + ")");
    if (clip_.resizer != ResizerKind::portable || !cuda::kernels_built()) return;
    const std::string why = cuda::no_kernels(gpu_);
    resizes_ = why.empty();
    if (!resizes_) device_ += ", resizes on the processor (" + why + ")";
  }

  const std::string& device() const override { return device_; }

  std::unique_ptr<Ring> ring() override {
    return std::make_unique<cuda::DeviceRing>(stream_, clip_.frames, clip_.target(), resizes_,
                                              input_bytes());
  }

  std::vector<float> infer(const std::uint8_t* clip) override {
    gpu_->activate();
    run(clip);
    std::vector<float> scores = this->scores();
    const bool finite = std::all_of(scores.begin(), scores.end(),
                                    [](float score) { return std::isfinite(score); });
    // A NaN never reaches a threshold: going on would be a detector that sleeps.
    if (!finite) {
      throw Error("the graph gave a score that is not finite. Try --precision fp32.");
    }
    return scores;
  }

 private:
  std::size_t input_bytes() const { return static_cast<std::size_t>(batch_) * clip_.clip_bytes(); }

  std::size_t score_count() const {
    return score_.per == ScoreSpec::Per::clip ? 1 : static_cast<std::size_t>(score_.count);
  }

  void load(const Fit& fit, bool host_code) {
    runtime_ = library_.runtime(host_code);
    const std::vector<char> bytes = plan_bytes(fit);
    Library::forget();
    engine_.reset(runtime_->deserializeCudaEngine(bytes.data(), bytes.size()));
    if (engine_ == nullptr) throw library_.failure("the plan cannot be loaded");
  }

  // What the sidecar promised may not be what the plan holds.
  void check(const Fit& fit, const Manifest& manifest) {
    const std::string again = " Build it again with: " + fit.rebuild;
    std::vector<std::string> inputs;
    for (std::int32_t i = 0; i < engine_->getNbIOTensors(); ++i) {
      const char* tensor = engine_->getIOTensorName(i);
      const bool is_input = engine_->getTensorIOMode(tensor) == nvinfer1::TensorIOMode::kINPUT;
      (is_input ? inputs : outputs_).emplace_back(tensor);
    }
    if (inputs != std::vector<std::string>{input_}) {
      throw Error(fit.plan + " has no single input `" + input_ + "`." + again);
    }
    const std::string dtype = type_of(engine_->getTensorDataType(input_)).name;
    const Shape shape = shape_of(engine_->getTensorShape(input_));
    const Shape want{-1, clip_.frames, clip_.height, clip_.width, clip_.channels()};
    const auto fits = [](std::int64_t need, std::int64_t have) { return have < 0 || have == need; };
    // The batch is whatever the profiles say.
    if (dtype != "uint8" || shape.size() != want.size() ||
        !std::equal(want.begin() + 1, want.end(), shape.begin() + 1, fits)) {
      throw Error(fit.plan + " takes a clip of " + dtype + " " + text_of(shape) +
                  ", the manifest says uint8 " + text_of(want) + "." + again);
    }
    if (std::find(outputs_.begin(), outputs_.end(), "score") == outputs_.end()) {
      throw Error(fit.plan + " has no output called score." + again);
    }
    const Type type = type_of(engine_->getTensorDataType("score"));
    half_ = std::strcmp(type.name, "float16") == 0;
    if (!half_ && std::strcmp(type.name, "float32") != 0) {
      throw Error("output score of " + fit.plan + " is " + type.name +
                  ". Export the bundle again with float32 outputs.");
    }
    Shape score{-1};
    if (manifest.score.per != ScoreSpec::Per::clip) score.push_back(manifest.score.count);
    Shape found = shape_of(engine_->getTensorShape("score"));
    if (!found.empty()) found[0] = -1;
    if (found != score) {
      throw Error("the plan gives a score of shape " + text_of(found) + ", the manifest says " +
                  text_of(score) + ". Export the bundle again.");
    }
  }

  // Makes the context and all memory, for the profile with the smallest batch.
  void prepare(const Fit& fit) {
    Library::forget();
    context_.reset(engine_->createExecutionContext());
    if (context_ == nullptr) throw library_.failure("no execution context");
    std::int32_t profile = 0;
    Shape shape;
    for (std::int32_t i = 0; i < engine_->getNbOptimizationProfiles(); ++i) {
      const Shape largest = shape_of(
          engine_->getProfileShape(input_, i, nvinfer1::OptProfileSelector::kMAX));
      if (largest.empty() || (!shape.empty() && largest[0] >= shape[0])) continue;
      shape = largest;
      profile = i;
    }
    const Shape want{shape.empty() ? 0 : shape[0], clip_.frames, clip_.height, clip_.width,
                     clip_.channels()};
    if (shape != want || shape[0] < 1) {
      throw Error("profile " + std::to_string(profile) + " of the plan takes " + text_of(shape) +
                  ", the manifest says " + text_of(want) + ". Build it again with: " + fit.rebuild);
    }
    batch_ = shape[0];
    auto* const stream = static_cast<cudaStream_t>(stream_.handle());
    if (!context_->setOptimizationProfileAsync(profile, stream)) {
      throw library_.failure("profile " + std::to_string(profile) + " cannot be used");
    }
    if (!context_->setInputShape(input_, dims_of(shape))) {
      throw library_.failure(std::string("input ") + input_ + " cannot have shape " +
                             text_of(shape));
    }
    for (const std::string& output : outputs_) add_output(output);
  }

  void add_output(const std::string& output) {
    const Type type = type_of(engine_->getTensorDataType(output.c_str()));
    Shape want = shape_of(engine_->getTensorShape(output.c_str()));
    const Shape shape = shape_of(context_->getTensorShape(output.c_str()));
    if (!want.empty()) want[0] = batch_;
    const bool fixed =
        std::all_of(want.begin(), want.end(), [](std::int64_t size) { return size >= 0; });
    if (want.empty() || !fixed || shape != want) {  // TensorRT would write beyond our memory
      throw Error("output " + output + " of the plan has shape " + text_of(shape) + " for " +
                  std::to_string(batch_) +
                  " clips, so not one entry of fixed size for each. Export the bundle again "
                  "without it.");
    }
    if (type.bytes == 0) {
      throw Error("output " + output + " of the plan is " + type.name +
                  ". Export the bundle again with float32 outputs.");
    }
    // TensorRT wants an address for an output of no elements, too.
    memory_.emplace_back(gpu_, std::max<std::size_t>(elements_of(shape) * type.bytes, 1));
    set_address(output.c_str(), memory_.back().data());
    if (output == "score") {
      score_address_ = memory_.back().data();
      host_ = cuda::Pinned(gpu_, score_count() * type.bytes);  // of the first place in the batch
    }
  }

  void set_address(const char* tensor, const std::uint8_t* address) {
    Library::forget();
    if (!context_->setTensorAddress(tensor, const_cast<std::uint8_t*>(address))) {
      throw library_.failure(std::string("tensor ") + tensor + " cannot lie at an address");
    }
  }

  // Runs noise directly and, where that was recorded, from the graph; both must agree. After this,
  // infer() compiles nothing.
  void warm_up() {
    std::vector<std::uint8_t> noise(input_bytes());
    std::minstd_rand random(1);
    for (std::uint8_t& byte : noise) byte = static_cast<std::uint8_t>(random() >> 8);
    cuda::Memory input(gpu_, noise.size());
    stream_.copy_in(input.data(), noise.data(), noise.size());
    stream_.synchronise();
    run(input.data());
    const std::vector<float> direct = scores();
    if (!graphs_.empty()) {
      std::memset(host_.data(), 0xff, host_.bytes());
      run(input.data());
      if (!alike(scores(), direct)) no_graph_ = "replayed, it gave other numbers";
    }
    graphs_.clear();  // recorded for memory that goes now
    bound_ = nullptr;
  }

  // A new address is run directly and waited for, since libraries allocate and compile on their
  // first run, which no capture allows. Only after that it is recorded.
  void run(const std::uint8_t* input) {
    const auto graph = graphs_.find(input);
    if (graph != graphs_.end()) {
      graph->second->launch(stream_);
      stream_.synchronise();
      return;
    }
    if (bound_ != input) set_address(input_, input);
    bound_ = input;
    enqueue();
    stream_.synchronise();
    if (no_graph_.empty()) record(input);
  }

  void record(const std::uint8_t* input) {
    try {
      std::string why;
      std::unique_ptr<cuda::Graph> graph = stream_.capture([this] { enqueue(); }, why);
      if (graph == nullptr) {
        no_graph_ = why.empty() ? "this driver cannot capture it" : why;
        return;
      }
      constexpr std::size_t most = 8;  // rings at once; each has one address
      if (graphs_.size() >= most) graphs_.clear();
      graphs_[input] = std::move(graph);
    } catch (const Error& error) {
      // The same work ran a moment ago, so what it objects to is being captured.
      no_graph_ = error.what();
    }
  }

  void enqueue() {
    auto* const stream = static_cast<cudaStream_t>(stream_.handle());
    Library::forget();
    if (!context_->enqueueV3(stream)) throw library_.failure("the engine does not run");
    stream_.copy_out(host_.data(), score_address_, host_.bytes());
  }

  std::vector<float> scores() const {
    std::vector<float> found(score_count());
    if (!half_) {
      std::memcpy(found.data(), host_.data(), found.size() * sizeof(float));
      return found;
    }
    for (std::size_t i = 0; i < found.size(); ++i) {
      std::uint16_t half = 0;
      std::memcpy(&half, host_.data() + i * sizeof half, sizeof half);
      found[i] = float_from_half(half);
    }
    return found;
  }

  static constexpr const char* input_ = "clip";

  const Library& library_;
  ClipSpec clip_;
  ScoreSpec score_;
  std::string device_;
  bool resizes_ = false;  // pictures on the GPU
  // Freed from the last to the first: graphs and contexts before their engine, that before its
  // runtime, and all before their GPU.
  std::shared_ptr<cuda::Device> gpu_;
  cuda::Stream stream_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::vector<cuda::Memory> memory_;
  cuda::Pinned host_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  std::map<const std::uint8_t*, std::unique_ptr<cuda::Graph>> graphs_;  // by the clip's address

  std::vector<std::string> outputs_;
  std::int64_t batch_ = 1;
  bool half_ = false;
  const std::uint8_t* score_address_ = nullptr;
  const std::uint8_t* bound_ = nullptr;  // the address that the context reads now
  std::string no_graph_;                 // why nothing is recorded; empty = it is
};

// Of a graph: the manifest's, which was verified, or else the file's own.
std::string sha256_of_graph(const std::string& file, const Bundle& bundle) {
  for (const auto& [short_name, artefact] : bundle.manifest().artefacts) {
    if (!artefact.sha256.empty() && bundle.file(artefact) == file) return artefact.sha256;
  }
  return sha256_of_file(file);
}

}  // namespace

std::unique_ptr<Backend> tensorrt_backend(const std::string& file, const Bundle& bundle,
                                          const BackendOptions& options) {
  // Before anything of TensorRT is made: without a driver its runtimes crash the process.
  const cuda::Gpu gpu = cuda::gpu_of(options.device);
  Machine machine = tensorrt::this_platform();
  machine.gpu = gpu;
  machine.cuda = cuda::driver_version();
  for (const Library& library : Library::installed(&machine.missing)) {
    machine.libraries.emplace_back(library.flavour(), library.version());
  }
  if (machine.libraries.empty()) throw Error(machine.missing);
  if (bundle.manifest().takes_features) {
    throw Error("tensorrt runs plans of whole clips here, and " + bundle.name() +
                " takes features. Use vad-run.");
  }
  BackendOptions wanted = options;
  if (!wanted.precision) wanted.precision = Precision::fp32;
  if (*wanted.precision == Precision::bf16) {
    throw Error("tensorrt has no bf16 plans. Use --precision fp16 or fp32.");
  }
  const Fit fit = wanted.no_sidecar
                      ? tensorrt::bare_plan(file, bundle.manifest().clip, machine, wanted.engine)
                      : tensorrt::plan_for(bundle.path(), sha256_of_graph(file, bundle),
                                           *wanted.precision, machine, wanted.engine);
  if (!fit.bare) tensorrt::require_shape(fit, bundle.manifest());
  if (fit.sidecar.host_code && !wanted.host_code) {
    throw Error(fit.plan +
                " carries code that runs on the host. If you trust whoever built it, add "
                "--host-code; otherwise build it again without.");
  }
  const std::vector<Library>& libraries = Library::installed();
  const auto library = std::find_if(libraries.begin(), libraries.end(), [&](const Library& each) {
    return each.flavour() == fit.flavour;
  });
  return std::make_unique<TensorRtBackend>(*library, fit, gpu, bundle.manifest(), wanted);
}

}  // namespace vad
