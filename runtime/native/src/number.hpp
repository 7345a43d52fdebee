// Numbers as text and back, whatever locale the program around this library has set.

#pragma once

#include <string>

namespace vad {

// The fewest digits that come back as the same double, as msgspec writes them: 1.0, 0.00001, 1e-7,
// 1.5e300. `value` is finite.
std::string shortest_text(double value);
// As printf's %.*f and %.*g; "inf", "-inf" and "nan" as Python writes them.
std::string fixed_text(double value, int decimals);
std::string significant_text(double value, int digits);
// The nearest double (infinite if there is none) of a text that is a JSON number.
double double_from_text(const std::string& text);

}  // namespace vad
