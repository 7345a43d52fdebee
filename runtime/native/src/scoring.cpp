#include "vad/scoring.hpp"

#include <algorithm>
#include <array>
#include <cstddef>

namespace vad {
namespace {

// Adds up in NumPy's order, so that a mean is the same to the last bit: pairwise (N. J. Higham, The
// accuracy of floating point summation, 1993) down to blocks of 128, eight running sums in each.
double pairwise_sum(const double* values, std::size_t count) {
  if (count < 8) {
    double sum = 0.0;
    for (std::size_t i = 0; i < count; ++i) sum += values[i];
    return sum;
  }
  if (count > 128) {
    const std::size_t half = count / 2 - count / 2 % 8;
    return pairwise_sum(values, half) + pairwise_sum(values + half, count - half);
  }
  std::array<double, 8> r;
  std::copy_n(values, 8, r.begin());
  std::size_t i = 8;
  for (; i < count - count % 8; i += 8) {
    for (std::size_t j = 0; j < 8; ++j) r[j] += values[i + j];
  }
  double sum = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
  for (; i < count; ++i) sum += values[i];
  return sum;
}

// NumPy adds to 0.0 what the array gives, so that no mean is -0.0.
double mean(const double* values, std::size_t count) {
  return (0.0 + pairwise_sum(values, count)) / static_cast<double>(count);
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 != 0) return mean(&*middle, 1);
  const std::array<double, 2> both = {*std::max_element(values.begin(), middle), *middle};
  return mean(both.data(), both.size());
}

}  // namespace

double Scorer::update(double raw) {
  if (recent_.size() == static_cast<std::size_t>(scoring_.window)) recent_.erase(recent_.begin());
  recent_.push_back((raw - scoring_.offset) / scoring_.scale);
  switch (scoring_.smoothing) {
    case Scoring::Smoothing::mean:
      return mean(recent_.data(), recent_.size());
    case Scoring::Smoothing::median:
      return median(recent_);
    case Scoring::Smoothing::none:
      break;
  }
  return recent_.back();
}

}  // namespace vad
