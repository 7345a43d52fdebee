#include "report.hpp"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <map>
#include <utility>

#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "vad/cuda.hpp"
#include "vad/resize.hpp"

namespace vad::app {
namespace {

constexpr double least_coverage = 0.8;

Json counts(const std::map<std::string, std::int64_t>& from) {
  Json::Object out;
  for (const auto& [key, count] : from) out.emplace_back(key, count);
  return out;
}

std::string cpu_name(const std::string& architecture) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) != 0 && line.rfind("Model", 0) != 0) continue;
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const std::size_t start = line.find_first_not_of(" \t", colon + 1);
    if (start != std::string::npos) return line.substr(start);
  }
  return architecture;
}

int usable_threads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
}

Json machine() {
  utsname about{};
  uname(&about);
  const std::string architecture = about.machine;
  return Json::Object{
      {"cpu", cpu_name(architecture)},
      {"architecture", architecture},
      {"cores", static_cast<std::int64_t>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)))},
      {"usable_threads", usable_threads()},
      {"system", std::string(about.sysname) + "-" + about.release + "-" + architecture},
  };
}

Json versions() {
  Json::Object out{{"vad-edge", VAD_VERSION}};
  for (const std::string& kind : source_kinds()) {
    const std::size_t space = kind.find(' ');
    if (space != std::string::npos) out.emplace_back(kind.substr(0, space), kind.substr(space + 1));
  }
  return out;
}

Json source_json(const SourceInfo& info) {
  return Json::Object{
      {"name", info.name},
      {"kind", info.kind},
      {"codec", info.codec},
      {"width", info.width},
      {"height", info.height},
      {"fps", info.fps},
      {"frames", info.frames ? Json(*info.frames) : Json()},
  };
}

std::string resizer(ResizerKind kind) {
  switch (kind) {
    case ResizerKind::exact:
      return "exact";
    case ResizerKind::fast:
      return "fast";
    case ResizerKind::portable:
      break;
  }
  return std::string("portable: native ") + name(usable_simd().front());
}

}  // namespace

std::int64_t dropped_frames(const Source& source) {
  std::int64_t count = 0;
  for (const auto& [cause, dropped] : source.stats().dropped) {
    if (cause == "decoder behind" || cause == dropped_cause) count += dropped;
  }
  return count;
}

std::vector<std::string> notes(const Facts& facts) {
  std::vector<std::string> lines = facts.source->stats().notes;
  const Counters& counters = facts.detector->counters();
  const double share = static_cast<double>(counters.scored) /
                       static_cast<double>(std::max<std::int64_t>(counters.frames, 1));
  // What the model's stride skips is seen all the same.
  if (share * facts.bundle->manifest().clip.stride < least_coverage) {
    std::string causes;
    for (const auto& [cause, count] : counters.unscored) {
      causes += (causes.empty() ? "" : ", ") + std::to_string(count) + " " + cause;
    }
    char percent[32];
    std::snprintf(percent, sizeof percent, "%.0f%%", share * 100.0);
    lines.push_back("only " + std::string(percent) + " of the frames could be scored (" + causes +
                    ")");
  }
  return lines;
}

Json report(const Facts& facts) {
  const Manifest& manifest = facts.bundle->manifest();
  const Counters& counters = facts.detector->counters();
  const SourceStats& stats = facts.source->stats();
  Json::Array note_lines;
  for (const std::string& note : notes(facts)) note_lines.emplace_back(note);
  std::map<std::string, std::int64_t> dropped = stats.dropped;
  dropped.erase(dropped_cause);  // by us and not by the source
  Json::Array events;
  for (const Event& event : facts.detector->events()) events.push_back(event.json());
  Json peak;
  if (facts.peak) {
    peak = Json::Object{{"time_s", facts.peak->time_s}, {"score", facts.peak->score}};
  }
  return Json::Object{
      {"schema", 1},
      {"bundle", facts.bundle->name()},
      {"model", manifest.name},
      {"device", facts.choice->line()},
      {"backend", facts.choice->name},
      {"machine", machine()},
      {"versions", versions()},
      {"mode", "watch"},
      {"realtime", false},
      {"interrupted", facts.interrupted},
      {"source", source_json(facts.source->info())},
      {"resizer", resizer(manifest.clip.resizer)},
      {"frames", counters.frames},
      {"frames_scored", counters.scored},
      {"frames_unscored", counts(counters.unscored)},
      {"frames_dropped", dropped_frames(*facts.source)},
      {"frames_dropped_by_source", counts(dropped)},
      {"connections", stats.connections},
      {"frames_damaged", stats.damaged},
      {"undecodable_packets", stats.undecodable_packets},
      {"timestamps_repaired", stats.timestamps_repaired},
      {"holes", counts(stats.holes)},
      {"window_flushes", counts(counters.flushes)},
      {"notes", std::move(note_lines)},
      {"clips", counters.clips},
      {"scoring", manifest.scoring.json()},
      {"peak", std::move(peak)},
      {"events", std::move(events)},
      {"wall_s", rounded(facts.wall_s)},
      {"stages",
       Json::Object{
           {"decode_and_resize_per_frame", facts.decode.summary()},
           {"inference_per_clip", facts.infer.summary()},
           {"sinks_per_frame", facts.sinks.summary()},
       }},
      {"scores_png", "not asked for"},
  };
}

}  // namespace vad::app
