#include "vad/manifest.hpp"

#include <algorithm>
#include <array>

#include "manifest_reader.hpp"
#include "number.hpp"
#include "vad/error.hpp"

namespace vad {
namespace {

constexpr std::int64_t newest_schema = 1;

constexpr std::array<const char*, 5> precision_names = {"fp32", "bf16", "fp16", "int8", "mixed"};

Precision precision_from(const Value& value) {
  value.one_of({"fp32", "bf16", "fp16", "int8", "mixed"});
  return *precision_from_name(value.text());
}

// A key that only people and other tools read.
void require_object(const std::optional<Value>& value, const char* wanted = "object") {
  if (value) value->object(wanted);
}

ClipSpec clip_from(const Value& value) {
  const Fields fields(value, {"frames", "stride", "hop", "height", "width", "colour", "resizer",
                              "interpolation", "fps"});
  ClipSpec clip;
  clip.frames = fields.required("frames").count();
  if (const auto stride = fields.optional("stride")) clip.stride = stride->count();
  if (const auto hop = fields.optional("hop")) clip.hop = hop->count();
  clip.height = fields.required("height").count();
  clip.width = fields.required("width").count();
  if (const auto colour = fields.optional("colour")) {
    clip.colour = static_cast<Colour>(colour->one_of({"gray", "rgb"}));
  }
  if (const auto resizer = fields.optional("resizer")) {
    clip.resizer = static_cast<ResizerKind>(resizer->one_of({"exact", "fast", "portable"}));
  }
  if (const auto filter = fields.optional("interpolation")) {
    clip.interpolation = static_cast<Interpolation>(filter->one_of({"area", "bilinear"}));
  }
  if (const auto fps = fields.nullable("fps")) clip.fps = fps->real("float | null");

  const std::pair<const char*, int> counts[] = {{"frames", clip.frames},
                                                {"stride", clip.stride},
                                                {"hop", clip.hop},
                                                {"height", clip.height},
                                                {"width", clip.width}};
  for (const auto& [key, number] : counts) {
    if (number < 1) {
      fields.refuse(std::string("ClipSpec.") + key + " must be at least 1, got " +
                    std::to_string(number));
    }
  }
  if (clip.hop % clip.stride != 0) {
    fields.refuse("ClipSpec.hop must be a multiple of stride " + std::to_string(clip.stride) +
                  ", got " + std::to_string(clip.hop));
  }
  if (clip.resizer == ResizerKind::fast && clip.interpolation != Interpolation::area) {
    fields.refuse("ClipSpec.interpolation must be area with the resizer fast");
  }
  constexpr int largest_portable = 65535;
  if (clip.resizer == ResizerKind::portable &&
      std::max(clip.height, clip.width) > largest_portable) {
    fields.refuse("ClipSpec.height and width must be at most " + std::to_string(largest_portable) +
                  " with the resizer portable, got " + std::to_string(clip.height) + " x " +
                  std::to_string(clip.width));
  }
  if (clip.fps && !(*clip.fps > 0 && *clip.fps < 10000)) {
    fields.refuse("ClipSpec.fps must lie between 0 and 10000, got " + shortest_text(*clip.fps));
  }
  return clip;
}

ScoreSpec score_from(const Value& value) {
  const Fields fields(value, {"per", "form", "first", "count", "alpha"});
  ScoreSpec score;
  score.per =
      static_cast<ScoreSpec::Per>(fields.required("per").one_of({"frame", "clip", "segment"}));
  score.form = fields.required("form").text();
  if (const auto first = fields.optional("first")) score.first = first->count();
  if (const auto count = fields.optional("count")) score.count = count->count();
  if (const auto alpha = fields.nullable("alpha")) score.alpha = alpha->real("float | null");
  return score;
}

OutputSpec output_from(const Value& value) {
  const Fields fields(value, {"name", "shape", "dtype", "meaning"});
  OutputSpec output;
  output.name = fields.required("name").text();
  const Value shape = fields.required("shape");
  std::size_t position = 0;
  for (const Json& size : shape.array()) {
    const Value entry{&size, shape.where + '[' + std::to_string(position++) + ']'};
    if (size.as_string() == nullptr) entry.whole("int | str");
  }
  output.shape = *shape.json;
  if (const auto dtype = fields.optional("dtype")) output.dtype = dtype->text();
  output.meaning = fields.required("meaning").text();
  return output;
}

Scoring scoring_from(const Value& value) {
  const Fields fields(value, {"offset", "scale", "smoothing", "window", "threshold", "release",
                              "min_duration_s", "method", "evidence"});
  Scoring scoring;
  if (const auto offset = fields.optional("offset")) scoring.offset = offset->real();
  if (const auto scale = fields.optional("scale")) scoring.scale = scale->positive();
  if (const auto smoothing = fields.optional("smoothing")) {
    scoring.smoothing =
        static_cast<Scoring::Smoothing>(smoothing->one_of({"none", "mean", "median"}));
  }
  if (const auto window = fields.optional("window")) scoring.window = window->count_from(1);
  if (const auto threshold = fields.nullable("threshold")) {
    scoring.threshold = threshold->real("float | null");
  }
  if (const auto release = fields.optional("release")) {
    scoring.release = release->positive();
    if (scoring.release > 1) release->refuse("Expected `float` <= 1.0");
  }
  if (const auto duration = fields.optional("min_duration_s")) {
    scoring.min_duration_s = duration->real();
    if (scoring.min_duration_s < 0) duration->refuse("Expected `float` >= 0.0");
  }
  if (const auto method = fields.optional("method")) scoring.method = method->text();
  if (const auto evidence = fields.optional("evidence")) {
    evidence->object();
    scoring.evidence = *evidence->json;
  }
  return scoring;
}

Artefact artefact_from(const Value& value) {
  const Fields fields(value, {"file", "sha256", "bytes", "format", "precision", "opset", "tools",
                              "made_from", "details"});
  Artefact artefact;
  artefact.file = fields.required("file").text();
  artefact.sha256 = fields.required("sha256").text();
  const Value bytes = fields.required("bytes");
  artefact.bytes = bytes.whole();
  if (artefact.bytes < 0) bytes.refuse("Expected `int` >= 0");
  fields.required("format").one_of({"onnx"});
  artefact.precision = precision_from(fields.required("precision"));
  if (const auto opset = fields.nullable("opset")) opset->whole("int | null");
  if (const auto tools = fields.optional("tools")) {
    for (const auto& tool : tools->object()) Value{&tool.second, tools->where + "[...]"}.text();
  }
  if (const auto origin = fields.nullable("made_from")) {
    artefact.made_from = origin->text("str | null");
  }
  require_object(fields.optional("details"));
  return artefact;
}

// Segments of a graph of features.
int segments_from(const Value& value) {
  const Fields fields(value, {"segments", "size", "normalise", "modality", "made_by"},
                      "object | null");
  const int segments = fields.required("segments").count_from(1);
  fields.required("size").count_from(1);
  fields.required("normalise").flag();
  if (const auto modality = fields.optional("modality")) modality->one_of({"rgb", "flow", "two"});
  if (const auto maker = fields.optional("made_by")) maker->text();
  return segments;
}

PlanChoice plan_from(const Value& value) {
  const Fields fields(value, {"backend", "precision", "target_ms", "median_ms", "p95_ms", "cpu",
                              "threads", "why"},
                      "object | null");
  PlanChoice plan;
  const Value backend = fields.required("backend");
  plan.backend = backend.text();
  if (plan.backend.empty()) backend.refuse("Expected `str` of length >= 1");
  plan.precision = precision_from(fields.required("precision"));
  fields.required("target_ms");
  if (const auto target = fields.nullable("target_ms")) {
    plan.target_ms = target->positive("float | null");
  }
  plan.median_ms = fields.required("median_ms").positive();
  plan.p95_ms = fields.required("p95_ms").positive();
  plan.cpu = fields.required("cpu").text();
  plan.threads = fields.required("threads").count_from(1);
  plan.why = fields.required("why").text();
  return plan;
}

// Refuses what would leave it open which file runs, or which file another was made from.
void check_artefacts(const Manifest& manifest, const Value& whole) {
  const auto& artefacts = manifest.artefacts;
  for (auto entry = artefacts.begin(); entry != artefacts.end(); ++entry) {
    const auto& [short_name, artefact] = *entry;
    for (auto other = artefacts.begin(); other != entry; ++other) {
      if (other->second.precision == artefact.precision) {
        whole.refuse("artefacts " + other->first + " and " + short_name + " are both " +
                     name(artefact.precision) +
                     ", but a bundle has at most one of each precision");
      }
      if (other->second.file == artefact.file) {
        whole.refuse("artefacts " + other->first + " and " + short_name + " are the same file '" +
                     artefact.file + '\'');
      }
    }
    if (!artefact.made_from) continue;
    const std::string& origin = *artefact.made_from;
    if (origin == short_name) {
      whole.refuse("artefact " + short_name + " says that it was made from itself");
    }
    bool there = false;
    for (const auto& other : artefacts) there = there || other.first == origin;
    if (!there) {
      whole.refuse("artefact " + short_name + " was made from " + origin +
                   ", which is not there");
    }
  }
}

// Refuses a manifest that contradicts itself.
void check(const Manifest& manifest, std::optional<int> segments, const Value& whole) {
  const ScoreSpec& score = manifest.score;
  if (score.per == ScoreSpec::Per::frame) {
    const std::int64_t end = std::int64_t{score.first} + score.count;
    if (score.first < 0 || score.count < 1 || end > manifest.clip.frames) {
      whole.refuse("score covers frames " + std::to_string(score.first) + " to " +
                   std::to_string(end - 1) + ", but a clip has " +
                   std::to_string(manifest.clip.frames));
    }
  }
  if ((score.per == ScoreSpec::Per::segment) != segments.has_value()) {
    whole.refuse("score.per is segment exactly where the graph takes features");
  }
  if (segments && score.count != *segments) {
    whole.refuse("score.count is " + std::to_string(score.count) + ", but there are " +
                 std::to_string(*segments) + " segments");
  }
  check_artefacts(manifest, whole);
  if (manifest.artefacts.empty()) whole.refuse("artefacts is empty");
}

Manifest manifest_from(const Value& whole) {
  const Fields fields(whole, {"schema", "family", "name", "clip", "score", "outputs", "scoring",
                              "artefacts", "training", "licence", "created", "calibration",
                              "parity", "latency", "features", "plan"});
  Manifest manifest;
  manifest.family = fields.required("family").text();
  manifest.name = fields.required("name").text();
  manifest.clip = clip_from(fields.required("clip"));
  manifest.score = score_from(fields.required("score"));
  if (const auto outputs = fields.optional("outputs")) {
    for (const Json& output : outputs->array()) {
      const std::string place = '[' + std::to_string(manifest.outputs.size()) + ']';
      manifest.outputs.push_back(output_from({&output, outputs->where + place}));
    }
  }
  if (const auto scoring = fields.optional("scoring")) manifest.scoring = scoring_from(*scoring);
  const Value artefacts = fields.required("artefacts");
  for (const auto& [short_name, artefact] : artefacts.object()) {
    manifest.artefacts.emplace_back(short_name,
                                    artefact_from({&artefact, artefacts.where + "[...]"}));
  }
  require_object(fields.optional("training"));
  for (const char* key : {"licence", "created"}) {
    if (const auto text = fields.optional(key)) text->text();
  }
  for (const char* key : {"calibration", "parity", "latency"}) {
    require_object(fields.nullable(key), "object | null");
  }
  if (const auto parity = fields.nullable("parity")) {
    const Json* allowed = parity->json->find("bf16_allowed");
    manifest.bf16_allowed =
        allowed != nullptr && allowed->as_bool() != nullptr && *allowed->as_bool();
  }
  std::optional<int> segments;
  if (const auto features = fields.nullable("features")) segments = segments_from(*features);
  manifest.takes_features = segments.has_value();
  if (const auto plan = fields.nullable("plan")) manifest.plan = plan_from(*plan);
  check(manifest, segments, whole);
  return manifest;
}

void require_known_schema(const Json& json, const std::string& where) {
  const Json* schema = json.find("schema");
  if (schema == nullptr || schema->as_int() == nullptr) {
    throw Error(where + ": no schema number, so no manifest. Export the bundle again.");
  }
  const std::string number = std::to_string(*schema->as_int());
  if (*schema->as_int() > newest_schema) {
    throw Error(where + ": manifest schema " + number + ", but this vad-edge reads up to " +
                std::to_string(newest_schema) + ". Install a newer vad-edge.");
  }
  if (*schema->as_int() < 1) {
    throw Error(where + ": manifest schema " + number + " never existed. Export it again.");
  }
}

}  // namespace

const char* name(Precision precision) noexcept {
  return precision_names[static_cast<std::size_t>(precision)];
}

std::optional<Precision> precision_from_name(std::string_view name) noexcept {
  for (std::size_t i = 0; i < precision_names.size(); ++i) {
    if (name == precision_names[i]) return static_cast<Precision>(i);
  }
  return std::nullopt;
}

Json Scoring::json() const {
  constexpr std::array<const char*, 3> filters = {"none", "mean", "median"};
  return Json::Object{{"offset", offset},
                      {"scale", scale},
                      {"smoothing", filters[static_cast<std::size_t>(smoothing)]},
                      {"window", window},
                      {"threshold", threshold ? Json(*threshold) : Json()},
                      {"release", release},
                      {"min_duration_s", min_duration_s},
                      {"method", method},
                      {"evidence", evidence}};
}

Manifest Manifest::parse(std::string_view text, const std::string& where) {
  Json json;
  try {
    json = Json::parse(text);
  } catch (const Error& error) {
    throw Error(where + ": not JSON (" + error.what() + "). Export the bundle again.");
  }
  require_known_schema(json, where);
  try {
    return manifest_from({&json, "$"});
  } catch (const BadValue& bad) {
    throw Error(where + ": " + bad.reason() + ". Correct that key or export again.");
  }
}

const std::pair<std::string, Artefact>* Manifest::artefact_of(Precision precision) const noexcept {
  const Precision wanted = precision == Precision::bf16 ? Precision::fp32 : precision;
  for (const auto& entry : artefacts) {
    if (entry.second.precision == wanted) return &entry;
  }
  return nullptr;
}

}  // namespace vad
