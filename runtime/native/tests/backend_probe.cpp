// backend_probe BUNDLE BACKEND PRECISION THREADS CLIPS: scores the clips of a file (raw bytes, one
// after the other) and prints the choice's line, then the scores of each clip on a line of its own,
// as hexadecimal floats that lose nothing. For tests that compare with Python.

#include <cstdio>
#include <exception>
#include <fstream>
#include <string>
#include <vector>

#include "vad/backend.hpp"
#include "vad/bundle.hpp"
#include "vad/error.hpp"

namespace {

int run(const std::vector<std::string>& words) {
  const vad::Bundle bundle = vad::Bundle::open(words[0]);
  vad::BackendOptions options;
  if (words[2] != "auto") {
    options.precision = vad::precision_from_name(words[2]);
    if (!options.precision) throw vad::Error("no precision is called " + words[2] + ".");
  }
  options.threads = std::stoi(words[3]);
  const vad::Choice choice = vad::open_backend(bundle, words[1], options);
  std::printf("%s\n", choice.line().c_str());
  std::ifstream clips(words[4], std::ios::binary);
  std::vector<char> clip(bundle.manifest().clip.clip_bytes());
  while (clips.read(clip.data(), static_cast<std::streamsize>(clip.size()))) {
    const auto* pixels = reinterpret_cast<const std::uint8_t*>(clip.data());
    for (const float score : choice.backend->infer(pixels)) {
      std::printf("%a ", static_cast<double>(score));
    }
    std::printf("\n");
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.size() != 5) {
    std::fputs("backend_probe BUNDLE BACKEND PRECISION THREADS CLIPS\n", stderr);
    return 2;
  }
  try {
    return run(words);
  } catch (const vad::Error& error) {
    std::printf("Error: %s\n", error.what());
    return 1;
  }
}
