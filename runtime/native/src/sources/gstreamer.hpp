// GStreamer pipelines (1.16 and newer), and USB cameras through them.

#pragma once

#include <memory>

#include "sources/live.hpp"

namespace vad::sources {

// Throws Error: the pipeline cannot be built or does not start.
std::unique_ptr<Connection> open_gstreamer(const Address& address);

}  // namespace vad::sources
