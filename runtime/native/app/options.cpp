#include "options.hpp"

#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <limits>

#include "vad/resize.hpp"

namespace vad::app {
namespace {

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

[[noreturn]] void refuse(const std::string& name, const std::string& why) {
  throw UsageError("Invalid value for '" + name + "': " + why);
}

int positive_int(const std::string& name, const std::string& text) {
  errno = 0;
  char* end = nullptr;
  const long value = std::strtol(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || text.find_first_of(" \t\n") != std::string::npos) {
    refuse(name, "'" + text + "' is not a valid integer.");
  }
  if (errno != 0 || value < 1 || value > std::numeric_limits<int>::max()) {
    refuse(name, text + " is not in the range x>=1.");
  }
  return static_cast<int>(value);
}

double positive_number(const std::string& name, const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0') refuse(name, "'" + text + "' is not a valid float.");
  if (!std::isfinite(value)) refuse(name, text + " is not a finite number.");
  if (value <= 0.0) refuse(name, text + " is not in the range x>0.");
  return value;
}

std::string one_of(const std::string& name, const std::string& text,
                   const std::vector<std::string>& known) {
  for (const std::string& word : known) {
    if (text == word) return text;
  }
  std::string list;
  for (const std::string& word : known) list += (list.empty() ? "'" : ", '") + word + "'";
  refuse(name, "'" + text + "' is not one of " + list + ".");
}

std::string device(const std::string& text) {
  bool good = text == "auto" || text == "cpu" || text == "cuda";
  if (text.rfind("cuda:", 0) == 0) {
    const std::string number = text.substr(5);
    good = !number.empty() && number.find_first_not_of("0123456789") == std::string::npos;
  }
  if (!good) refuse("--device", "'" + text + "' is no device. Use auto, cpu, cuda or cuda:1.");
  return text;
}

// One option: its names, and what it does with its value. A switch ignores the value.
struct Option {
  std::vector<std::string> names;
  bool takes_value;
  std::function<void(Options&, const std::string&)> apply;

  bool is(const std::string& name) const {
    for (const std::string& own : names) {
      if (own == name) return true;
    }
    return false;
  }
};

std::vector<Option> known_options() {
  using Text = const std::string&;
  return {
      {{"-o", "--out"}, true, [](Options& to, Text text) { to.out = text; }},
      {{"--backend"}, true, [](Options& to, Text text) { to.backend = text; }},
      {{"--precision"},
       true,
       [](Options& to, Text text) {
         one_of("--precision", text, {"auto", "fp32", "bf16", "fp16", "int8", "mixed"});
         to.engine.precision = precision_from_name(text);  // none for `auto`
       }},
      {{"--threads"},
       true,
       [](Options& to, Text text) { to.engine.threads = positive_int("--threads", text); }},
      {{"--device"}, true, [](Options& to, Text text) { to.engine.device = device(text); }},
      {{"--engine"}, true, [](Options& to, Text text) { to.engine.engine = text; }},
      {{"--host-code"}, false, [](Options& to, Text) { to.engine.host_code = true; }},
      {{"--no-sidecar"}, false, [](Options& to, Text) { to.engine.no_sidecar = true; }},
      {{"--cuda-graphs"}, false, [](Options& to, Text) { to.engine.graphs = true; }},
      {{"--no-cuda-graphs"}, false, [](Options& to, Text) { to.engine.graphs = false; }},
      {{"--hop"}, true, [](Options& to, Text text) { to.hop = positive_int("--hop", text); }},
      {{"--fps"},
       true,
       [](Options& to, Text text) { to.input.fps = positive_number("--fps", text); }},
      {{"--decoder"},
       true,
       [](Options& to, Text text) {
         to.input.decoder = one_of("--decoder", text, {"auto", "software", "nvdec"});
       }},
      {{"--transport"},
       true,
       [](Options& to, Text text) {
         to.input.transport = one_of("--transport", text, {"tcp", "udp"});
       }},
      {{"--overwrite"}, false, [](Options& to, Text) { to.overwrite = true; }},
      {{"--no-verify"}, false, [](Options& to, Text) { to.verify = false; }},
      {{"--version"}, false, [](Options& to, Text) { to.what = Options::What::version; }},
      {{"-h", "--help"}, false, [](Options& to, Text) { to.what = Options::What::help; }},
  };
}

}  // namespace

Options parse(const std::vector<std::string>& arguments) {
  const std::vector<Option> known = known_options();
  Options options;
  std::vector<std::string> places;
  bool only_places = false;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    std::string name = arguments[i];
    if (only_places || name.size() < 2 || name[0] != '-') {  // `-` alone is standard input
      places.push_back(name);
      continue;
    }
    if (name == "--") {
      only_places = true;
      continue;
    }
    std::optional<std::string> value;
    const std::size_t equals = name.find('=');
    if (name[1] == '-' && equals != std::string::npos) {
      value = name.substr(equals + 1);
      name.resize(equals);
    } else if (name[1] != '-' && name.size() > 2) {  // -oFOLDER
      value = name.substr(2);
      name.resize(2);
    }
    const Option* option = nullptr;
    for (const Option& one : known) {
      if (one.is(name)) option = &one;
    }
    if (option == nullptr) throw UsageError("No such option: " + name);
    if (option->takes_value && !value) {
      if (i + 1 == arguments.size()) {
        throw UsageError("Option '" + name + "' requires an argument.");
      }
      value = arguments[++i];
    } else if (!option->takes_value && value) {
      throw UsageError("Option '" + name + "' does not take a value.");
    }
    option->apply(options, value.value_or(""));
    if (options.what != Options::What::run) return options;  // --help asks for nothing else
  }
  if (places.empty()) throw UsageError("Missing argument 'BUNDLE'.");
  if (places.size() < 2) throw UsageError("Missing argument 'SOURCE'.");
  if (places.size() > 2) throw UsageError("Got unexpected extra argument (" + places[2] + ")");
  if (options.out.empty()) throw UsageError("Missing option '-o' / '--out'.");
  options.bundle = places[0];
  options.source = places[1];
  return options;
}

std::string help() {
  return R"(Usage: vad-run-cpp [OPTIONS] BUNDLE SOURCE -o OUT

  Watch SOURCE with BUNDLE: print alarms as they come, write each row as it is
  settled. Tables and report are those of `vad-run watch`.

  SOURCE is a video, a .y4m file or - for one on standard input, a folder of
  frames, a stream (rtsp://, http://, ...) or a pipeline ('gst: ... ! appsink').
  --version says which of them this build reads.

  Ctrl-C and SIGTERM end the watch; rows and report are complete up to there.

Options:
  -o, --out FOLDER      Output folder.  [required]
  --backend NAME        Inference engine: )" +
         joined(backend_names()) + R"(.
                        auto = the first that runs the bundle.  [default: auto]
  --precision NAME      auto, fp32, bf16, fp16, int8 or mixed.  [default: auto]
  --threads N           Processor threads for inference.
                        [default: all this process may use]
  --device NAME         auto, cpu, cuda or cuda:N.  [default: auto]
  --engine PATH         A TensorRT plan to run, or a folder of plans.
                        [default: the bundle's engines/]
  --host-code           Let a TensorRT plan run code of its own on the host.
                        Only for plans you trust.
  --no-sidecar          The plan that --engine names is trtexec's: run it though
                        nothing says which graph it was built from.
  --no-cuda-graphs      Do not replay the work of a clip as one recorded piece.
  --hop N               Source frames from one clip to the next.
                        [default: the bundle's]
  --fps X               Frames a second of a folder of frames.
  --decoder NAME        Of a camera or stream: auto, software or nvdec.
                        [default: auto]
  --transport NAME      Of an rtsp:// stream: tcp or udp.  [default: tcp]
  --overwrite           Replace results in the output folder.
  --no-verify           Do not compare the bundle's files with their checksums.
  --version             Show the version, and what this build runs and reads.
  -h, --help            Show this message.
)";
}

std::string version() {
  std::vector<std::string> simd;
  for (const Simd one : usable_simd()) simd.emplace_back(name(one));
  return "vad-run-cpp, version " VAD_VERSION "\nback ends: " + joined(backend_names()) +
         "\nsources: " + joined(source_kinds()) + "\nresizer: " + joined(simd) + "\n";
}

}  // namespace vad::app
