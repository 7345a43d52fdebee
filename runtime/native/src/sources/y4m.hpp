// YUV4MPEG2 (.y4m): uncompressed video that needs no library.

#pragma once

#include <memory>
#include <string>

#include "vad/source.hpp"

namespace vad::sources {

// `-` is standard input. Throws Error: not readable, or a variant that is not taken (more than 8
// bits, alpha).
std::unique_ptr<Source> open_y4m(const std::string& name);

}  // namespace vad::sources
