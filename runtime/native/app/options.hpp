// The command line of vad-run-cpp, with the words of Python's vad-run.

#pragma once

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "vad/backend.hpp"
#include "vad/source.hpp"

namespace vad::app {

// A command line that cannot be. what() is the line for the user.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Options {
  enum class What { run, help, version };

  What what = What::run;
  std::string bundle;
  std::string source;
  std::string out;
  std::string backend = "auto";
  BackendOptions engine;
  SourceOptions input;
  std::optional<int> hop;
  bool overwrite = false;
  bool verify = true;
};

// `arguments` are those behind the program's name. Throws UsageError.
Options parse(const std::vector<std::string>& arguments);

std::string help();
std::string version();  // with what this build can run and read

}  // namespace vad::app
