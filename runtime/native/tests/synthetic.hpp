// Frames without a video and scores without a model, so that the core can be tested alone.

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "vad/backend.hpp"
#include "vad/manifest.hpp"
#include "vad/source.hpp"

// Byte i of the picture of frame n: tests/runtime/test_cpp_core.py makes the same.
inline std::uint8_t synthetic_byte(std::int64_t frame, std::size_t i) {
  return static_cast<std::uint8_t>(static_cast<std::uint64_t>(frame) * 31 + i * 7);
}

class SyntheticPicture final : public vad::Picture {
 public:
  explicit SyntheticPicture(std::int64_t frame) : frame_(frame) {}
  void write(const vad::ClipSpec& spec, std::uint8_t* out) override {
    for (std::size_t i = 0; i < spec.frame_bytes(); ++i) out[i] = synthetic_byte(frame_, i);
  }

 private:
  std::int64_t frame_;
};

inline vad::Frame synthetic_frame(std::int64_t index, double pts_s) {
  vad::Frame frame;
  frame.index = index;
  frame.pts_s = pts_s;
  frame.picture = std::make_unique<SyntheticPicture>(index);
  return frame;
}

// A frame's score is the sum of its bytes by 7, a clip's is the sum of its frames'.
class SyntheticBackend final : public vad::Backend {
 public:
  explicit SyntheticBackend(const vad::Manifest& manifest) : manifest_(manifest) {}

  const std::string& device() const override { return device_; }
  std::unique_ptr<vad::Ring> ring() override {
    return vad::host_ring(manifest_.clip.frames, manifest_.clip.frame_bytes());
  }
  std::vector<float> infer(const std::uint8_t* clip) override {
    std::vector<float> scores;
    std::uint64_t whole = 0;
    const std::size_t bytes = manifest_.clip.frame_bytes();
    for (std::size_t frame = 0; frame < static_cast<std::size_t>(manifest_.clip.frames); ++frame) {
      std::uint64_t sum = 0;
      for (std::size_t i = 0; i < bytes; ++i) sum += clip[frame * bytes + i];
      scores.push_back(static_cast<float>(sum) / 7.0F);
      whole += sum;
    }
    ++clips;
    if (manifest_.score.per == vad::ScoreSpec::Per::clip) return {static_cast<float>(whole) / 7.0F};
    const auto first = scores.begin() + manifest_.score.first;
    return {first, first + manifest_.score.count};
  }

  int clips = 0;

 private:
  vad::Manifest manifest_;
  std::string device_ = "synthetic";
};

// A small valid manifest, whose parts have these members.
inline std::string manifest_text(const std::string& clip, const std::string& score,
                                 const std::string& scoring) {
  return R"({"schema": 1, "family": "test", "name": "synthetic", "clip": {)" + clip +
         R"(}, "score": {)" + score + R"(}, "scoring": {)" + scoring +
         R"(}, "artefacts": {"fp32": {"file": "model.onnx", "sha256": "", "bytes": 0,)"
         R"( "format": "onnx", "precision": "fp32"}}})";
}

inline vad::Manifest synthetic_manifest(
    const std::string& clip = R"("frames": 4, "height": 2, "width": 3, "colour": "gray")",
    const std::string& score = R"("per": "frame", "form": "sum", "count": 4)",
    const std::string& scoring = "") {
  return vad::Manifest::parse(manifest_text(clip, score, scoring), "manifest.json");
}
