#include "stage.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace vad::app {
namespace {

constexpr int per_decade = 200;  // neighbouring buckets lie 1.2 % apart
constexpr double lowest_s = 1e-7;
constexpr int decades = 11;  // up to 10,000 s

}  // namespace

Stage::Stage() : counts_(per_decade * decades + 1) {}

void Stage::add(double seconds) {
  const double place = std::log10(std::max(seconds, lowest_s) / lowest_s) * per_decade;
  const auto last = static_cast<double>(counts_.size() - 1);
  ++counts_[static_cast<std::size_t>(std::min(std::ceil(place), last))];
  ++count_;
  sum_s_ += seconds;
  max_s_ = std::max(max_s_, seconds);
}

double Stage::percentile_ms(double q) const {
  const auto rank = std::max<std::int64_t>(
      1, static_cast<std::int64_t>(std::ceil(q / 100.0 * static_cast<double>(count_))));
  std::size_t bucket = 0;
  for (std::int64_t below = counts_[0]; below < rank; below += counts_[bucket]) ++bucket;
  const double edge_s = lowest_s * std::pow(10.0, static_cast<double>(bucket) / per_decade);
  return std::min(edge_s, max_s_) * 1e3;
}

Json Stage::summary() const {
  Json::Object out{{"count", count_}};
  if (count_ > 0) {
    out.emplace_back("mean_ms", rounded(sum_s_ / static_cast<double>(count_) * 1e3));
    out.emplace_back("p50_ms", rounded(percentile_ms(50)));
    out.emplace_back("p95_ms", rounded(percentile_ms(95)));
    out.emplace_back("p99_ms", rounded(percentile_ms(99)));
    out.emplace_back("max_ms", rounded(max_s_ * 1e3));
  }
  return out;
}

double rounded(double value) {
  char text[400];  // a double has at most 309 digits in front of its point
  std::snprintf(text, sizeof text, "%.4f", value);
  return std::strtod(text, nullptr);
}

}  // namespace vad::app
