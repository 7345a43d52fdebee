// In what a plan does not go with this machine: the twin of vad_runtime.engines.compare.

#include <algorithm>
#include <cctype>
#include <fstream>

#include <sys/utsname.h>

#include "tensorrt_fit.hpp"

namespace vad::tensorrt {
namespace {

constexpr int ampere = 80;  // the first compute capability of a hardware-compatible plan

// The leading numbers of a version: `10.3.0.post1` -> 10, 3, 0.
std::vector<std::uint64_t> numbers(const std::string& version) {
  constexpr std::uint64_t largest = 1'000'000'000'000'000;
  std::vector<std::uint64_t> found;
  std::size_t i = 0;
  const auto digit = [&] { return i < version.size() && version[i] >= '0' && version[i] <= '9'; };
  while (digit()) {
    std::uint64_t value = 0;
    for (; digit(); ++i) {
      value = std::min(value * 10 + static_cast<std::uint64_t>(version[i] - '0'), largest);
    }
    found.push_back(value);
    if (i >= version.size() || version[i] != '.') break;
    ++i;
  }
  return found;
}

std::vector<std::uint64_t> first_two(std::vector<std::uint64_t> version) {
  if (version.size() > 2) version.resize(2);
  return version;
}

std::string architecture_of(std::string name) {
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (name == "amd64" || name == "x64") return "x86_64";
  return name == "arm64" ? "aarch64" : name;
}

std::string sms_text(std::vector<int> sms, bool later) {
  std::sort(sms.begin(), sms.end());
  std::string text;
  for (const int sm : sms) text += (text.empty() ? "" : ", ") + std::to_string(sm);
  return text + (later ? " and later" : "");
}

bool loads(const Sidecar& sidecar, const std::string* version) {
  if (version == nullptr) return false;
  if (same_version(sidecar.version, *version)) return true;
  // What makes later versions load it is the lean runtime inside the plan. Without it the plan
  // wants the lean runtime of its own version.
  if (!sidecar.version_compatible || !sidecar.host_code) return false;
  const auto built = numbers(sidecar.version);
  const auto here = numbers(*version);
  return !built.empty() && !here.empty() && built[0] == here[0] && here >= built;
}

void compare_library(const Sidecar& sidecar, const Machine& machine,
                     std::vector<Difference>& found) {
  if (flavour_for(sidecar, machine)) return;
  const std::string name =
      sidecar.family == Family::rtx ? "TensorRT-RTX" : title(Flavour::tensorrt);
  std::vector<Flavour> candidates;
  if (sidecar.family == Family::tensorrt) {
    candidates.push_back(Flavour::tensorrt);
    if (sidecar.version_compatible) {
      candidates.push_back(Flavour::lean);
      if (sidecar.host_code) candidates.push_back(Flavour::dispatch);
    }
  }
  std::string here;
  for (const Flavour each : candidates) {
    const std::string* version = machine.version(each);
    if (version == nullptr) continue;
    here += std::string(here.empty() ? "" : ", ") + title(each) + " " + *version;
  }
  if (!here.empty()) {
    const bool later = sidecar.version_compatible && sidecar.host_code;
    found.push_back({"version",
                     "needs " + name + " " + sidecar.version + (later ? " or later" : ""),
                     "here is " + here});
    return;
  }
  std::string others;
  for (const auto& [flavour, version] : machine.libraries) {
    others += std::string(others.empty() ? "" : ", ") + title(flavour) + " " + version;
  }
  found.push_back({"library", "needs " + name + " " + sidecar.version,
                   others.empty() ? "here is no TensorRT" : "here is only " + others});
}

void compare_sm(const Sidecar& sidecar, const Machine& machine, std::vector<Difference>& found) {
  if (!machine.gpu) return;
  const int sm = machine.gpu->sm;
  const bool among = std::find(sidecar.sms.begin(), sidecar.sms.end(), sm) != sidecar.sms.end();
  const bool for_many = sidecar.hardware_compatible || sidecar.later_sms;
  if (among || (for_many && sm >= ampere)) return;
  found.push_back({"SM", "was built for SM " + sms_text(sidecar.sms, sidecar.later_sms),
                   "here is SM " + std::to_string(sm) + " (" + machine.gpu->name + ")"});
}

void compare_platform(const Sidecar& sidecar, const Machine& machine,
                      std::vector<Difference>& found) {
  if (sidecar.family == Family::rtx) return;  // nothing of the build machine is in such a plan
  const auto built = numbers(sidecar.cuda.value_or(""));
  const auto here = numbers(machine.cuda.value_or(""));
  // Within a major version of CUDA, older drivers run what newer ones do.
  if (!built.empty() && !here.empty() && here[0] < built[0]) {
    found.push_back({"CUDA", "was built with a driver for CUDA " + *sidecar.cuda,
                     "the driver here knows up to " + *machine.cuda});
  }
  // 36.4.0 and 36.4.3 share their libraries, 36.3 and 36.4 do not.
  if (first_two(numbers(sidecar.l4t.value_or(""))) !=
      first_two(numbers(machine.l4t.value_or("")))) {
    const bool on_jetson = sidecar.l4t && !sidecar.l4t->empty();
    const bool jetson = machine.l4t && !machine.l4t->empty();
    found.push_back(
        {"L4T",
         on_jetson ? "was built on Jetson Linux " + *sidecar.l4t : "was not built on a Jetson",
         jetson ? "here is Jetson Linux " + *machine.l4t : "here is no Jetson Linux"});
  }
}

// `# R36 (release), REVISION: 4.0, …` -> 36.4.0
std::optional<std::string> jetson_linux() {
  std::ifstream stream("/etc/nv_tegra_release");
  std::string line;
  if (!std::getline(stream, line)) return std::nullopt;
  const auto number_after = [&](const std::string& mark) {
    const std::size_t at = line.find(mark);
    if (at == std::string::npos) return std::string();
    const std::size_t start = at + mark.size();
    const std::size_t end = line.find_first_not_of("0123456789.", start);
    return line.substr(start, end == std::string::npos ? end : end - start);
  };
  const std::string major = number_after("R");
  const std::string rest = number_after("REVISION: ");
  if (major.empty() || rest.empty()) return std::nullopt;
  return major + "." + rest;
}

}  // namespace

const char* title(Flavour flavour) noexcept {
  switch (flavour) {
    case Flavour::lean:
      return "TensorRT lean runtime";
    case Flavour::dispatch:
      return "TensorRT dispatch runtime";
    default:
      return "TensorRT";
  }
}

const std::string* Machine::version(Flavour flavour) const noexcept {
  for (const auto& library : libraries) {
    if (library.first == flavour) return &library.second;
  }
  return nullptr;
}

Machine this_platform() {
  Machine machine;
  utsname about{};
  if (uname(&about) == 0) machine.architecture = static_cast<const char*>(about.machine);
  machine.l4t = jetson_linux();
  return machine;
}

bool same_version(const std::string& one, const std::string& other) {
  const auto first = numbers(one);
  const auto second = numbers(other);
  const std::size_t length = std::min(first.size(), second.size());
  const auto end = first.begin() + static_cast<std::ptrdiff_t>(length);
  return length > 0 && std::equal(first.begin(), end, second.begin());
}

std::optional<Flavour> flavour_for(const Sidecar& sidecar, const Machine& machine) {
  if (sidecar.family == Family::rtx) return std::nullopt;
  if (loads(sidecar, machine.version(Flavour::tensorrt))) return Flavour::tensorrt;
  if (!sidecar.version_compatible) return std::nullopt;
  if (loads(sidecar, machine.version(Flavour::lean))) return Flavour::lean;
  // The dispatch runtime has no kernels of its own: it runs the lean runtime inside the plan.
  if (sidecar.host_code && loads(sidecar, machine.version(Flavour::dispatch))) {
    return Flavour::dispatch;
  }
  return std::nullopt;
}

std::vector<Difference> differences(const Sidecar& sidecar, const Machine& machine) {
  std::vector<Difference> found;
  compare_library(sidecar, machine, found);
  compare_sm(sidecar, machine, found);
  if (architecture_of(sidecar.architecture) != architecture_of(machine.architecture)) {
    found.push_back({"architecture", "was built for " + sidecar.architecture,
                     "here is " + machine.architecture});
  }
  compare_platform(sidecar, machine, found);
  return found;
}

std::vector<Difference> contradictions(const Sidecar& sidecar, const PlanHeader& header) {
  std::vector<Difference> found;
  const auto compare = [&](const char* name, const std::string& one, const std::string& other) {
    if (one == other) return;
    found.push_back({std::string(name) + " in the header", "has " + one, "its sidecar " + other});
  };
  const auto name = [](Family family) { return family == Family::rtx ? "rtx" : "tensorrt"; };
  compare("family", name(header.family), name(sidecar.family));
  if (!same_version(header.version, sidecar.version)) {
    compare("version", header.version, sidecar.version);
  }
  if (header.sms) {
    compare("SM", sms_text(*header.sms, header.later_sms),
            sms_text(sidecar.sms, sidecar.later_sms));
  }
  if (header.size) {
    compare("size", std::to_string(header.offset + *header.size), std::to_string(sidecar.bytes));
  }
  return found;
}

}  // namespace vad::tensorrt
