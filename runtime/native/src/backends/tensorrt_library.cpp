#include "tensorrt_library.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <deque>
#include <mutex>
#include <tuple>

#include <dlfcn.h>

namespace vad::tensorrt {
namespace {

using nvinfer1::ILogger;

// The folder where CMake saw the libraries; empty = let the loader look.
#ifndef VAD_TENSORRT_LIBRARY_DIR
#define VAD_TENSORRT_LIBRARY_DIR ""
#endif

std::string on_one_line(const char* text) {
  std::string line;
  for (const char* c = text; *c != '\0'; ++c) {
    const bool blank = std::isspace(static_cast<unsigned char>(*c)) != 0;
    if (!blank) {
      line += *c;
    } else if (!line.empty() && line.back() != ' ') {
      line += ' ';
    }
  }
  // Without the place in TensorRT's sources: ` In NAME at /…`.
  const std::size_t place = line.rfind(" In ");
  if (place != std::string::npos && line.find(" at /", place) != std::string::npos) {
    line.resize(place);
  }
  while (!line.empty() && (line.back() == '.' || line.back() == ' ')) line.pop_back();
  return line;
}

// The last errors. TensorRT calls it from any thread, and takes the first logger of a process only.
class Log : public ILogger {
 public:
  void log(Severity severity, const nvinfer1::AsciiChar* message) noexcept override {
    if (severity != Severity::kERROR && severity != Severity::kINTERNAL_ERROR) return;
    try {
      const std::string line = on_one_line(message);
      const std::lock_guard<std::mutex> lock(mutex_);
      if (std::find(lines_.begin(), lines_.end(), line) != lines_.end()) return;
      lines_.push_back(line);
      if (lines_.size() > kept) lines_.pop_front();
    } catch (...) {  // no memory for a line: TensorRT must not see the exception
    }
  }
  void clear() {
    const std::lock_guard<std::mutex> lock(mutex_);
    lines_.clear();
  }
  std::vector<std::string> errors() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return {lines_.begin(), lines_.end()};
  }

 private:
  static constexpr std::size_t kept = 50;

  std::mutex mutex_;
  std::deque<std::string> lines_;
};

Log& the_log() {
  // Never destroyed: what a library frees at the very end may still speak to it.
  static Log* const log = new Log;  // NOLINT
  return *log;
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

struct Explanation {
  std::vector<const char*> signs;  // any of these in a line, in small letters
  const char* cause;
  const char* remedy;
};

constexpr const char* again =
    "Build the engine again on this machine with: vad-export build-engine BUNDLE";

// What engines/explain.py says of those that a plan can cause when it is loaded or run.
const std::vector<Explanation>& explanations() {
  static const std::vector<Explanation> all{
      {{"version tag does not match", "expecting library version"},
       "the plan was built by another version of TensorRT, and plans fit one version only",
       again},
      {{"generated on an incompatible device, expecting compute"},
       "the plan was built for GPUs of another compute capability (SM)",
       again},
      {{"platform specific tag mismatch"},
       "the plan was built for another operating system or processor architecture",
       again},
      {{"magic tag does not match", "magictag == "},
       "the file is no plan of this library, or a damaged one",
       "Look at the file with: vad-export inspect FILE"},
      {{"getenginehostcodeallowed() is false", "enginehostcodeallowed", "engine_host_code_allowed"},
       "the plan carries code for the host (a lean runtime), which is not run unless allowed",
       "If you trust the plan, run it with --host-code."},
      {{"error 35", "error: 35", "driver version is insufficient", "insufficient_driver",
        "insufficientdriver"},
       "there is no NVIDIA driver here, or it is older than this TensorRT needs",
       "Install or update the driver."},
      {{"error 100", "error: 100", "no cuda-capable device"},
       "the driver finds no GPU",
       "Check `nvidia-smi`."},
      {{"error 209", "error: 209", "no kernel image is available"},
       "this TensorRT has no code for this GPU's compute capability (SM)",
       "Install a TensorRT that supports this GPU."},
      {{"unexpected call to stub"},
       "the lean runtime was given a plan that was not built for it",
       "Build the engine again with --version-compatible, or install the whole TensorRT."},
      {{"out of memory", "outofmemory", "out_of_memory", "error 2 ", "memoryallocation",
        "bad_alloc", "unable to allocate", "resizephysical"},
       "memory ran out",
       "Close other programs that use the GPU, or build the engine with a smaller --batch."},
      {{"error 700", "error: 700", "illegal memory access", "illegaladdress"},
       "a kernel read or wrote memory that is not its own, and the CUDA context is lost",
       "Start the program again; if it comes back, build the engine again."},
  };
  return all;
}

std::string shortened(const std::string& line) {
  constexpr std::size_t longest = 160;
  if (line.size() <= longest) return line;
  std::size_t end = longest;
  while (end > 0 && (static_cast<unsigned char>(line[end]) & 0xc0) == 0x80) --end;  // whole letters
  return line.substr(0, end) + "…";
}

// "10.3.0.26" of what the library says; its own header may be of another version.
std::string version_text(std::int32_t number, std::int32_t build) {
  // From 10 on, a version is major * 10000 + minor * 100 + patch; before, major * 1000 + …
  const std::int32_t unit = number < 10000 ? 1000 : 10000;
  const std::int32_t rest = number % unit;
  std::string text = std::to_string(number / unit) + "." + std::to_string(rest / 100) + "." +
                     std::to_string(rest % 100);
  return build < 0 ? text : text + "." + std::to_string(build);
}

void* opened(const std::string& file, std::string& why) {
  std::vector<std::string> places{file};
  const std::string folder = VAD_TENSORRT_LIBRARY_DIR;
  if (!folder.empty()) places.push_back(folder + "/" + file);
  for (const std::string& place : places) {
    if (void* library = dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
    const char* error = dlerror();
    if (why.empty() && error != nullptr) why = error;
  }
  return nullptr;
}

}  // namespace

std::vector<Library> Library::found(std::string& missing) {
  const std::string major = std::to_string(NV_TENSORRT_MAJOR);
  std::vector<Library> all;
  std::string old;
  for (const auto& [flavour, stem] : {std::pair{Flavour::tensorrt, "libnvinfer.so."},
                                      std::pair{Flavour::lean, "libnvinfer_lean.so."},
                                      std::pair{Flavour::dispatch, "libnvinfer_dispatch.so."}}) {
    std::string why;
    void* library = opened(stem + major, why);
    if (library == nullptr) {
      if (flavour == Flavour::tensorrt) {
        missing = "TensorRT " + major + " does not load (" + on_one_line(why.c_str()) +
                  "). Install it (on a Jetson: JetPack brings it), or set LD_LIBRARY_PATH.";
      }
      continue;  // never closed: a library that has started threads cannot be
    }
    using Number = std::int32_t (*)();
    const auto version = reinterpret_cast<Number>(dlsym(library, "getInferLibVersion"));
    const auto build = reinterpret_cast<Number>(dlsym(library, "getInferLibBuildVersion"));
    const auto create = reinterpret_cast<Factory>(dlsym(library, "createInferRuntime_INTERNAL"));
    if (version == nullptr || create == nullptr) continue;
    const std::int32_t number = version();
    const std::string text = version_text(number, build == nullptr ? -1 : build());
    if (number < NV_TENSORRT_VERSION) {
      // An older library lacks functions that the headers promise: calling one crashes.
      old = std::string(title(flavour)) + " " + text + " is older than " +
            version_text(NV_TENSORRT_VERSION, -1) +
            ", for which this program was built. Build it with the headers of this machine.";
      continue;
    }
    all.push_back(Library(flavour, text, create));
  }
  if (!old.empty()) missing = old;
  return all;
}

const std::vector<Library>& Library::installed(std::string* missing) {
  static std::string reason;
  static const std::vector<Library> all = found(reason);
  if (missing != nullptr) *missing = reason;
  return all;
}

void Library::forget() { the_log().clear(); }

std::unique_ptr<nvinfer1::IRuntime> Library::runtime(bool host_code) const {
  forget();
  void* made = create_(static_cast<ILogger*>(&the_log()), NV_TENSORRT_VERSION);
  std::unique_ptr<nvinfer1::IRuntime> runtime(static_cast<nvinfer1::IRuntime*>(made));
  const std::vector<std::string> errors = the_log().errors();
  const bool bogus = std::any_of(errors.begin(), errors.end(), [](const std::string& line) {
    return lower(line).find("cuda") != std::string::npos;
  });
  if (runtime == nullptr || bogus) {
    // Where the driver is missing or too old, lean and dispatch 11.4 hand back a pointer on which
    // every call crashes, freeing it too: it is kept for ever.
    (void)runtime.release();
    throw failure(name() + " makes no runtime");
  }
#if NV_TENSORRT_MAJOR > 8 || NV_TENSORRT_MINOR >= 6
  runtime->setEngineHostCodeAllowed(host_code);
#else
  if (host_code) {
    throw Error(name() + " has no switch for host code. Run without --host-code.");
  }
#endif
  return runtime;
}

Error Library::failure(const std::string& what) const {
  const std::vector<std::string> lines = the_log().errors();
  for (const Explanation& known : explanations()) {
    for (auto line = lines.rbegin(); line != lines.rend(); ++line) {
      const std::string small = lower(*line);
      const bool fits = std::any_of(known.signs.begin(), known.signs.end(), [&](const char* sign) {
        return small.find(sign) != std::string::npos;
      });
      if (fits) {
        return Error(what + ": " + name() + " says: " + shortened(*line) + " (" + known.cause +
                     "). " + known.remedy);
      }
    }
  }
  std::string said;
  const std::size_t told = std::min<std::size_t>(2, lines.size());
  for (std::size_t i = lines.size() - told; i < lines.size(); ++i) {
    said += (said.empty() ? "" : "; ") + shortened(lines[i]);
  }
  return Error(what + ": " + name() + " says: " + (said.empty() ? "no reason" : said) +
               ". Build the engine again with: vad-export build-engine BUNDLE");
}

}  // namespace vad::tensorrt
