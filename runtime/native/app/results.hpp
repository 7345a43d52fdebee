// The folder that a run leaves its results in. As vad_runtime.runs.

#pragma once

#include <string>
#include <vector>

#include "vad/json.hpp"

namespace vad::app {

// Throws Error: results stand there and may not be replaced, or cannot be.
void refuse_old_results(const std::string& folder, bool overwrite);

// Makes the folder and removes what an earlier run has left; when it goes, so do the folders that
// it made and that hold nothing. Throws Error: it cannot be written.
class ResultFolder {
 public:
  explicit ResultFolder(std::string folder);
  ~ResultFolder();
  ResultFolder(const ResultFolder&) = delete;
  ResultFolder& operator=(const ResultFolder&) = delete;

  void remove_rows();  // none of them holds a score
  // Writes report.json: the whole of it or nothing. Throws Error.
  void write_report(const Json& report);

 private:
  void make();

  std::string folder_;
  std::vector<std::string> made_;
};

}  // namespace vad::app
