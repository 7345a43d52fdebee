#include "checks.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <thread>

#include <sched.h>

namespace vad {
namespace {

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::string line;
  for (const char c : text) {
    if (c == '\n' || c == '\r') {
      lines.push_back(line);
      line.clear();
    } else {
      line += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
    }
  }
  lines.push_back(line);
  const auto blank = [](const std::string& each) {
    return each.find_first_not_of(' ') == std::string::npos;
  };
  lines.erase(std::remove_if(lines.begin(), lines.end(), blank), lines.end());
  return lines;
}

// As Python writes a tuple: `(1,)`, `(1, 8)`.
std::string tuple_text(const std::vector<std::int64_t>& shape) {
  std::vector<std::string> parts;
  for (const std::int64_t size : shape) parts.push_back(std::to_string(size));
  return "(" + joined(parts, ", ") + (parts.size() == 1 ? ",)" : ")");
}

std::vector<std::int64_t> clip_shape(const ClipSpec& clip) {
  return {clip.frames, clip.height, clip.width, clip.channels()};
}

bool fits(const std::vector<std::optional<std::int64_t>>& have,
          const std::vector<std::int64_t>& want) {
  if (have.size() != want.size() + 1 || have[0].value_or(1) != 1) return false;
  for (std::size_t i = 0; i < want.size(); ++i) {
    if (have[i + 1].value_or(want[i]) != want[i]) return false;
  }
  return true;
}

}  // namespace

std::string first_line(const std::string& text) {
  const std::vector<std::string> lines = lines_of(text);
  return lines.empty() ? "no reason given" : lines.front();
}

std::string last_line(const std::string& text) {
  const std::vector<std::string> lines = lines_of(text);
  return lines.empty() ? "no reason given" : lines.back();
}

std::string file_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

std::string joined(const std::vector<std::string>& parts, const std::string& between) {
  std::string text;
  for (std::size_t i = 0; i < parts.size(); ++i) text += (i == 0 ? "" : between) + parts[i];
  return text;
}

int usable_threads() {
  // A machine with more processors than a cpu_set_t counts (1024) needs a longer set.
  for (int processors = 1024; processors <= 1 << 20; processors *= 4) {
    cpu_set_t* set = CPU_ALLOC(static_cast<std::size_t>(processors));
    if (set == nullptr) break;
    const std::size_t bytes = CPU_ALLOC_SIZE(static_cast<std::size_t>(processors));
    const int count = sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 0;
    CPU_FREE(set);
    if (count > 0) return count;
  }
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int threads_of(const std::optional<int>& asked) {
  return asked.value_or(0) > 0 ? *asked : usable_threads();
}

std::set<std::string> cpu_flags() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, 5, "flags") != 0) continue;
    std::istringstream words(line.substr(std::min(line.size(), line.find(':') + 1)));
    std::set<std::string> flags;
    for (std::string word; words >> word;) flags.insert(word);
    return flags;
  }
  return {};
}

void check_input_name(const std::string& file, const GraphFacts& graph) {
  if (graph.inputs == std::vector<std::string>{"clip"}) return;
  throw Error(file_name(file) + " has no single input `clip`. Export the bundle again.");
}

void check_graph(const std::string& file, const Manifest& manifest, const GraphFacts& graph) {
  const std::vector<std::int64_t> want = clip_shape(manifest.clip);
  if (graph.dtype != "uint8" || !fits(graph.shape, want)) {
    std::vector<std::string> have;
    for (const auto& size : graph.shape) have.push_back(size ? std::to_string(*size) : "N");
    std::vector<std::string> need;
    for (const std::int64_t size : want) need.push_back(std::to_string(size));
    throw Error(file_name(file) + " takes a clip of " + graph.dtype + " (" + joined(have, ", ") +
                "), the manifest says uint8 (N, " + joined(need, ", ") +
                "). Export the bundle again.");
  }
  if (std::find(graph.outputs.begin(), graph.outputs.end(), "score") == graph.outputs.end()) {
    throw Error(file_name(file) + " has no output called score, but " +
                joined(graph.outputs, ", ") + ". Export the bundle again.");
  }
}

void check_score_shape(const std::vector<std::int64_t>& shape, const ScoreSpec& spec) {
  std::vector<std::int64_t> want{1};
  if (spec.per != ScoreSpec::Per::clip) want.push_back(spec.count);
  if (shape != want) {
    throw Error("the graph gave a score of shape " + tuple_text(shape) + ", the manifest says " +
                tuple_text(want) + ". Export the bundle again.");
  }
}

Error wrong_score_type(const std::string& dtype) {
  return Error("the graph gave a score of " + dtype + ", not float32. Export the bundle again.");
}

void check_finite(const std::vector<float>& score) {
  for (const float value : score) {
    // A NaN never reaches a threshold: going on would be a detector that sleeps.
    if (!std::isfinite(value)) {
      throw Error("the graph gave a score that is not finite. Try --precision fp32.");
    }
  }
}

}  // namespace vad
