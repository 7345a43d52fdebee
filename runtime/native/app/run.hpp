// One source through one bundle, with what it leaves behind in a folder.

#pragma once

#include <functional>
#include <stdexcept>
#include <string>

#include "options.hpp"

namespace vad::app {

// Whoever read what we print has left.
class BrokenPipe : public std::runtime_error {
 public:
  BrokenPipe() : std::runtime_error("nobody reads the output") {}
};

// Prints a line at once. Throws BrokenPipe, or Error for another failure.
void say(const std::string& line);

// Takes what ends the run early, as the end of the source would; an empty one at its end. It is
// called from any thread, any number of times.
using OnInterrupt = std::function<void(std::function<void()>)>;

// Runs `options` to the end of the source. Returns false if it was interrupted. Throws Error.
bool run(const Options& options, const OnInterrupt& on_interrupt);

}  // namespace vad::app
