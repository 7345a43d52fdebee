// Scores a film with a bundle: consumer BUNDLE FILM. Prints the number of frames that were scored.

#include <cstdio>
#include <optional>
#include <string>
#include <utility>

#include "vad/backend.hpp"
#include "vad/bundle.hpp"
#include "vad/detector.hpp"
#include "vad/error.hpp"
#include "vad/source.hpp"
#include "vad/window.hpp"

int main(int count, char** values) {
  if (count != 3) return 2;
  try {
    const vad::Bundle bundle = vad::Bundle::open(values[1]);
    const vad::Choice choice = vad::open_backend(bundle, "auto", {});
    const auto source = vad::open_source(values[2], bundle.manifest().clip, {});
    vad::Detector detector(bundle.manifest(), *choice.backend);
    vad::HoleRule holes(source->info().fps);
    const auto take = [](const vad::ScoredFrame&) {};
    vad::Frame frame;
    while (source->next(frame)) {
      const std::optional<std::string> hole = holes.cause(frame);
      detector.feed(std::move(frame), hole, take);
    }
    detector.end(std::nullopt, take);
    std::printf("%lld\n", static_cast<long long>(detector.counters().scored));
    return 0;
  } catch (const vad::Error& error) {
    std::fprintf(stderr, "Error: %s\n", error.what());
    return 1;
  }
}
