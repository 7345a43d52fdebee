// What every back end checks and says in the same way. As vad_runtime/backends/checks.py.

#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "vad/error.hpp"
#include "vad/manifest.hpp"

namespace vad {

// Of an engine's message, without what a terminal would act on.
std::string first_line(const std::string& text);
std::string last_line(const std::string& text);
std::string file_name(const std::string& path);
std::string joined(const std::vector<std::string>& parts, const std::string& between);

// How many processors this process may run on (not how many the machine has).
int usable_threads();
// The number that was asked for, else usable_threads().
int threads_of(const std::optional<int>& asked);
// The processor's features as Linux names them (`avx512_vnni`); empty where unknown.
std::set<std::string> cpu_flags();

// A graph as an engine sees it; none = a dimension that may have any size.
struct GraphFacts {
  std::vector<std::string> inputs;
  std::string dtype;  // of the first input, as numpy calls it
  std::vector<std::optional<std::int64_t>> shape;
  std::vector<std::string> outputs;
};

// The engine's inputs are exactly the one that our graphs have; `graph` needs only its inputs.
void check_input_name(const std::string& file, const GraphFacts& graph);
// Refuses a graph that is not the one the manifest describes, before it is run. Throws Error.
void check_graph(const std::string& file, const Manifest& manifest, const GraphFacts& graph);
// Refuses a score of another shape than the manifest's, or one that is not finite. Throws Error.
void check_score_shape(const std::vector<std::int64_t>& shape, const ScoreSpec& spec);
void check_finite(const std::vector<float>& score);
Error wrong_score_type(const std::string& dtype);

}  // namespace vad
