// A libnvinfer without a GPU, for tests/runtime/test_cpp_tensorrt.py, which compiles it against real
// headers and the fake libcuda (tests/fakes/libcuda.c). A "plan" of it is a header of 64 bytes and
// then a text:
//
//     MODE BATCH T H W C COUNT HALF
//
// MODE  ok       score k of a place is the mean of its frame k
//       nan      scores are not a number
//       drift    each run adds 1000: a replay is not alike
//       refuse   enqueueV3 gives false
//       unload   deserializeCudaEngine gives nothing
//       bogus    createInferRuntime logs a CUDA error and hands back what must not be touched
//                (chosen by the environment FAKE_NVINFER_BOGUS=1)
//
// COUNT 0 = one score for the clip. HALF 1 = scores are of 16 bits. A second profile has batch + 3.
// What the real library would answer with a crash is an abort() here: a wrong order of freeing, a
// run without addresses.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include <NvInferRuntime.h>
#include <dlfcn.h>

namespace nvinfer1 {
namespace apiv {
// Classes RuntimeStub, EngineStub, ContextStub: every function of the header's VRuntime,
// VCudaEngine, VExecutionContext aborts. The test writes them from NvInferImpl.h.
#include "fake_nvinfer_stubs.inc"
}  // namespace apiv
}  // namespace nvinfer1

namespace {

using nvinfer1::Dims;
using nvinfer1::ILogger;

ILogger* logger = nullptr;

void say(const char* text) { logger->log(ILogger::Severity::kERROR, text); }

void require(bool holds, const char* what) {
  if (holds) return;
  fprintf(stderr, "fake libnvinfer: %s\n", what);
  abort();
}

struct About {
  std::string mode;
  long batch = 1, frames = 0, height = 0, width = 0, channels = 0, count = 0, half = 0;

  long frame() const { return height * width * channels; }
};

std::uint16_t half_of(float value) {  // of a normal number, cut off
  std::uint32_t bits = 0;
  memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7fffffffU) == 0) return 0;
  return static_cast<std::uint16_t>((bits >> 16 & 0x8000U) | (((bits >> 23 & 255U) - 112U) << 10) |
                                    (bits >> 13 & 1023U));
}

int engines = 0;
int contexts = 0;

class Context final : public nvinfer1::IExecutionContext, public nvinfer1::apiv::ContextStub {
 public:
  explicit Context(const About& about) : about_(about) {
    mImpl = this;
    ++contexts;
  }
  ~Context() noexcept override { --contexts; }

  bool setOptimizationProfileAsync(std::int32_t profile, cudaStream_t stream) noexcept override {
    require(stream != nullptr, "the default stream");
    return profile == 0;
  }
  bool setInputShape(char const* name, Dims const& dims) noexcept override {
    batch_ = static_cast<long>(dims.d[0]);
    return strcmp(name, "clip") == 0 && dims.nbDims == 5;
  }
  Dims getTensorShape(char const* name) const noexcept override {
    Dims dims{};
    dims.nbDims = about_.count > 0 ? 2 : 1;
    dims.d[0] = batch_;
    dims.d[1] = about_.count;
    require(strcmp(name, "score") == 0 && batch_ > 0, "a shape that nobody has set");
    return dims;
  }
  bool setTensorAddress(char const* name, void* data) noexcept override {
    require(reinterpret_cast<std::uintptr_t>(data) % 16 == 0, "an address that is not aligned");
    addresses_[name] = data;
    return true;
  }
  bool enqueueV3(cudaStream_t stream) noexcept override {
    if (about_.mode == "refuse") {
      say("Error Code 1: Cuda Runtime (out of memory)");
      return false;
    }
    require(addresses_.count("clip") == 1 && addresses_.count("score") == 1, "no address");
    using Work = void (*)(void*);
    using Enqueue = int (*)(void*, Work, void*);
    void* cuda = dlopen("libcuda.so.1", RTLD_NOW);
    const auto put = reinterpret_cast<Enqueue>(dlsym(cuda, "fakeEnqueue"));
    require(put != nullptr, "no fake libcuda");
    // Addresses count as they are now: a graph keeps them. Kept for ever, as graphs may be.
    static std::deque<Run> runs;
    runs.push_back({about_, batch_, static_cast<std::uint8_t*>(addresses_["clip"]),
                    static_cast<std::uint8_t*>(addresses_["score"])});
    return put(stream, &Run::go, &runs.back()) == 0;
  }

 private:
  struct Run {
    About about;
    long batch;
    const std::uint8_t* clip;
    std::uint8_t* score;

    static void go(void* self) { static_cast<Run*>(self)->go(); }
    void go() const {
      static int runs = 0;
      const long count = about.count > 0 ? about.count : 1;
      for (long place = 0; place < batch; ++place) {
        for (long k = 0; k < count; ++k) {
          const std::uint8_t* frame = clip + (place * about.frames + k) * about.frame();
          double sum = 0;
          for (long i = 0; i < about.frame(); ++i) sum += frame[i];
          float value = static_cast<float>(sum / static_cast<double>(about.frame()));
          if (about.mode == "nan") value = __builtin_nanf("");
          if (about.mode == "drift") value += 1000.0F * static_cast<float>(runs);
          const long at = place * count + k;
          const std::uint16_t half = half_of(value);
          if (about.half != 0) {
            memcpy(score + 2 * at, &half, 2);
          } else {
            memcpy(score + 4 * at, &value, 4);
          }
        }
      }
      ++runs;
    }
  };

  About about_;
  long batch_ = 0;
  std::map<std::string, void*> addresses_;
};

class Engine final : public nvinfer1::ICudaEngine, public nvinfer1::apiv::EngineStub {
 public:
  explicit Engine(About about) : about_(std::move(about)) {
    mImpl = this;
    ++engines;
  }
  ~Engine() noexcept override {
    --engines;
    require(contexts == 0, "an engine freed before its contexts");
  }

  std::int32_t getNbIOTensors() const noexcept override { return 2; }
  char const* getIOTensorName(std::int32_t index) const noexcept override {
    return index == 0 ? "clip" : "score";
  }
  nvinfer1::TensorIOMode getTensorIOMode(char const* name) const noexcept override {
    const bool input = strcmp(name, "clip") == 0;
    return input ? nvinfer1::TensorIOMode::kINPUT : nvinfer1::TensorIOMode::kOUTPUT;
  }
  nvinfer1::DataType getTensorDataType(char const* name) const noexcept override {
    if (strcmp(name, "clip") == 0) return nvinfer1::DataType::kUINT8;
    return about_.half != 0 ? nvinfer1::DataType::kHALF : nvinfer1::DataType::kFLOAT;
  }
  Dims getTensorShape(char const* name) const noexcept override {
    return strcmp(name, "clip") == 0 ? clip(-1) : score(-1);
  }
  std::int32_t getNbOptimizationProfiles() const noexcept override { return 2; }
  Dims getProfileShape(char const*, std::int32_t profile,
                       nvinfer1::OptProfileSelector) const noexcept override {
    return clip(profile == 0 ? about_.batch : about_.batch + 3);
  }
#if NV_TENSORRT_MAJOR >= 10
  nvinfer1::IExecutionContext* createExecutionContext(
      nvinfer1::ExecutionContextAllocationStrategy) noexcept override {
    return new Context(about_);
  }
#else
  nvinfer1::IExecutionContext* createExecutionContext() noexcept override {
    return new Context(about_);
  }
#endif

 private:
  Dims clip(long batch) const noexcept {
    Dims dims{};
    dims.nbDims = 5;
    const long sizes[] = {batch, about_.frames, about_.height, about_.width, about_.channels};
    for (int i = 0; i < 5; ++i) dims.d[i] = sizes[i];
    return dims;
  }
  Dims score(long batch) const noexcept {
    Dims dims{};
    dims.nbDims = about_.count > 0 ? 2 : 1;
    dims.d[0] = batch;
    dims.d[1] = about_.count;
    return dims;
  }

  About about_;
};

class Runtime final : public nvinfer1::IRuntime, public nvinfer1::apiv::RuntimeStub {
 public:
  Runtime() { mImpl = this; }
  ~Runtime() noexcept override { require(engines == 0, "a runtime freed before its engines"); }

#if NV_TENSORRT_MAJOR >= 10
  nvinfer1::ICudaEngine* deserializeCudaEngine(void const* blob,
                                               std::size_t size) noexcept override {
    return loaded(blob, size);
  }
#else
  nvinfer1::ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size,
                                               nvinfer1::IPluginFactory*) noexcept override {
    return loaded(blob, size);
  }
#endif
#if NV_TENSORRT_MAJOR > 8 || NV_TENSORRT_MINOR >= 6
  void setEngineHostCodeAllowed(bool) noexcept override {}
#endif

 private:
  static nvinfer1::ICudaEngine* loaded(void const* blob, std::size_t size) noexcept {
    require(size > 64 && memcmp(blob, "ftrt", 4) == 0, "a plan that does not begin with its header");
    About about;
    std::istringstream text(std::string(static_cast<const char*>(blob) + 64, size - 64));
    text >> about.mode >> about.batch >> about.frames >> about.height >> about.width >>
        about.channels >> about.count >> about.half;
    if (about.mode == "unload") {
      say("1: Error Code 1: Serialization (assertion failed.Version tag does not match.\n"
          "Note: Current Version: 228, Serialized Engine Version: 213) In initialize at /a.cpp:40");
      return nullptr;
    }
    return new Engine(about);
  }
};

}  // namespace

extern "C" {

int32_t getInferLibVersion() noexcept {
  const char* text = getenv("FAKE_NVINFER_VERSION");
  return text != nullptr ? atoi(text) : static_cast<int32_t>(NV_TENSORRT_VERSION);
}

void* createInferRuntime_INTERNAL(void* given, int32_t) noexcept {
  logger = static_cast<ILogger*>(given);
  if (getenv("FAKE_NVINFER_BOGUS") != nullptr) {
    say("CUDA initialization failure with error: 35.");
    return reinterpret_cast<void*>(16);
  }
  return static_cast<nvinfer1::IRuntime*>(new Runtime);
}
}
