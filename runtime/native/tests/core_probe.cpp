// Does what tests/runtime/test_cpp_core.py asks, so that it can compare with Python: one JSON line
// in, one JSON line out.

#include <cstdint>
#include <iostream>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "synthetic.hpp"
#include "vad/bundle.hpp"
#include "vad/detector.hpp"
#include "vad/error.hpp"
#include "vad/events.hpp"
#include "vad/json.hpp"
#include "vad/rows.hpp"
#include "vad/scoring.hpp"
#include "vad/window.hpp"

namespace {

using vad::Json;
using vad::Manifest;

double number(const Json& json) {
  return json.as_int() != nullptr ? static_cast<double>(*json.as_int()) : *json.as_double();
}

template <typename T>
Json or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json();
}

// Texts that may be no UTF-8 come as hexadecimal digits.
std::string bytes_of(const Json& hexadecimal) {
  std::string bytes;
  const std::string& digits = *hexadecimal.as_string();
  for (std::size_t i = 0; i < digits.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

Json artefact_json(const vad::Artefact& artefact) {
  return Json::Object{{"file", artefact.file},
                      {"sha256", artefact.sha256},
                      {"bytes", artefact.bytes},
                      {"precision", name(artefact.precision)},
                      {"made_from", or_null(artefact.made_from)}};
}

Json manifest_json(const Manifest& manifest) {
  const vad::ClipSpec& clip = manifest.clip;
  const vad::ScoreSpec& score = manifest.score;
  Json::Array outputs;
  for (const auto& output : manifest.outputs) {
    outputs.push_back(Json::Object{{"name", output.name},
                                   {"shape", output.shape},
                                   {"dtype", output.dtype},
                                   {"meaning", output.meaning}});
  }
  Json::Object artefacts;
  for (const auto& [short_name, artefact] : manifest.artefacts) {
    artefacts.emplace_back(short_name, artefact_json(artefact));
  }
  Json plan;
  if (manifest.plan) {
    plan = Json::Object{{"backend", manifest.plan->backend},
                        {"precision", name(manifest.plan->precision)},
                        {"target_ms", or_null(manifest.plan->target_ms)},
                        {"median_ms", manifest.plan->median_ms},
                        {"p95_ms", manifest.plan->p95_ms},
                        {"cpu", manifest.plan->cpu},
                        {"threads", manifest.plan->threads},
                        {"why", manifest.plan->why}};
  }
  return Json::Object{
      {"family", manifest.family},
      {"name", manifest.name},
      {"clip", Json::Object{{"frames", clip.frames},
                            {"stride", clip.stride},
                            {"hop", clip.hop},
                            {"height", clip.height},
                            {"width", clip.width},
                            {"colour", static_cast<int>(clip.colour)},
                            {"resizer", static_cast<int>(clip.resizer)},
                            {"interpolation", static_cast<int>(clip.interpolation)},
                            {"fps", or_null(clip.fps)},
                            {"span", clip.span()},
                            {"clip_bytes", static_cast<std::int64_t>(clip.clip_bytes())}}},
      {"score", Json::Object{{"per", static_cast<int>(score.per)},
                             {"form", score.form},
                             {"first", score.first},
                             {"count", score.count},
                             {"alpha", or_null(score.alpha)}}},
      {"outputs", std::move(outputs)},
      {"scoring", manifest.scoring.json()},
      {"artefacts", std::move(artefacts)},
      {"plan", std::move(plan)},
      {"takes_features", manifest.takes_features},
      {"bf16_allowed", manifest.bf16_allowed}};
}

Json scores(const Manifest& manifest, const Json::Array& steps) {
  vad::Scorer scorer(manifest.scoring);
  Json::Array out;
  for (const Json& raw : steps) {
    if (raw.is_null()) {
      scorer.reset();
    } else {
      out.push_back(scorer.update(number(raw)));
    }
  }
  return out;
}

Json alarms(const Manifest& manifest, const Json::Array& steps) {
  vad::Events events(manifest.scoring);
  Json::Array out;
  for (const Json& step : steps) {
    std::optional<vad::Event> event;
    if (step.is_null()) {
      event = events.end();
    } else {
      const Json::Array& parts = *step.as_array();
      event = events.update(*parts[0].as_int(), number(parts[1]), number(parts[2]));
    }
    out.push_back(Json::Array{event ? event->json() : Json(), events.active()});
  }
  return out;
}

Json counts(const std::map<std::string, std::int64_t>& map) {
  Json::Object out;
  for (const auto& [key, count] : map) out.emplace_back(key, count);
  return out;
}

// Runs synthetic frames through a detector and writes their rows.
Json run(const Json& request, const Manifest& manifest) {
  SyntheticBackend backend(manifest);
  std::optional<int> hop;
  if (const auto* wanted = request.find("hop")->as_int()) hop = static_cast<int>(*wanted);
  vad::Detector detector(manifest, backend, hop);
  std::optional<double> fps;
  if (!request.find("fps")->is_null()) fps = number(*request.find("fps"));
  vad::HoleRule holes(fps);
  vad::RowWriter rows(*request.find("folder")->as_string());
  const auto take = [&](const vad::ScoredFrame& frame) { rows.write(frame); };
  for (const Json& entry : *request.find("frames")->as_array()) {
    const double pts_s = number(*entry.find("pts_s"));
    vad::Frame frame = synthetic_frame(*entry.find("index")->as_int(), pts_s);
    if (const auto* hole = entry.find("hole")->as_string()) frame.hole = *hole;
    frame.damaged = *entry.find("damaged")->as_bool();
    const auto cause = holes.cause(frame);
    detector.feed(std::move(frame), cause, take);
  }
  detector.end(std::nullopt, take);
  rows.close();
  Json::Array events;
  for (const auto& event : detector.events()) events.push_back(event.json());
  const vad::Counters& counters = detector.counters();
  return Json::Object{{"events", std::move(events)},
                      {"frames", counters.frames},
                      {"scored", counters.scored},
                      {"clips", counters.clips},
                      {"flushes", counts(counters.flushes)},
                      {"unscored", counts(counters.unscored)}};
}

Json bundle(const std::string& path, bool verify) {
  const vad::Bundle opened = vad::Bundle::open(path, verify);
  Json::Array files;
  for (const auto& entry : opened.manifest().artefacts) files.push_back(opened.file(entry.second));
  return Json::Object{
      {"path", opened.path()}, {"name", opened.name()}, {"files", std::move(files)}};
}

Json answer(const Json& request) {
  const std::string& what = *request.find("do")->as_string();
  if (what == "json") return Json::parse(bytes_of(*request.find("hex")));
  if (what == "format") return Json::parse(bytes_of(*request.find("hex"))).dump(2);
  if (what == "bundle") {
    return bundle(*request.find("path")->as_string(), *request.find("verify")->as_bool());
  }
  const Manifest manifest = Manifest::parse(bytes_of(*request.find("hex")), "manifest.json");
  if (what == "manifest") return manifest_json(manifest);
  if (what == "scores") return scores(manifest, *request.find("steps")->as_array());
  if (what == "alarms") return alarms(manifest, *request.find("steps")->as_array());
  if (what == "run") return run(request, manifest);
  throw vad::Error("core_probe does not know how to do " + what + ". Correct the test.");
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    Json out;
    try {
      out = Json::Object{{"answer", answer(Json::parse(line))}};
    } catch (const vad::Error& error) {
      out = Json::Object{{"error", error.what()}};
    }
    std::cout << out.dump() << '\n';
  }
}
