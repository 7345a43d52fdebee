// The folder NAME.vad/ with manifest.json and the artefacts that it names.

#pragma once

#include <string>

#include "vad/manifest.hpp"

namespace vad {

class Bundle {
 public:
  // Reads the manifest strictly and compares each artefact with its size and sha256 (`verify`).
  // Throws Error: not a bundle, an unknown key, a newer schema, a file that is missing, changed, or
  // outside the folder.
  static Bundle open(const std::string& path, bool verify = true);

  const std::string& path() const noexcept { return path_; }
  const Manifest& manifest() const noexcept { return manifest_; }
  std::string name() const;  // the folder's name
  // Path of an artefact. Throws Error for a name that leaves the folder.
  std::string file(const Artefact& artefact) const;

 private:
  Bundle(std::string path, Manifest manifest)
      : path_(std::move(path)), manifest_(std::move(manifest)) {}

  std::string path_;
  Manifest manifest_;
};

// 64 hexadecimal digits (FIPS 180-4). Throws Error if the file cannot be read.
std::string sha256_of_file(const std::string& path);

}  // namespace vad
