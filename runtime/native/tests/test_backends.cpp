// Real engines on real graphs: same contract, same scores, same refusals. Engines that this build
// lacks are left out.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "tiny_bundle.hpp"
#include "vad/backend.hpp"
#include "vad/bundle.hpp"
#include "vad/error.hpp"

#define EXPECT(condition)                                                      \
  do {                                                                         \
    if (!(condition)) {                                                        \
      std::fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                            \
    }                                                                          \
  } while (false)

namespace {

using vad::BackendOptions;
using vad::Bundle;
using vad::Choice;
using vad::Error;
using vad::Precision;
using namespace tiny;

bool has(const std::string& name) {
  const std::vector<std::string> names = vad::backend_names();
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::vector<std::string> engines() {
  std::vector<std::string> found;
  for (const std::string name : {"openvino", "onnxruntime"}) {
    if (has(name)) found.push_back(name);
  }
  return found;
}

BackendOptions one_thread() {
  BackendOptions options;
  options.threads = 1;
  return options;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// The message of the Error that `action` must throw: one line.
template <typename Action>
std::string refusal(Action action) {
  try {
    action();
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT(!contains(text, "\n"));
    return text;
  }
  std::fputs("nothing was refused\n", stderr);
  std::exit(1);
}

std::string refusal_of(const Folder& folder, const std::string& name,
                       const BackendOptions& options = one_thread()) {
  const Bundle bundle = folder.open();
  return refusal([&] { vad::open_backend(bundle, name, options); });
}

std::vector<std::uint8_t> noise(std::uint32_t seed) {
  std::vector<std::uint8_t> clip(frames * frame_bytes);
  for (std::uint8_t& pixel : clip) {
    seed = seed * 1664525U + 1013904223U;
    pixel = static_cast<std::uint8_t>(seed >> 24);
  }
  return clip;
}

double mean(const std::uint8_t* pixels, std::size_t count) {
  double sum = 0.0;
  for (std::size_t i = 0; i < count; ++i) sum += pixels[i];
  return sum / static_cast<double>(count);
}

bool near(double value, double expected) {
  return std::abs(value - expected) <= 1e-5 * std::abs(expected);
}

void an_engine_gives_the_scores_of_the_formula() {
  const Folder clips(onnx_from({}));
  const Folder each(onnx_from({frames, "clip", "score", true, false}), {true, "fp32", "fp32"});
  for (const std::string& name : engines()) {
    const Choice one = vad::open_backend(clips.open(), name, one_thread());
    const Choice many = vad::open_backend(each.open(), name, one_thread());
    for (std::uint32_t seed = 0; seed < 5; ++seed) {
      const std::vector<std::uint8_t> clip = noise(seed);
      const std::vector<float> score = one.backend->infer(clip.data());
      EXPECT(score.size() == 1);
      EXPECT(near(score[0], mean(clip.data(), clip.size())));
      const std::vector<float> scores = many.backend->infer(clip.data());
      EXPECT(scores.size() == frames);
      for (std::size_t i = 0; i < frames; ++i) {
        EXPECT(near(scores[i], mean(clip.data() + i * frame_bytes, frame_bytes)));
      }
    }
  }
}

void a_clip_is_read_from_the_ring_of_the_back_end() {
  const Folder folder(onnx_from({}));
  for (const std::string& name : vad::backend_names()) {
    if (name == "tensorrt") continue;
    const Choice choice = vad::open_backend(folder.open(), name, one_thread());
    const std::unique_ptr<vad::Ring> ring = choice.backend->ring();
    for (int round = 0; round < 3; ++round) {
      const std::vector<std::uint8_t> clip = noise(static_cast<std::uint32_t>(round));
      for (std::size_t i = 0; i < frames; ++i) {
        std::memcpy(ring->slot(), clip.data() + i * frame_bytes, frame_bytes);
        ring->commit();
      }
      EXPECT(choice.backend->infer(ring->latest()) == choice.backend->infer(clip.data()));
    }
  }
}

void the_device_names_engine_precision_and_threads() {
  const Folder folder(onnx_from({}));
  for (const std::string& name : engines()) {
    const Choice choice = vad::open_backend(folder.open(), name, one_thread());
    const std::string& device = choice.backend->device();
    EXPECT(contains(device, name + " 20") || contains(device, name + " 1."));
    const std::string end = "fp32, 1 threads";
    EXPECT(device.compare(device.size() - end.size(), end.size(), end) == 0);
    EXPECT(choice.line() == device + ", artefact fp32 (asked for)");
  }
}

void a_graph_that_is_not_the_manifests_is_refused() {
  Graph longer;
  longer.input_frames = frames + 1;
  Graph other_input;
  other_input.input = "frames";
  Graph other_output;
  other_output.output = "anomaly";
  for (const std::string& name : engines()) {
    std::string text = refusal_of(Folder(onnx_from(longer)), name);
    EXPECT(contains(text, "model.onnx takes a clip of uint8 (N, 5, 8, 8, 1), the manifest says "
                          "uint8 (N, 4, 8, 8, 1). Export"));
    text = refusal_of(Folder(onnx_from(other_input)), name);
    EXPECT(contains(text, "model.onnx has no single input `clip`"));
    text = refusal_of(Folder(onnx_from(other_output)), name);
    EXPECT(contains(text, "no output called score, but anomaly"));
    text = refusal_of(Folder("\xff\xff\xff"), name);
    EXPECT(contains(text, name + " cannot load model.onnx: "));
  }
}

void a_score_of_another_shape_is_refused() {
  const Folder folder(onnx_from({}), {true, "fp32", "fp32"});
  for (const std::string& name : engines()) {
    const Choice choice = vad::open_backend(folder.open(), name, one_thread());
    const std::vector<std::uint8_t> clip = noise(1);
    const std::string text = refusal([&] { choice.backend->infer(clip.data()); });
    EXPECT(contains(text, "a score of shape (1,), the manifest says (1, 4)"));
  }
}

void a_score_that_is_not_finite_is_refused_and_the_next_is_fine() {
  Graph logarithm;
  logarithm.logarithm = true;
  const Folder folder(onnx_from(logarithm));
  for (const std::string& name : engines()) {
    const Choice choice = vad::open_backend(folder.open(), name, one_thread());
    const std::vector<std::uint8_t> black(frames * frame_bytes, 0);
    const std::string text = refusal([&] { choice.backend->infer(black.data()); });
    EXPECT(contains(text, "not finite. Try --precision fp32."));
    const std::vector<std::uint8_t> clip = noise(1);
    EXPECT(near(choice.backend->infer(clip.data())[0], std::log(mean(clip.data(), clip.size()))));
  }
}

void what_an_engine_cannot_honour_it_refuses() {
  const Folder folder(onnx_from({}));
  BackendOptions on_gpu;
  on_gpu.device = "cuda:0";
  BackendOptions with_plan;
  with_plan.engine = "some.plan";
  with_plan.host_code = true;
  BackendOptions in_int8;
  in_int8.precision = Precision::int8;
  for (const std::string& name : engines()) {
    EXPECT(contains(refusal_of(folder, name, on_gpu), "runs on cpu here, not on cuda:0. Use cpu."));
    EXPECT(contains(refusal_of(folder, name, with_plan),
                    name + " runs no TensorRT plans, so --engine and --host-code cannot be "
                           "honoured. Use --backend tensorrt."));
    const std::string text = refusal_of(folder, name, in_int8);
    EXPECT(contains(text, "tiny.vad has no int8 artefact (it has: fp32). Make one with: "));
    EXPECT(contains(text, "tiny.vad --precision int8"));
  }
  if (has("onnxruntime")) {
    BackendOptions in_bf16;
    in_bf16.precision = Precision::bf16;
    EXPECT(contains(refusal_of(folder, "onnxruntime", in_bf16), "no bf16 arithmetic on a CPU"));
  }
}

void a_name_that_is_none_and_an_engine_that_is_not_built_in_are_told_apart() {
  const Folder folder(onnx_from({}));
  EXPECT(contains(refusal_of(folder, "caffe"), "no back end is called 'caffe'. Use auto or one"));
  for (const std::string name : {"tensorrt", "openvino", "onnxruntime"}) {
    if (has(name)) continue;
    EXPECT(contains(refusal_of(folder, name), name + " is not in this build"));
  }
}

void auto_takes_the_fastest_engine_and_says_why_not_a_better_one() {
  const Folder folder(onnx_from({}));
  BackendOptions options = one_thread();
  options.device = "cpu";
  if (engines().empty()) {
    EXPECT(contains(refusal_of(folder, "auto", options), "no engine for a CPU"));
    return;
  }
  const Choice choice = vad::open_backend(folder.open(), "auto", options);
  EXPECT(choice.name == engines()[0]);
  EXPECT(choice.reason == "the fastest installed engine on this CPU");

  const std::string text = refusal_of(Folder("\xff\xff\xff"), "auto", options);
  EXPECT(contains(text, "no back end can run tiny.vad: "));
  for (const std::string& name : engines()) EXPECT(contains(text, name + " cannot load"));
  EXPECT(text.back() == '.' && text[text.size() - 2] != '.');
}

void auto_refuses_a_gpu_or_a_plan_that_nothing_here_can_use() {
  if (has("tensorrt")) return;
  const Folder folder(onnx_from({}));
  BackendOptions on_gpu;
  on_gpu.device = "cuda";
  EXPECT(contains(refusal_of(folder, "auto", on_gpu), "this build has no engine for cuda"));
  BackendOptions with_plan;
  with_plan.engine = "some.plan";
  EXPECT(contains(refusal_of(folder, "auto", with_plan), "so --engine cannot be honoured"));
}

std::string plan_of(const std::string& backend, const std::string& precision) {
  return R"({"backend": ")" + backend + R"(", "precision": ")" + precision +
         R"(", "target_ms": 40.0, "median_ms": 12.3456, "p95_ms": 15.0, "cpu": "A CPU",)" +
         R"( "threads": 2, "why": "test"})";
}

void auto_follows_the_bundles_plan_or_says_why_not() {
  if (engines().empty()) return;
  const std::string last = engines().back();
  BackendOptions options = one_thread();
  options.device = "cpu";

  const Folder good(onnx_from({}), {false, "fp32", "fp32", plan_of(last, "fp32")});
  Choice choice = vad::open_backend(good.open(), "auto", options);
  EXPECT(choice.name == last);
  EXPECT(choice.reason == "planned on A CPU for 40 ms a clip: 12.3 ms with 2 threads");

  options.precision = Precision::fp32;  // then nothing was planned
  EXPECT(vad::open_backend(good.open(), "auto", options).name == engines()[0]);
  options.precision.reset();

  const Folder gone(onnx_from({}), {false, "fp32", "fp32", plan_of(last, "int8")});
  choice = vad::open_backend(gone.open(), "auto", options);
  EXPECT(choice.reason == "the fastest installed engine on this CPU; the plan (" + last +
                              ", int8) is not followed: its int8 artefact is gone");

  const Folder foreign(onnx_from({}), {false, "fp32", "fp32", plan_of("onnxruntime-cuda", "fp32")});
  choice = vad::open_backend(foreign.open(), "auto", options);
  EXPECT(contains(choice.reason, "not followed: no back end is called 'onnxruntime-cuda' here"));
}

void the_artefact_of_the_precision_is_the_one_that_runs() {
  const Folder folder(onnx_from({}), {false, "small", "int8"});
  BackendOptions in_int8 = one_thread();
  in_int8.precision = Precision::int8;
  for (const std::string& name : engines()) {
    const Choice choice = vad::open_backend(folder.open(), name, in_int8);
    EXPECT(choice.artefact == "small");
    EXPECT(contains(choice.backend->device(), ", int8 "));
    // Nothing else runs in its place.
    EXPECT(contains(refusal_of(folder, name), "has no fp32 artefact (it has: small)"));
  }
}

void a_graph_of_features_is_refused() {
  const About features{true, "fp32", "fp32", "null",
                       R"({"segments": 4, "size": 16, "normalise": true})"};
  const std::string text = refusal_of(Folder(onnx_from({}), features), "auto");
  EXPECT(contains(text, "scores precomputed features of whole videos"));
}

void the_fake_back_end_measures_motion() {
  std::vector<std::uint8_t> clip(frames * frame_bytes, 100);
  for (std::size_t i = 0; i < frame_bytes; ++i) {
    clip[2 * frame_bytes + i] = 90;   // 10 darker
    clip[3 * frame_bytes + i] = 120;  // 30 brighter
  }
  const Folder each(onnx_from({}), {true, "fp32", "fp32"});
  Choice choice = vad::open_backend(each.open(), "fake", {});
  EXPECT((choice.backend->infer(clip.data()) == std::vector<float>{0.0F, 0.0F, 10.0F, 30.0F}));
  const Folder whole(onnx_from({}));
  choice = vad::open_backend(whole.open(), "fake", {});
  EXPECT(choice.backend->infer(clip.data()) == std::vector<float>{10.0F});
}

}  // namespace

// Under AddressSanitizer: OpenVINO keeps a few bytes for each thread until the process ends. Its
// frames are found only by walking the stack the slow way.
extern "C" const char* __lsan_default_suppressions() { return "leak:libopenvino.so\n"; }
extern "C" const char* __asan_default_options() { return "fast_unwind_on_malloc=0"; }

int main() {
  // oneTBB opens a library with RTLD_DEEPBIND, which AddressSanitizer ends the process for.
  setenv("TBB_ENABLE_SANITIZERS", "1", 1);
  an_engine_gives_the_scores_of_the_formula();
  a_clip_is_read_from_the_ring_of_the_back_end();
  the_device_names_engine_precision_and_threads();
  a_graph_that_is_not_the_manifests_is_refused();
  a_score_of_another_shape_is_refused();
  a_score_that_is_not_finite_is_refused_and_the_next_is_fine();
  what_an_engine_cannot_honour_it_refuses();
  a_name_that_is_none_and_an_engine_that_is_not_built_in_are_told_apart();
  auto_takes_the_fastest_engine_and_says_why_not_a_better_one();
  auto_refuses_a_gpu_or_a_plan_that_nothing_here_can_use();
  auto_follows_the_bundles_plan_or_says_why_not();
  the_artefact_of_the_precision_is_the_one_that_runs();
  a_graph_of_features_is_refused();
  the_fake_back_end_measures_motion();
  std::printf("backends: all expectations hold (%zu engines)\n", engines().size());
}
