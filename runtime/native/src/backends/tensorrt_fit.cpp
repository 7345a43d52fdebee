// Which plan shall run a bundle here: the twin of vad_runtime.engines.fit and lookup.

#include "tensorrt_fit.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <set>
#include <tuple>

#include <dirent.h>
#include <sys/stat.h>

#include "checks.hpp"
#include "factories.hpp"
#include "vad/error.hpp"

namespace vad::tensorrt {
namespace {

constexpr std::size_t told = 2;  // reasons in one line

bool is_folder(const std::string& path) {
  struct stat about {};
  return stat(path.c_str(), &about) == 0 && S_ISDIR(about.st_mode);
}

std::string listed(const std::vector<Difference>& found) {
  std::string text;
  for (const Difference& each : found) text += (text.empty() ? "" : "; ") + each.text();
  return text;
}

// As a shell takes it for one word (POSIX, 2.2 Quoting).
std::string shell_word(const std::string& word) {
  constexpr const char* plain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./-_";
  if (!word.empty() && word.find_first_not_of(plain) == std::string::npos) return word;
  std::string quoted = "'";
  for (const char c : word) quoted += c == '\'' ? std::string("'\"'\"'") : std::string(1, c);
  return quoted + "'";
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + shell_word(word);
  return text;
}

// Whether a plan is byte for byte the one that its sidecar speaks of.
void require_whole(const Fit& fit) {
  const std::string again = "Copy it again, or build it with: " + fit.rebuild;
  struct stat about {};
  if (stat(fit.plan.c_str(), &about) != 0) {
    throw Error(fit.plan + " cannot be read (" + std::strerror(errno) + "). Check its rights.");
  }
  const auto size = static_cast<std::int64_t>(about.st_size);
  if (size != fit.sidecar.bytes) {
    const char* what = size < fit.sidecar.bytes ? "was cut off" : "was changed";
    throw Error(fit.plan + " " + what + ": it has " + std::to_string(size) +
                " bytes, its sidecar says " + std::to_string(fit.sidecar.bytes) + ". " + again);
  }
  // Hashed only where the size is right: a large plan takes a second.
  if (sha256_of_file(fit.plan) != fit.sidecar.sha256) {
    throw Error(fit.plan +
                " was changed or damaged: its sha256 is not the one in its sidecar. " + again);
  }
  const std::vector<Difference> wrong = contradictions(fit.sidecar, fit.header);
  if (!wrong.empty()) {
    throw Error(fit.plan + " and its sidecar disagree (" + listed(wrong) + "). " + again);
  }
}

void require_suits(Fit& fit, const Machine& machine, const std::string& graph_sha256) {
  if (fit.sidecar.source_sha256 != graph_sha256) {
    throw Error(fit.plan + " was built from another " + fit.sidecar.source +
                " than the bundle holds now. Build it again with: " + fit.rebuild);
  }
  const std::vector<Difference> found = differences(fit.sidecar, machine);
  if (!found.empty()) {
    std::string step = "Build it here with: " + fit.rebuild;
    if (machine.version(Flavour::tensorrt) == nullptr) {  // lean and dispatch build nothing
      step = "Build one that fits on a machine with TensorRT: " + fit.rebuild;
    }
    if (machine.libraries.empty() && !machine.missing.empty()) step = machine.missing;
    throw Error(fit.plan + " does not fit this machine: " + listed(found) + ". " + step);
  }
  fit.flavour = *flavour_for(fit.sidecar, machine);  // there is one, or there were a difference
}

Fit read(const std::string& plan, const std::string& rebuild) {
  Fit fit;
  fit.plan = plan;
  fit.rebuild = rebuild;
  fit.header = read_header(plan, rebuild);
  fit.sidecar = read_sidecar(plan, &fit.header, rebuild);
  return fit;
}

// Sorts fits, the best first.
std::array<int, 5> rank(const Fit& fit, const Machine& machine) {
  const bool exact = same_version(fit.sidecar.version, *machine.version(fit.flavour));
  const bool for_many = fit.sidecar.hardware_compatible || fit.sidecar.later_sms;
  const bool tuned_here = machine.gpu && fit.sidecar.gpu == machine.gpu->name;
  return {static_cast<int>(fit.flavour), exact ? 0 : 1, fit.sidecar.version_compatible ? 1 : 0,
          for_many ? 1 : 0, tuned_here ? 0 : 1};
}

// One line of readable length about several plans.
std::string none_of(const std::string& folder, const std::vector<std::string>& reasons,
                    const std::string& rebuild) {
  std::string text;
  for (std::size_t i = 0; i < std::min(told, reasons.size()); ++i) {
    // Without the folder's name and the command, which every reason holds.
    std::string reason = reasons[i];
    const std::string prefix = folder + "/";
    for (std::size_t at = 0; (at = reason.find(prefix, at)) != std::string::npos;) {
      reason.erase(at, prefix.size());
    }
    text += (text.empty() ? "" : "; ") + reason.substr(0, reason.find(". "));
  }
  if (reasons.size() > told) text += "; and " + std::to_string(reasons.size() - told) + " more";
  return "none of " + std::to_string(reasons.size()) + " engines fits (" +
         joined({"vad-export", "inspect", folder}) + "): " + text + ". Build one with: " + rebuild;
}

Fit best_in(const std::string& folder, const std::string& graph_sha256, Precision precision,
            const Machine& machine, const std::string& rebuild) {
  const std::vector<std::string> plans = engines_of(folder);
  if (plans.empty()) throw Error(folder + " holds no engine. Build one with: " + rebuild);
  std::vector<std::string> reasons;
  std::vector<Fit> fits;
  std::set<std::string> others;
  for (const std::string& plan : plans) {
    try {
      Fit fit = read(plan, rebuild);
      if (fit.sidecar.precision != precision) {
        others.insert(name(fit.sidecar.precision));
        continue;
      }
      require_suits(fit, machine, graph_sha256);
      fits.push_back(std::move(fit));
    } catch (const Error& error) {
      reasons.emplace_back(error.what());
    }
  }
  std::stable_sort(fits.begin(), fits.end(), [&](const Fit& one, const Fit& other) {
    const auto first = rank(one, machine);
    const auto second = rank(other, machine);
    return first != second ? first < second : one.sidecar.created > other.sidecar.created;
  });
  for (const Fit& fit : fits) {
    try {
      require_whole(fit);
      return fit;
    } catch (const Error& error) {  // damaged: only now was all of it read
      reasons.emplace_back(error.what());
    }
  }
  if (reasons.size() == 1) throw Error(reasons[0]);
  if (!reasons.empty()) throw Error(none_of(folder, reasons, rebuild));
  std::string have;
  for (const std::string& other : others) have += (have.empty() ? "" : ", ") + other;
  throw Error(folder + " holds no " + name(precision) + " engine, but " + have +
              ". Build one with: " + rebuild);
}

Fit named(const std::string& plan, const std::string& graph_sha256, Precision precision,
          const Machine& machine, const std::string& rebuild) {
  Fit fit = read(plan, rebuild);  // what is no plan at all is said before all else
  if (fit.sidecar.precision != precision) {
    const std::string built = name(fit.sidecar.precision);
    throw Error(plan + " was built from the " + built + " graph, and " + name(precision) +
                " was asked for. Use --precision " + built + ", or build one with: " + rebuild);
  }
  require_whole(fit);
  require_suits(fit, machine, graph_sha256);
  return fit;
}

// The sidecar of a plan whose settings a new one should have.
std::optional<Sidecar> former(const std::string& place, Precision precision) {
  const std::vector<std::string> plans =
      is_folder(place) ? engines_of(place) : std::vector<std::string>{place};
  for (const std::string& plan : plans) {
    try {
      Sidecar sidecar = read_sidecar(plan);
      if (sidecar.precision == precision) return sidecar;
    } catch (const Error&) {  // what is wrong with it is told where it is loaded
    }
  }
  return std::nullopt;
}

void keep_options(const Sidecar& sidecar, std::vector<std::string>& words) {
  const Json* tf32 = sidecar.options.find("tf32");
  const bool with_tf32 = tf32 != nullptr && tf32->as_bool() != nullptr && *tf32->as_bool();
  if (sidecar.version_compatible) words.emplace_back("--version-compatible");
  if (sidecar.host_code) words.emplace_back("--host-code");
  if (sidecar.hardware_compatible) words.emplace_back("--hardware-compatible");
  if (with_tf32) words.emplace_back("--tf32");
  for (const auto& [option, key] : {std::pair{"--opt-level", "level"}, std::pair{"--dla", "dla"}}) {
    const Json* value = sidecar.options.find(key);
    if (value != nullptr && value->as_int() != nullptr) {
      words.insert(words.end(), {option, std::to_string(*value->as_int())});
    }
  }
  for (const Tensor& tensor : sidecar.outputs) {
    if (tensor.name != "score") words.insert(words.end(), {"--output", tensor.name});
  }
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const std::int64_t size : shape) {
    text += (text.empty() ? "" : ", ") + (size < 0 ? std::string("N") : std::to_string(size));
  }
  return "(" + text + ")";
}

}  // namespace

std::vector<std::string> engines_of(const std::string& folder) {
  std::vector<std::string> found;
  DIR* entries = opendir(folder.c_str());
  if (entries == nullptr) return found;
  const std::string ending = ".engine";
  while (const dirent* entry = readdir(entries)) {
    const std::string name = static_cast<const char*>(entry->d_name);
    if (name[0] == '.' || name.size() <= ending.size()) continue;
    if (name.compare(name.size() - ending.size(), ending.size(), ending) != 0) continue;
    found.push_back(folder + "/" + name);
  }
  closedir(entries);
  std::sort(found.begin(), found.end());
  return found;
}

Fit plan_for(const std::string& bundle, const std::string& graph_sha256, Precision precision,
             const Machine& machine, const std::string& engine) {
  std::string place = engine.empty() ? bundle + "/engines" : engine;
  while (place.size() > 1 && place.back() == '/') place.pop_back();
  const std::optional<Sidecar> before = former(place, precision);
  const std::string rebuild =
      rebuild_command(bundle, before ? &*before : nullptr, precision, machine);
  if (engine.empty() || is_folder(place)) {
    return best_in(place, graph_sha256, precision, machine, rebuild);
  }
  return named(place, graph_sha256, precision, machine, rebuild);
}

Fit bare_plan(const std::string& graph, const ClipSpec& clip, const Machine& machine,
              const std::string& engine) {
  if (engine.empty() || is_folder(engine)) {
    throw Error("--no-sidecar is for one plan only. Name its file with --engine.");
  }
  std::string shape = "1";
  for (const int size : {clip.frames, clip.height, clip.width, clip.channels()}) {
    shape += "x" + std::to_string(size);
  }
  Fit fit;
  fit.plan = engine;
  fit.bare = true;
  fit.rebuild = joined({"trtexec", "--onnx=" + graph, "--optShapes=clip:" + shape,
                        "--saveEngine=" + engine});
  fit.header = read_header(engine, fit.rebuild, true);
  if (fit.header.family == Family::rtx) {
    throw Error(engine + " is a plan of TensorRT-RTX, which this program does not run. "
                         "Build one with: " + fit.rebuild);
  }
  struct stat about {};
  if (stat((engine + ".json").c_str(), &about) == 0) {
    throw Error(engine + " has a sidecar (" + file_name(engine) +
                ".json), which is to be heeded. Leave --no-sidecar out.");
  }
  if (machine.version(Flavour::tensorrt) == nullptr && !machine.libraries.empty()) {
    fit.flavour = machine.libraries.front().first;
  }
  return fit;
}

void require_shape(const Fit& fit, const Manifest& manifest) {
  const std::string again = "Build it again with: " + fit.rebuild;
  const ClipSpec& clip = manifest.clip;
  const std::vector<std::int64_t> want{-1, clip.frames, clip.height, clip.width, clip.channels()};
  const Sidecar& sidecar = fit.sidecar;
  if (sidecar.inputs.size() != 1 || sidecar.inputs[0].name != "clip") {
    throw Error(fit.plan + " has no single input `clip`. " + again);
  }
  const Tensor& input = sidecar.inputs[0];
  if (input.dtype != "uint8" || input.shape.size() != want.size() ||
      !std::equal(want.begin() + 1, want.end(), input.shape.begin() + 1)) {
    throw Error(fit.plan + " takes a clip of " + input.dtype + " " + shape_text(input.shape) +
                ", the manifest says uint8 " + shape_text(want) + ". " + again);
  }
  const bool scores = std::any_of(sidecar.outputs.begin(), sidecar.outputs.end(),
                                  [](const Tensor& tensor) { return tensor.name == "score"; });
  if (!scores) throw Error(fit.plan + " has no output called score. " + again);
  const bool usable = std::all_of(sidecar.batches.begin(), sidecar.batches.end(),
                                  [](int batch) { return batch > 0; });
  if (sidecar.batches.empty() || !usable) {
    throw Error(fit.plan + " says no batch that it was built for. " + again);
  }
}

std::string rebuild_command(const std::string& bundle, const Sidecar* sidecar, Precision precision,
                            const Machine& machine) {
  std::vector<std::string> words{"vad-export", "build-engine", bundle, "--precision",
                                 name(precision)};
  if (sidecar != nullptr) {
    if (sidecar->batches != std::vector<int>{1}) {
      std::string batches;
      for (const int batch : sidecar->batches) {
        batches += (batches.empty() ? "" : ",") + std::to_string(batch);
      }
      words.insert(words.end(), {"--batch", batches});
    }
    if (sidecar->family == Family::tensorrt && machine.version(Flavour::tensorrt) != nullptr) {
      keep_options(*sidecar, words);
    }
  }
  // TensorRT-RTX, which would build it then, leaves the oldest GPUs out unless they are named.
  if (machine.gpu && machine.gpu->sm == 75 && machine.version(Flavour::tensorrt) == nullptr) {
    words.insert(words.end(), {"--sm", "75"});
  }
  if (sidecar != nullptr) words.emplace_back("--overwrite");
  return joined(words);
}

}  // namespace vad::tensorrt

namespace vad {

std::optional<Precision> precision_of_plan(const std::string& plan_file) {
  try {
    return tensorrt::read_sidecar(plan_file).precision;
  } catch (const Error&) {  // tensorrt_backend() says what is wrong with it
    return std::nullopt;
  }
}

std::vector<Precision> precisions_of_plans(const std::string& folder) {
  std::set<Precision> found;
  for (const std::string& plan : tensorrt::engines_of(folder)) {
    if (const std::optional<Precision> precision = precision_of_plan(plan)) {
      found.insert(*precision);
    }
  }
  return {found.begin(), found.end()};
}

}  // namespace vad
