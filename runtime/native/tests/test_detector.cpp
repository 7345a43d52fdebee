// Detector: every frame comes out once, in order, with a score or the reason why it has none.

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "expect.hpp"
#include "synthetic.hpp"
#include "vad/detector.hpp"

namespace {

struct Run {
  explicit Run(const vad::Manifest& about, std::optional<int> hop = std::nullopt)
      : manifest(about), backend(about), detector(about, backend, hop) {}

  void feed(std::int64_t index, const char* hole = nullptr, bool damaged = false) {
    vad::Frame frame = synthetic_frame(index, static_cast<double>(index) / 10);
    frame.damaged = damaged;
    std::optional<std::string> cause;
    if (hole != nullptr) frame.hole = cause = hole;
    detector.feed(std::move(frame), cause, take());
  }
  void end() { detector.end(std::nullopt, take()); }
  vad::Detector::Take take() {
    return [this](const vad::ScoredFrame& frame) { frames.push_back(frame); };
  }

  // The frames that came out, as `0 scored, 1 context`.
  std::string story() const {
    std::string text;
    for (const auto& frame : frames) {
      text += (text.empty() ? "" : ", ") + std::to_string(frame.index) + ' ' + frame.status;
    }
    return text;
  }

  vad::Manifest manifest;
  SyntheticBackend backend;
  vad::Detector detector;
  std::vector<vad::ScoredFrame> frames;
};

const char* four_frames = R"("frames": 4, "height": 2, "width": 3, "colour": "gray", "hop": 2)";
const char* whole_clip = R"("per": "clip", "form": "x")";

// The score that SyntheticBackend gives a frame of 2 x 3 bytes.
double score_of(std::int64_t frame) {
  int sum = 0;
  for (std::size_t i = 0; i < 6; ++i) sum += synthetic_byte(frame, i);
  return static_cast<double>(static_cast<float>(sum) / 7.0F);
}

void a_frame_has_the_score_of_the_first_clip_that_scores_it() {
  Run run(synthetic_manifest());
  for (std::int64_t i = 0; i < 6; ++i) run.feed(i);
  run.end();
  EXPECT(run.story() == "0 scored, 1 scored, 2 scored, 3 scored, 4 scored, 5 scored");
  for (const auto& frame : run.frames) EXPECT(*frame.raw == score_of(frame.index));
  EXPECT(run.detector.counters().clips == 3 && run.detector.counters().scored == 6);
}

void frames_that_the_model_only_looks_at_are_context() {
  Run run(synthetic_manifest(four_frames, R"("per": "frame", "form": "x", "first": 3)"));
  for (std::int64_t i = 0; i < 6; ++i) run.feed(i);
  run.end();
  EXPECT(run.story() == "0 context, 1 context, 2 context, 3 scored, 4 context, 5 scored");
}

void frames_that_the_stride_skips_lie_between() {
  Run run(synthetic_manifest(
      R"("frames": 2, "stride": 2, "hop": 2, "height": 2, "width": 3, "colour": "gray")",
      whole_clip));
  for (std::int64_t i = 0; i < 4; ++i) run.feed(i);
  run.end();
  EXPECT(run.story() == "0 scored, 1 between, 2 scored, 3 between");
}

void too_few_frames_are_warm_up() {
  Run run(synthetic_manifest());
  for (std::int64_t i = 0; i < 3; ++i) run.feed(i);
  EXPECT(run.frames.empty());
  run.end();
  EXPECT(run.story() == "0 warm-up, 1 warm-up, 2 warm-up");
  EXPECT(run.detector.counters().unscored.at("warm-up") == 3);
}

void no_clip_spans_a_hole_and_a_damaged_frame_is_not_scored() {
  Run run(synthetic_manifest(four_frames, whole_clip));
  for (std::int64_t i = 0; i < 5; ++i) run.feed(i);
  run.feed(9, "frames lost");
  run.feed(10, "damaged frame", true);
  run.feed(11, "frozen picture", true);
  for (std::int64_t i = 12; i < 16; ++i) run.feed(i);
  run.end();
  EXPECT(run.story() ==
         "0 scored, 1 scored, 2 scored, 3 scored, 4 scored, 9 warm-up, 10 damaged, 11 frozen, "
         "12 scored, 13 scored, 14 scored, 15 scored");
  EXPECT(run.detector.counters().flushes.at("frames lost") == 1);
  EXPECT(run.detector.counters().flushes.at("damaged frame") == 1);
  EXPECT(run.detector.counters().flushes.count("frozen picture") == 0);  // it was empty already
}

void an_alarm_ends_at_a_hole_and_at_the_end() {
  Run run(synthetic_manifest(four_frames, whole_clip, R"("threshold": 0.0)"));
  for (std::int64_t i = 0; i < 4; ++i) run.feed(i);
  EXPECT(run.frames.back().alarm && run.detector.events().empty());
  for (std::int64_t i = 4; i < 8; ++i) run.feed(i, i == 4 ? "frames lost" : nullptr);
  run.end();
  const auto& events = run.detector.events();
  EXPECT(events.size() == 2);
  EXPECT(events[0].start_frame == 0 && events[0].end_frame == 3);
  EXPECT(events[1].start_frame == 4 && events[1].end_frame == 7);
}

void an_alarm_is_not_lost_where_the_source_fails() {
  Run run(synthetic_manifest(four_frames, whole_clip, R"("threshold": 0.0)"));
  for (std::int64_t i = 0; i < 5; ++i) run.feed(i);
  const std::size_t settled = run.frames.size();
  run.detector.end_alarm();
  EXPECT(run.detector.events().size() == 1 && run.frames.size() == settled);
}

void another_hop_may_be_asked_for() {
  Run run(synthetic_manifest(four_frames, whole_clip), 1);
  for (std::int64_t i = 0; i < 8; ++i) run.feed(i);
  run.end();
  EXPECT(run.detector.counters().clips == 5);
  EXPECT(holds(error_of([] { Run refused(synthetic_manifest(), 0); }), "hop must be"));
}

void a_back_end_that_gives_another_number_of_scores_is_an_error() {
  const vad::Manifest manifest = synthetic_manifest(four_frames, whole_clip);
  SyntheticBackend backend(synthetic_manifest());  // gives four scores, not one
  vad::Detector detector(manifest, backend);
  const auto feed = [&] {
    for (std::int64_t i = 0; i < 4; ++i) {
      detector.feed(synthetic_frame(i, 0.1 * static_cast<double>(i)), std::nullopt,
                    [](const vad::ScoredFrame&) {});
    }
  };
  EXPECT(holds(error_of(feed), "gave 4 scores for a clip, not 1"));
}

}  // namespace

int main() {
  a_frame_has_the_score_of_the_first_clip_that_scores_it();
  frames_that_the_model_only_looks_at_are_context();
  frames_that_the_stride_skips_lie_between();
  too_few_frames_are_warm_up();
  no_clip_spans_a_hole_and_a_damaged_frame_is_not_scored();
  an_alarm_ends_at_a_hole_and_at_the_end();
  an_alarm_is_not_lost_where_the_source_fails();
  another_hop_may_be_asked_for();
  a_back_end_that_gives_another_number_of_scores_is_an_error();
  std::puts("detector: all expectations hold");
}
