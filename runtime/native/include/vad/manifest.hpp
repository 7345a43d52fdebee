// What a bundle says about itself: the same keys, defaults and checks as in Python
// (runtime/vad_runtime/contracts/manifest.py and clip.py, which explain each field).

#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "vad/json.hpp"
#include "vad/resize.hpp"

namespace vad {

enum class ResizerKind : std::uint8_t { exact, fast, portable };
enum class Precision : std::uint8_t { fp32, bf16, fp16, int8, mixed };

const char* name(Precision precision) noexcept;
std::optional<Precision> precision_from_name(std::string_view name) noexcept;

struct ClipSpec {
  int frames = 0;
  int stride = 1;
  int hop = 1;
  int height = 0;
  int width = 0;
  Colour colour = Colour::rgb;
  ResizerKind resizer = ResizerKind::fast;
  Interpolation interpolation = Interpolation::area;
  std::optional<double> fps;

  int channels() const noexcept { return colour == Colour::gray ? 1 : 3; }
  std::int64_t span() const noexcept { return std::int64_t{frames - 1} * stride + 1; }
  std::size_t frame_bytes() const noexcept { return target().bytes(); }
  std::size_t clip_bytes() const noexcept {
    return static_cast<std::size_t>(frames) * frame_bytes();
  }
  Target target() const noexcept { return {height, width, colour, interpolation}; }
};

struct ScoreSpec {
  enum class Per : std::uint8_t { frame, clip, segment };
  Per per = Per::clip;
  std::string form;
  int first = 0;
  int count = 1;
  std::optional<double> alpha;
};

struct Scoring {
  enum class Smoothing : std::uint8_t { none, mean, median };
  double offset = 0.0;
  double scale = 1.0;
  Smoothing smoothing = Smoothing::none;
  int window = 1;
  std::optional<double> threshold;
  double release = 0.9;
  double min_duration_s = 0.0;
  std::string method = "none";
  Json evidence = Json::Object{};

  Json json() const;  // as it stands in manifest.json and report.json
};

struct Artefact {
  std::string file;
  std::string sha256;
  std::int64_t bytes = 0;
  Precision precision = Precision::fp32;
  std::optional<std::string> made_from;
};

struct OutputSpec {
  std::string name;
  Json shape;
  std::string dtype = "float32";
  std::string meaning;
};

struct PlanChoice {
  std::string backend;
  Precision precision = Precision::fp32;
  std::optional<double> target_ms;
  double median_ms = 0.0;
  double p95_ms = 0.0;
  std::string cpu;
  int threads = 1;
  std::string why;
};

struct Manifest {
  std::string family;
  std::string name;
  ClipSpec clip;
  ScoreSpec score;
  std::vector<OutputSpec> outputs;
  Scoring scoring;
  std::vector<std::pair<std::string, Artefact>> artefacts;  // by short name, in the file's order
  std::optional<PlanChoice> plan;
  bool takes_features = false;  // a head alone: features of whole videos, no clips
  bool bf16_allowed = false;    // parity.bf16_allowed is true

  // Throws Error with Python's kinds of refusal: not JSON, a newer schema, an unknown or missing
  // key, a wrong type or value. `where` names the file.
  static Manifest parse(std::string_view text, const std::string& where);

  // Short name and artefact of a precision; bf16 is arithmetic of the fp32 graph.
  const std::pair<std::string, Artefact>* artefact_of(Precision precision) const noexcept;
};

}  // namespace vad
