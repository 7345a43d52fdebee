// Raw scores to scores an operator can use, with nothing but the past. As
// vad_runtime.scoring.CausalScorer.

#pragma once

#include <vector>

#include "vad/manifest.hpp"

namespace vad {

class Scorer {
 public:
  explicit Scorer(const Scoring& scoring) : scoring_(scoring) {}

  double update(double raw);  // normalised and smoothed
  void reset() { recent_.clear(); }

 private:
  Scoring scoring_;
  std::vector<double> recent_;  // oldest first, as one block
};

}  // namespace vad
