// A back end without an engine, for tests and for trying a pipeline: it measures motion.

#include <cstddef>

#include "checks.hpp"
#include "factories.hpp"

namespace vad {
namespace {

// As numpy adds up float32 (eight partial sums in blocks of up to 128 values, then in halves), so
// that the score is Python's to the last bit.
float pairwise_sum(const float* values, std::size_t count) {
  if (count < 8) {
    float sum = 0.0F;
    for (std::size_t i = 0; i < count; ++i) sum += values[i];
    return sum;
  }
  if (count <= 128) {
    float part[8];
    for (std::size_t k = 0; k < 8; ++k) part[k] = values[k];
    std::size_t i = 8;
    for (; i + 8 <= count; i += 8) {
      for (std::size_t k = 0; k < 8; ++k) part[k] += values[i + k];
    }
    float sum = ((part[0] + part[1]) + (part[2] + part[3])) +
                ((part[4] + part[5]) + (part[6] + part[7]));
    for (; i < count; ++i) sum += values[i];
    return sum;
  }
  const std::size_t half = count / 2 / 8 * 8;
  return pairwise_sum(values, half) + pairwise_sum(values + half, count - half);
}

float mean_difference(const std::uint8_t* before, const std::uint8_t* after, std::size_t bytes) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < bytes; ++i) {
    sum += after[i] > before[i] ? after[i] - before[i] : before[i] - after[i];
  }
  return static_cast<float>(static_cast<double>(sum) / static_cast<double>(bytes));
}

// Scores a frame by its mean absolute difference to the frame before it in the clip; the first one
// as the second. No artefact is read, so every precision gives the same. `auto` never takes it.
class FakeBackend final : public Backend {
 public:
  explicit FakeBackend(const Manifest& manifest) : clip_(manifest.clip), score_(manifest.score) {}

  const std::string& device() const override { return device_; }

  std::unique_ptr<Ring> ring() override { return host_ring(clip_.frames, clip_.frame_bytes()); }

  std::vector<float> infer(const std::uint8_t* clip) override {
    const auto frames = static_cast<std::size_t>(clip_.frames);
    const std::size_t bytes = clip_.frame_bytes();
    std::vector<float> motion(frames, 0.0F);
    for (std::size_t i = 1; i < frames; ++i) {
      motion[i] = mean_difference(clip + (i - 1) * bytes, clip + i * bytes, bytes);
    }
    if (frames > 1) motion[0] = motion[1];
    if (score_.per == ScoreSpec::Per::clip) {
      return {pairwise_sum(motion.data(), frames) / static_cast<float>(frames)};
    }
    const auto first = motion.begin() + score_.first;
    return {first, first + score_.count};
  }

 private:
  ClipSpec clip_;
  ScoreSpec score_;
  std::string device_ = "fake (mean absolute frame difference; no model) on cpu";
};

}  // namespace

std::unique_ptr<Backend> fake_backend(const std::string& file, const Bundle& bundle,
                                      const BackendOptions& options) {
  static_cast<void>(file);
  static_cast<void>(options);
  return std::make_unique<FakeBackend>(bundle.manifest());
}

}  // namespace vad
