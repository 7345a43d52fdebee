#include "results.hpp"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include <sys/stat.h>
#include <unistd.h>

#include "vad/error.hpp"

namespace vad::app {
namespace {

// Those of `vad-run watch` too: a picture of an older run beside new rows would mislead.
constexpr const char* names[] = {"scores.csv", "scores.jsonl", "scores.png", "overlay.mp4",
                                 "report.json"};

std::string in(const std::string& folder, const std::string& name) {
  return folder.empty() || folder.back() == '/' ? folder + name : folder + "/" + name;
}

[[noreturn]] void throw_unwritable(const std::string& folder, int error) {
  throw Error(folder + " cannot be written (" + std::strerror(error) + "). Choose another output folder.");
}

}  // namespace

void refuse_old_results(const std::string& folder, bool overwrite) {
  for (const char* name : names) {
    const std::string file = in(folder, name);
    struct stat about {};
    if (lstat(file.c_str(), &about) != 0) continue;
    struct stat target {};
    if (stat(file.c_str(), &target) == 0 && S_ISDIR(target.st_mode)) {
      throw Error(file + " is a folder and cannot be replaced. Name another folder.");
    }
    if (!overwrite) {
      throw Error(file + " exists already. Name another folder or add --overwrite.");
    }
  }
}

ResultFolder::ResultFolder(std::string folder) : folder_(std::move(folder)) {
  try {
    make();
    for (const char* name : names) {
      if (unlink(in(folder_, name).c_str()) != 0 && errno != ENOENT) {
        throw_unwritable(folder_, errno);
      }
    }
  } catch (...) {
    for (auto path = made_.rbegin(); path != made_.rend(); ++path) rmdir(path->c_str());
    throw;
  }
}

ResultFolder::~ResultFolder() {
  for (auto path = made_.rbegin(); path != made_.rend(); ++path) {
    rmdir(path->c_str());  // refuses a folder that holds something
  }
}

void ResultFolder::make() {
  for (std::size_t at = 0; at != std::string::npos;) {
    at = folder_.find('/', at + 1);
    const std::string path = folder_.substr(0, at);
    if (path.empty()) continue;
    if (mkdir(path.c_str(), 0777) == 0) {
      made_.push_back(path);
    } else if (errno != EEXIST) {
      throw_unwritable(folder_, errno);
    }
  }
  // Asked now, and not when the first alarm is to be written. A file would pass access().
  const std::string probe = in(folder_, ".vad-write-test-" + std::to_string(getpid()));
  std::FILE* file = std::fopen(probe.c_str(), "w");
  if (file == nullptr) throw_unwritable(folder_, errno);
  std::fclose(file);
  unlink(probe.c_str());
}

void ResultFolder::remove_rows() {
  unlink(in(folder_, "scores.csv").c_str());
  unlink(in(folder_, "scores.jsonl").c_str());
}

void ResultFolder::write_report(const Json& report) {
  const std::string final_name = in(folder_, "report.json");
  const std::string part = final_name + ".part";
  const std::string text = report.dump(2) + "\n";
  std::FILE* file = std::fopen(part.c_str(), "w");
  bool good = file != nullptr;
  int error = errno;
  if (good) {
    good = std::fwrite(text.data(), 1, text.size(), file) == text.size();
    if (!good) error = errno;
    if (std::fclose(file) != 0 && good) {
      good = false;
      error = errno;
    }
  }
  if (good && std::rename(part.c_str(), final_name.c_str()) != 0) {
    good = false;
    error = errno;
  }
  if (!good) {
    unlink(part.c_str());
    throw Error(final_name + " cannot be written (" + std::strerror(error) +
                "). Check the folder and its free space.");
  }
}

}  // namespace vad::app
