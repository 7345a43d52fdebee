// The one exception that tells a user something: one line that ends with the next step.

#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

namespace vad {

// Bad input, a machine that lacks something, a library that refuses. Everything else is a bug.
// The runner prints `Error: ` and what(), and exits with 1.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& text) : std::runtime_error(one_line(text)) {}

 private:
  // What a message quotes (a path, a key of a file) may hold line ends and a terminal's control
  // characters: each run of them becomes a blank, as in Python. In UTF-8 they are 00 to 1F and 7F,
  // C2 80 to C2 9F, and the line ends E2 80 A8 and E2 80 A9.
  static std::string one_line(const std::string& text) {
    std::string line;
    bool blank = false;
    for (std::size_t i = 0; i < text.size();) {
      const auto byte = [&](std::size_t at) {
        return at < text.size() ? static_cast<unsigned char>(text[at]) : 0U;
      };
      std::size_t control = 0;
      if (byte(i) < 0x20 || byte(i) == 0x7F) {
        control = 1;
      } else if (byte(i) == 0xC2 && byte(i + 1) >= 0x80 && byte(i + 1) <= 0x9F) {
        control = 2;
      } else if (byte(i) == 0xE2 && byte(i + 1) == 0x80 && (byte(i + 2) | 1U) == 0xA9) {
        control = 3;
      }
      if (control == 0) {
        line += text[i];
      } else if (!blank) {
        line += ' ';
      }
      blank = control != 0;
      i += control == 0 ? 1 : control;
    }
    return line;
  }
};

}  // namespace vad
