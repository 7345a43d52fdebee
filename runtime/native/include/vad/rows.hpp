// scores.csv and scores.jsonl, byte for byte as Python's vad-run writes them.

#pragma once

#include <cstdio>
#include <memory>
#include <string>

#include "vad/detector.hpp"

namespace vad {

std::string csv_header();
std::string csv_row(const ScoredFrame& frame);   // without the end of line
std::string json_row(const ScoredFrame& frame);  // without the end of line

// Writes both files and hands each row to the operating system at once, so that a crash loses none.
class RowWriter {
 public:
  // Throws Error: the folder has scores already, or cannot be written.
  explicit RowWriter(const std::string& folder);
  ~RowWriter();
  RowWriter(const RowWriter&) = delete;
  RowWriter& operator=(const RowWriter&) = delete;

  void write(const ScoredFrame& frame);  // throws Error, for example when the disk is full
  void close();                          // throws Error; a second call does nothing

 private:
  struct Close {
    void operator()(std::FILE* file) const noexcept { std::fclose(file); }
  };
  using File = std::unique_ptr<std::FILE, Close>;

  std::string csv_path_;
  std::string json_path_;
  File csv_;
  File json_;
};

}  // namespace vad
