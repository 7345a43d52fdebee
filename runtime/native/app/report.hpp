// report.json, with the keys of Python's `vad-run watch`.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "stage.hpp"
#include "vad/backend.hpp"
#include "vad/bundle.hpp"
#include "vad/detector.hpp"
#include "vad/json.hpp"
#include "vad/source.hpp"

namespace vad::app {

constexpr const char* live_kind = "live stream";

struct Peak {
  double time_s = 0.0;
  double score = 0.0;
};

// What a run has seen.
struct Facts {
  const Bundle* bundle = nullptr;
  const Choice* choice = nullptr;
  const Source* source = nullptr;
  const Detector* detector = nullptr;
  std::optional<Peak> peak;
  bool interrupted = false;
  double wall_s = 0.0;
  Stage decode;
  Stage infer;
  Stage sinks;
};

// Frames that were left out because we were too slow.
std::int64_t dropped_frames(const Source& source);
// The source's lines, and one when much of it could not be scored.
std::vector<std::string> notes(const Facts& facts);
Json report(const Facts& facts);

}  // namespace vad::app
