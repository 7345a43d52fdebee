// Manifest: what is read, and what is refused. tests/runtime/test_cpp_manifest.py compares every
// key with Python.

#include <string>

#include "expect.hpp"
#include "vad/manifest.hpp"

namespace {

using vad::Manifest;

const std::string whole = R"({
  "schema": 1, "family": "stae", "name": "gate",
  "clip": {"frames": 8, "stride": 2, "hop": 4, "height": 32, "width": 48, "colour": "gray",
           "resizer": "portable", "interpolation": "bilinear", "fps": 25},
  "score": {"per": "frame", "form": "prediction", "first": 4, "count": 4, "alpha": 0.5},
  "outputs": [{"name": "map", "shape": ["N", 8], "meaning": "where"}],
  "scoring": {"offset": 0.5, "scale": 2, "smoothing": "mean", "window": 9, "threshold": 3,
              "release": 0.8, "min_duration_s": 1.5, "method": "quantile", "evidence": {"n": 1}},
  "artefacts": {
    "small": {"file": "b.onnx", "sha256": "11", "bytes": 4, "format": "onnx",
              "precision": "int8", "made_from": "fp32"},
    "fp32": {"file": "a.onnx", "sha256": "00", "bytes": 10, "format": "onnx",
             "precision": "fp32", "opset": 18, "tools": {"torch": "2"}}},
  "parity": {"bf16_allowed": true},
  "plan": {"backend": "openvino", "precision": "bf16", "target_ms": null, "median_ms": 3,
           "p95_ms": 4.5, "cpu": "a processor", "threads": 2, "why": "fastest"}
})";

// The whole manifest with one piece of text replaced.
std::string with(const std::string& before, const std::string& after) {
  const std::size_t at = whole.find(before);
  EXPECT(at != std::string::npos);
  return whole.substr(0, at) + after + whole.substr(at + before.size());
}

std::string refusal(const std::string& text) {
  return error_of([&] { Manifest::parse(text, "m.json"); });
}

void every_key_is_read() {
  const Manifest manifest = Manifest::parse(whole, "m.json");
  EXPECT(manifest.family == "stae" && manifest.name == "gate");
  EXPECT(manifest.clip.frames == 8 && manifest.clip.span() == 15);
  vad::ClipSpec huge;
  huge.frames = huge.stride = 2147483647;
  EXPECT(huge.span() == 4611686011984936963);
  EXPECT(manifest.clip.clip_bytes() == 8 * 32 * 48);
  EXPECT(manifest.clip.resizer == vad::ResizerKind::portable);
  EXPECT(manifest.clip.interpolation == vad::Interpolation::bilinear);
  EXPECT(*manifest.clip.fps == 25.0);
  EXPECT(manifest.score.per == vad::ScoreSpec::Per::frame);
  EXPECT(manifest.score.first == 4 && manifest.score.count == 4);
  EXPECT(manifest.outputs.at(0).shape.dump() == R"(["N",8])");
  EXPECT(manifest.scoring.scale == 2.0 && manifest.scoring.window == 9);
  EXPECT(manifest.scoring.smoothing == vad::Scoring::Smoothing::mean);
  EXPECT(manifest.artefacts.at(0).first == "small");  // in the order of the file
  EXPECT(*manifest.artefacts.at(0).second.made_from == "fp32");
  EXPECT(manifest.plan->precision == vad::Precision::bf16 && !manifest.plan->target_ms);
  EXPECT(manifest.bf16_allowed && !manifest.takes_features);
}

void bf16_is_arithmetic_of_the_fp32_artefact() {
  const Manifest manifest = Manifest::parse(whole, "m.json");
  EXPECT(manifest.artefact_of(vad::Precision::bf16)->first == "fp32");
  EXPECT(manifest.artefact_of(vad::Precision::int8)->first == "small");
  EXPECT(manifest.artefact_of(vad::Precision::fp16) == nullptr);
}

void a_missing_or_unknown_key_is_refused_by_name() {
  EXPECT(refusal(with(R"("frames": 8, )", "")) ==
         "m.json: Object missing required field `frames` - at `$.clip`. Correct that key or export "
         "again.");
  EXPECT(holds(refusal(with(R"("form")", R"("from")")), "unknown field `from` - at `$.score`"));
  EXPECT(holds(refusal(with(R"("meaning")", R"("means")")), "`means` - at `$.outputs[0]`"));
  EXPECT(holds(refusal(with(R"("family")", R"("famly")")), "unknown field `famly`. Correct"));
}

void a_wrong_kind_of_value_is_refused_by_place() {
  EXPECT(holds(refusal(with(R"("frames": 8)", R"("frames": 8.0)")),
               "Expected `int`, got `float` - at `$.clip.frames`"));
  EXPECT(holds(refusal(with(R"("fps": 25)", R"("fps": true)")),
               "Expected `float | null`, got `bool` - at `$.clip.fps`"));
  EXPECT(holds(refusal(with(R"("gray")", R"("grey")")),
               "Invalid enum value 'grey' - at `$.clip.colour`"));
  EXPECT(holds(refusal(with(R"({"torch": "2"})", R"({"torch": 2})")),
               "Expected `str`, got `int` - at `$.artefacts[...].tools[...]`"));
  EXPECT(holds(refusal(with(R"("frames": 8)", R"("frames": 2147483648)")), "at most 2147483647"));
}

void a_manifest_that_contradicts_itself_is_refused() {
  EXPECT(holds(refusal(with(R"("hop": 4)", R"("hop": 3)")), "multiple of stride 2, got 3"));
  EXPECT(holds(refusal(with(R"("portable")", R"("fast")")), "must be area with the resizer fast"));
  EXPECT(holds(refusal(with(R"("height": 32)", R"("height": 65536)")),
               "at most 65535 with the resizer portable, got 65536 x 48"));
  EXPECT(holds(refusal(with(R"("count": 4)", R"("count": 5)")), "frames 4 to 8, but a clip has 8"));
  EXPECT(holds(refusal(with(R"("count": 4)", R"("count": 2147483647)")), "4 to 2147483650"));
  EXPECT(holds(refusal(with(R"("frame", "form")", R"("segment", "form")")), "takes features"));
  EXPECT(holds(refusal(with(R"("int8")", R"("fp32")")), "small and fp32 are both fp32"));
  EXPECT(holds(refusal(with("a.onnx", "b.onnx")), "are the same file 'b.onnx'"));
  EXPECT(holds(refusal(with(R"("made_from": "fp32")", R"("made_from": "fp16")")),
               "was made from fp16, which is not there"));
}

void a_newer_schema_and_what_is_no_manifest_are_refused() {
  EXPECT(refusal(with(R"("schema": 1)", R"("schema": 2)")) ==
         "m.json: manifest schema 2, but this vad-edge reads up to 1. Install a newer vad-edge.");
  EXPECT(holds(refusal(with(R"("schema": 1)", R"("schema": 0)")), "schema 0 never existed"));
  EXPECT(holds(refusal(with(R"("schema": 1)", R"("schema": true)")), "no schema number"));
  EXPECT(holds(refusal("[]"), "no schema number"));
  EXPECT(holds(refusal("{,}"), "m.json: not JSON (JSON is malformed"));
}

void settings_are_written_as_they_stand_in_the_report() {
  EXPECT(Manifest::parse(whole, "m.json").scoring.json().dump() ==
         R"({"offset":0.5,"scale":2.0,"smoothing":"mean","window":9,"threshold":3.0,)"
         R"("release":0.8,"min_duration_s":1.5,"method":"quantile","evidence":{"n":1}})");
}

void precisions_have_names() {
  for (const char* text : {"fp32", "bf16", "fp16", "int8", "mixed"}) {
    EXPECT(std::string(name(*vad::precision_from_name(text))) == text);
  }
  EXPECT(!vad::precision_from_name("fp64"));
}

}  // namespace

int main() {
  every_key_is_read();
  bf16_is_arithmetic_of_the_fp32_artefact();
  a_missing_or_unknown_key_is_refused_by_name();
  a_wrong_kind_of_value_is_refused_by_place();
  a_manifest_that_contradicts_itself_is_refused();
  a_newer_schema_and_what_is_no_manifest_are_refused();
  settings_are_written_as_they_stand_in_the_report();
  precisions_have_names();
  std::puts("manifest: all expectations hold");
}
