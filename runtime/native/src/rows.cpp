#include "vad/rows.hpp"

#include <cerrno>
#include <cstring>

#include <unistd.h>

#include "number.hpp"
#include "vad/error.hpp"

namespace vad {
namespace {

// As Python's csv module: quoted only where it must be.
std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + '"';
}

// Nine digits: a float comes back as it was.
std::string csv_number(const std::optional<double>& value) {
  return value ? significant_text(*value, 9) : "";
}

Json json_number(const std::optional<double>& value) { return value ? Json(*value) : Json(); }

[[noreturn]] void refuse(const std::string& path, int error) {
  throw Error(path + " cannot be written (" + std::strerror(error) +
              "). Check the folder and its free space.");
}

std::FILE* opened(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "wxe");
  if (file == nullptr && errno == EEXIST) {
    throw Error(path + " exists already. Remove it or choose another folder.");
  }
  if (file == nullptr) refuse(path, errno);
  std::setvbuf(file, nullptr, _IONBF, 0);  // what failed is not to be written once more later
  return file;
}

// One write of the operating system for a row, so that it is never seen by halves; what a full disk
// took of one is taken back.
void append(std::FILE* file, const std::string& path, std::string row) {
  row += '\n';
  const off_t whole = lseek(fileno(file), 0, SEEK_CUR);
  if (std::fwrite(row.data(), 1, row.size(), file) == row.size()) return;
  const int error = errno;
  const bool taken_back = whole >= 0 && ftruncate(fileno(file), whole) == 0;
  refuse(taken_back ? path : path + ", whose last row is cut,", error);
}

}  // namespace

std::string csv_header() { return "frame,time_s,raw,score,alarm,status"; }

std::string csv_row(const ScoredFrame& frame) {
  return std::to_string(frame.index) + ',' + fixed_text(frame.pts_s, 6) + ',' +
         csv_number(frame.raw) + ',' + csv_number(frame.score) + ',' +
         (frame.alarm ? "1," : "0,") + csv_field(frame.status);
}

std::string json_row(const ScoredFrame& frame) {
  return Json(Json::Object{{"frame", frame.index},
                           {"time_s", frame.pts_s},
                           {"raw", json_number(frame.raw)},
                           {"score", json_number(frame.score)},
                           {"alarm", frame.alarm},
                           {"status", frame.status}})
      .dump();
}

RowWriter::RowWriter(const std::string& folder)
    : csv_path_(folder + "/scores.csv"), json_path_(folder + "/scores.jsonl") {
  csv_.reset(opened(csv_path_));
  try {
    json_.reset(opened(json_path_));
    append(csv_.get(), csv_path_, csv_header());
  } catch (const Error&) {
    // Nothing was promised yet: leave the folder as it was. What stood there is not ours.
    std::remove(csv_path_.c_str());
    if (json_) std::remove(json_path_.c_str());
    throw;
  }
}

RowWriter::~RowWriter() = default;

void RowWriter::write(const ScoredFrame& frame) {
  append(csv_.get(), csv_path_, csv_row(frame));
  append(json_.get(), json_path_, json_row(frame));
}

void RowWriter::close() {
  std::string failed;
  int error = 0;
  for (const auto& [file, path] : {std::pair(&csv_, &csv_path_), std::pair(&json_, &json_path_)}) {
    // Both are closed, whatever happens to the first.
    if (*file && std::fclose(file->release()) != 0 && failed.empty()) {
      error = errno;
      failed = *path;
    }
  }
  if (!failed.empty()) refuse(failed, error);
}

}  // namespace vad
