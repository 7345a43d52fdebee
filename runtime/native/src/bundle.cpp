#include "vad/bundle.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>

#include <sys/stat.h>

#include "vad/error.hpp"

namespace vad {
namespace {

namespace fs = std::filesystem;

constexpr const char* manifest_name = "manifest.json";

std::string joined(const std::string& folder, const std::string& name) {
  return folder.empty() || folder.back() == '/' ? folder + name : folder + '/' + name;
}

// As Python's pathlib shows a path: without empty and `.` parts.
std::string tidied(const std::string& path) {
  std::string out = path.rfind('/', 0) == 0 ? "/" : "";
  std::size_t start = 0;
  while (start <= path.size()) {
    const std::size_t end = std::min(path.find('/', start), path.size());
    const std::string part = path.substr(start, end - start);
    if (!part.empty() && part != ".") out = joined(out, part);
    start = end + 1;
  }
  return out.empty() ? "." : out;
}

std::string content_of_manifest(const std::string& folder) {
  const std::string path = joined(folder, manifest_name);
  const auto refuse = [&](int error) {
    if (error == ENOENT) {
      throw Error(folder + " holds no " + manifest_name +
                  ", so it is not a bundle. Give the folder that vad-export wrote.");
    }
    throw Error(path + " cannot be read (" + std::strerror(error) + "). Check its permissions.");
  };
  std::FILE* file = std::fopen(path.c_str(), "rbe");
  if (file == nullptr) refuse(errno);
  std::string text;
  char block[1 << 16];
  while (const std::size_t size = std::fread(block, 1, sizeof block, file)) {
    text.append(block, size);
  }
  const int error = std::ferror(file) != 0 ? errno : 0;
  std::fclose(file);
  if (error != 0) refuse(error);
  return text;
}

void require_folder(const std::string& path, const std::string& shown) {
  struct stat status {};
  const bool whole = path.find('\0') == std::string::npos && !path.empty();
  if (whole && stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode)) return;
  const bool there = whole && lstat(path.c_str(), &status) == 0;
  throw Error(shown + (there ? " is a file, not a bundle folder" : " does not exist") +
              ". Make one with: vad-export deploy or onnx");
}

void verify(const std::string& file, const Artefact& artefact) {
  struct stat status {};
  if (stat(file.c_str(), &status) != 0) {
    throw Error(file + " is missing from the bundle. Export it again.");
  }
  if (status.st_size != artefact.bytes) {
    throw Error(file + " has " + std::to_string(status.st_size) + " bytes, the manifest says " +
                std::to_string(artefact.bytes) + ". Export it again.");
  }
  if (sha256_of_file(file) != artefact.sha256) {
    throw Error(file + " was changed or damaged: its sha256 differs from the manifest's. "
                       "Copy or export it again.");
  }
}

}  // namespace

Bundle Bundle::open(const std::string& path, bool verify_files) {
  const std::string folder = tidied(path);
  require_folder(path.empty() ? folder : path, folder);
  const std::string where = joined(folder, manifest_name);
  Bundle bundle(folder, Manifest::parse(content_of_manifest(folder), where));
  for (const auto& entry : bundle.manifest_.artefacts) {
    const std::string file = bundle.file(entry.second);
    if (verify_files) verify(file, entry.second);
  }
  return bundle;
}

std::string Bundle::name() const {
  std::error_code error;
  const fs::path whole = fs::weakly_canonical(fs::path(path_), error);
  return (error ? fs::path(path_) : whole).filename().string();
}

std::string Bundle::file(const Artefact& artefact) const {
  const std::string& name = artefact.file;
  // No folder, on Windows neither; nothing that C's functions would cut off, and nothing longer
  // than file systems take.
  bool plain = !name.empty() && name != "." && name != ".." && name.size() <= 255;
  plain = plain && name.find_first_of(std::string("/\\\0", 3)) == std::string::npos;
  const std::string path = joined(path_, name);
  struct stat status {};
  if (!plain || (lstat(path.c_str(), &status) == 0 && S_ISLNK(status.st_mode))) {
    throw Error(joined(path_, manifest_name) + ": artefact path '" + name +
                "' leaves the bundle folder. Do not use this bundle; export it again.");
  }
  return path;
}

}  // namespace vad
