// Folders of still images.

#pragma once

#include <memory>
#include <string>

#include "vad/manifest.hpp"
#include "vad/source.hpp"

namespace vad::sources {

// Throws Error: no images in it, or this build cannot read any.
std::unique_ptr<Source> open_folder(const std::string& path, const ClipSpec& spec,
                                    const SourceOptions& options);
// Whether `one` comes before `other`: `2.jpg` before `10.jpg`.
bool natural_less(const std::string& one, const std::string& other);

}  // namespace vad::sources
