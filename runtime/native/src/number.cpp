#include "number.hpp"

#include <clocale>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <new>

#include <locale.h>

namespace vad {
namespace {

// printf and strtod write and read the decimal separator of the locale, which belongs to the
// program: for this thread it is put aside. (std::to_chars would not mind, but GCC 9 has none for
// doubles.)
class PlainNumbers {
 public:
  PlainNumbers() : before_(uselocale(plain())) {}
  ~PlainNumbers() { uselocale(before_); }
  PlainNumbers(const PlainNumbers&) = delete;
  PlainNumbers& operator=(const PlainNumbers&) = delete;

 private:
  static locale_t plain() {
    static const locale_t locale = [] {
      const locale_t made = newlocale(LC_ALL_MASK, "C", nullptr);
      if (made == nullptr) throw std::bad_alloc();
      return made;
    }();
    return locale;
  }

  locale_t before_;
};

// 0.d1d2d3... times ten to the power of `point`; no zeros at the end.
struct Decimal {
  std::string digits;
  int point = 0;
};

Decimal rounded(double value, int digits) {
  char text[40];
  std::snprintf(text, sizeof text, "%.*e", digits - 1, value);
  Decimal decimal;
  const char* at = text;
  for (; *at != 'e'; ++at) {
    if (*at != '.') decimal.digits += *at;
  }
  decimal.point = std::atoi(at + 1) + 1;
  return decimal;
}

double value_of(const Decimal& decimal) {
  const std::string text = "0." + decimal.digits + 'e' + std::to_string(decimal.point);
  return std::strtod(text.c_str(), nullptr);
}

void add_one_in_the_last_place(Decimal& decimal) {
  for (std::size_t i = decimal.digits.size(); i-- > 0;) {
    if (decimal.digits[i] != '9') {
      ++decimal.digits[i];
      return;
    }
    decimal.digits[i] = '0';
  }
  decimal.digits.insert(decimal.digits.begin(), '1');
  ++decimal.point;
}

// `value` is positive and finite.
Decimal shortest(double value) {
  // Up to 15 digits survive a double of full precision, so there is nothing shorter to look for
  // below; a subnormal has fewer.
  int digits = value < 2.2250738585072014e-308 ? 1 : 15;
  for (; digits < 17; ++digits) {
    Decimal decimal = rounded(value, digits);
    if (value_of(decimal) == value) return decimal;
    // The doubles below a power of two lie twice as close as those above, so that the nearest
    // decimal may come back as another double while the next one above does not.
    int exponent = 0;
    if (std::frexp(value, &exponent) == 0.5) {
      add_one_in_the_last_place(decimal);
      if (value_of(decimal) == value) return decimal;
    }
  }
  return rounded(value, digits);
}

std::string printed(const char* format, int digits, double value) {
  if (std::isnan(value)) return "nan";
  const PlainNumbers guard;
  const int length = std::snprintf(nullptr, 0, format, digits, value);
  std::string text(static_cast<std::size_t>(length) + 1, '\0');
  std::snprintf(text.data(), text.size(), format, digits, value);
  text.pop_back();
  return text;
}

}  // namespace

std::string shortest_text(double value) {
  const std::string sign = std::signbit(value) ? "-" : "";
  if (value == 0.0) return sign + "0.0";
  const PlainNumbers guard;
  Decimal decimal = shortest(std::fabs(value));
  while (decimal.digits.size() > 1 && decimal.digits.back() == '0') decimal.digits.pop_back();
  const std::string& digits = decimal.digits;
  const int count = static_cast<int>(digits.size());
  const int point = decimal.point;
  if (point > 0 && point <= 16) {
    if (count <= point) {
      return sign + digits + std::string(static_cast<std::size_t>(point - count), '0') + ".0";
    }
    const auto whole = static_cast<std::size_t>(point);
    return sign + digits.substr(0, whole) + '.' + digits.substr(whole);
  }
  if (point > -5 && point <= 0) {
    return sign + "0." + std::string(static_cast<std::size_t>(-point), '0') + digits;
  }
  const std::string rest = count > 1 ? '.' + digits.substr(1) : "";
  return sign + digits[0] + rest + 'e' + std::to_string(point - 1);
}

std::string fixed_text(double value, int decimals) { return printed("%.*f", decimals, value); }

std::string significant_text(double value, int digits) { return printed("%.*g", digits, value); }

double double_from_text(const std::string& text) {
  const PlainNumbers guard;
  return std::strtod(text.c_str(), nullptr);
}

}  // namespace vad
