// TensorRT's libraries, opened by name, and what they say when something fails.
//
// Only createInferRuntime_INTERNAL is looked up by name: all else goes through the tables of
// virtual functions in the headers, to which later versions of the same major number only add. So a
// build links no TensorRT, and one binary runs with the whole library or with the lean runtime.

#pragma once

#include <memory>
#include <string>
#include <vector>

#include <NvInferRuntime.h>

#include "tensorrt_fit.hpp"
#include "vad/error.hpp"

namespace vad::tensorrt {

class Library {
 public:
  // The libraries of the headers' major version that load here. Makes nothing of theirs, so it
  // needs no driver. `missing` = why the others do not, with the next step.
  static const std::vector<Library>& installed(std::string* missing = nullptr);

  Flavour flavour() const noexcept { return flavour_; }
  const std::string& version() const noexcept { return version_; }  // "10.3.0.26"
  std::string name() const { return std::string(title(flavour_)) + " " + version_; }

  // Ask the driver first: see vad::cuda::gpus(). Must outlive its engines. Throws Error.
  std::unique_ptr<nvinfer1::IRuntime> runtime(bool host_code) const;

  // One line with TensorRT's own words since forget(), their meaning, and what to do.
  Error failure(const std::string& what) const;
  // Forgets what TensorRT has said, so that a failure tells of what comes now.
  static void forget();

 private:
  using Factory = void* (*)(void* logger, std::int32_t version);

  Library(Flavour flavour, std::string version, Factory create)
      : flavour_(flavour), version_(std::move(version)), create_(create) {}
  static std::vector<Library> found(std::string& missing);

  Flavour flavour_;
  std::string version_;
  Factory create_;
};

}  // namespace vad::tensorrt
