// Scorer and Events. tests/runtime/test_cpp_core.py compares both with Python on random sequences.

#include <cmath>
#include <utility>

#include "expect.hpp"
#include "vad/events.hpp"
#include "vad/scoring.hpp"

namespace {

using Smoothing = vad::Scoring::Smoothing;

vad::Scoring smoothed(Smoothing smoothing, int window) {
  vad::Scoring scoring;
  scoring.smoothing = smoothing;
  scoring.window = window;
  return scoring;
}

void a_score_is_shifted_and_scaled() {
  vad::Scoring scoring;
  scoring.offset = 2.0;
  scoring.scale = 4.0;
  EXPECT(vad::Scorer(scoring).update(12.0) == 2.5);
}

void a_filter_sees_the_past_only_and_as_much_as_its_window() {
  vad::Scorer mean(smoothed(Smoothing::mean, 3));
  vad::Scorer median(smoothed(Smoothing::median, 3));
  const double raw[] = {1, 5, 3, 100, 2};
  const double means[] = {1, 3, 3, 36, 35};
  const double medians[] = {1, 3, 3, 5, 3};
  for (int i = 0; i < 5; ++i) {
    EXPECT(mean.update(raw[i]) == means[i]);
    EXPECT(median.update(raw[i]) == medians[i]);
  }
  mean.reset();
  EXPECT(mean.update(7) == 7);
}

// What numpy.mean gives for so many times 0.1; one after the other, 3000 of them would give
// 0.09999999999999991.
void a_long_mean_adds_up_in_numpys_order() {
  const std::pair<int, double> means[] = {{100, 0.09999999999999998},
                                          {128, 0.10000000000000002},
                                          {130, 0.09999999999999999},
                                          {3000, 0.09999999999999998}};
  for (const auto& [count, expected] : means) {
    vad::Scorer scorer(smoothed(Smoothing::mean, count));
    double last = 0.0;
    for (int i = 0; i < count; ++i) last = scorer.update(0.1);
    EXPECT(last == expected);
  }
}

void no_mean_is_a_negative_zero() {
  EXPECT(!std::signbit(vad::Scorer(smoothed(Smoothing::mean, 3)).update(-0.0)));
  EXPECT(!std::signbit(vad::Scorer(smoothed(Smoothing::median, 3)).update(-0.0)));
  EXPECT(std::signbit(vad::Scorer(smoothed(Smoothing::none, 3)).update(-0.0)));
}

vad::Scoring alarm(double threshold, double release, double min_duration_s) {
  vad::Scoring scoring;
  scoring.threshold = threshold;
  scoring.release = release;
  scoring.min_duration_s = min_duration_s;
  return scoring;
}

void an_alarm_ends_below_the_release_level_only() {
  vad::Events events(alarm(1.0, 0.5, 0.0));
  EXPECT(!events.update(0, 0.0, 0.9) && !events.active());
  EXPECT(!events.update(1, 0.1, 1.0) && events.active());
  EXPECT(!events.update(2, 0.2, 3.0) && events.active());
  EXPECT(!events.update(3, 0.3, 0.5) && events.active());
  const auto event = events.update(4, 0.4, 0.4);
  EXPECT(event && !events.active());
  EXPECT(event->json().dump() ==
         R"({"start_frame":1,"end_frame":3,"start_s":0.1,"end_s":0.3,"peak_s":0.2,)"
         R"("peak_score":3.0})");
}

void a_short_rise_is_no_alarm() {
  vad::Events events(alarm(1.0, 1.0, 0.2));
  events.update(0, 0.1, 2.0);
  EXPECT(!events.active());
  EXPECT(!events.update(1, 0.2, 0.0));
  events.update(2, 0.3, 2.0);
  events.update(3, 0.5, 2.0);  // 0.5 - 0.3 is a little more or less than 0.2
  EXPECT(events.active());
  EXPECT(events.end()->start_frame == 2);
  EXPECT(!events.end());
}

void a_negative_threshold_has_no_release_level_above_it() {
  vad::Events events(alarm(-1.0, 0.5, 0.0));
  events.update(0, 0.0, -1.0);
  EXPECT(!events.update(1, 0.1, -1.0) && events.active());
  EXPECT(events.update(2, 0.2, -1.1).has_value());
}

void without_a_threshold_nothing_is_an_alarm() {
  vad::Events events{vad::Scoring{}};
  EXPECT(!events.update(0, 0.0, 1e300) && !events.active());
}

}  // namespace

int main() {
  a_score_is_shifted_and_scaled();
  a_filter_sees_the_past_only_and_as_much_as_its_window();
  a_long_mean_adds_up_in_numpys_order();
  no_mean_is_a_negative_zero();
  an_alarm_ends_below_the_release_level_only();
  a_short_rise_is_no_alarm();
  a_negative_threshold_has_no_release_level_above_it();
  without_a_threshold_nothing_is_an_alarm();
  std::puts("scoring: all expectations hold");
}
