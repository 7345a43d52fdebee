#include "vad/json.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "number.hpp"
#include "utf8.hpp"
#include "vad/error.hpp"

namespace vad {
namespace {

constexpr int deepest = 512;

// Recursive descent over the whole text; `at_` is the next byte.
class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Json whole() {
    Json json = value(0);
    skip_blanks();
    if (at_ < text_.size()) fail("trailing characters");
    return json;
  }

 private:
  [[noreturn]] void fail(const char* reason) const {
    if (at_ >= text_.size()) throw Error("JSON ends in the middle");
    throw Error(std::string("JSON is malformed: ") + reason + " (byte " + std::to_string(at_) +
                ")");
  }

  int peek() const {
    return at_ < text_.size() ? static_cast<unsigned char>(text_[at_]) : -1;
  }

  bool take(char wanted) {
    if (peek() != wanted) return false;
    ++at_;
    return true;
  }

  void skip_blanks() {
    while (peek() == ' ' || peek() == '\t' || peek() == '\n' || peek() == '\r') ++at_;
  }

  Json value(int depth) {
    skip_blanks();
    switch (peek()) {
      case '{':
        return object(depth + 1);
      case '[':
        return array(depth + 1);
      case '"':
        return string();
      case 't':
        return word("true", true);
      case 'f':
        return word("false", false);
      case 'n':
        return word("null", nullptr);
      default:
        return number();
    }
  }

  Json word(std::string_view name, Json meaning) {
    for (const char letter : name) {
      if (!take(letter)) fail("invalid character");
    }
    return meaning;
  }

  void enter(int depth) {
    if (depth > deepest) fail("more than 512 levels");
    ++at_;
    skip_blanks();
  }

  // Behind an element: true = another one follows.
  bool more(char end, const char* expected, const char* trailing) {
    skip_blanks();
    if (take(end)) return false;
    if (peek() != ',') fail(expected);
    ++at_;
    skip_blanks();
    if (peek() == end) fail(trailing);
    return true;
  }

  Json array(int depth) {
    enter(depth);
    Json::Array items;
    if (take(']')) return Json(std::move(items));
    do {
      items.push_back(value(depth));
    } while (more(']', "expected ',' or ']'", "trailing comma in array"));
    return Json(std::move(items));
  }

  Json object(int depth) {
    enter(depth);
    Json::Object members;
    if (take('}')) return Json(std::move(members));
    do {
      if (peek() != '"') fail("object keys must be strings");
      std::string name = string();
      skip_blanks();
      if (!take(':')) fail("expected ':'");
      members.emplace_back(std::move(name), value(depth));
    } while (more('}', "expected ',' or '}'", "trailing comma in object"));
    return Json(without_doubles(std::move(members)));
  }

  // A name that comes twice keeps its first place and its last value, as in a Python dictionary.
  static Json::Object without_doubles(Json::Object members) {
    std::vector<std::size_t> order(members.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return members[a].first < members[b].first;
    });
    std::vector<bool> gone(members.size());
    bool any = false;
    for (std::size_t i = 0, first = 0; i < order.size(); ++i) {
      if (i == 0 || members[order[i]].first != members[order[first]].first) {
        first = i;
        continue;
      }
      members[order[first]].second = std::move(members[order[i]].second);
      gone[order[i]] = any = true;
    }
    if (!any) return members;
    Json::Object kept;
    for (std::size_t i = 0; i < members.size(); ++i) {
      if (!gone[i]) kept.push_back(std::move(members[i]));
    }
    return kept;
  }

  std::string string() {
    ++at_;
    std::string out;
    while (!take('"')) {
      if (peek() == '\\') {
        ++at_;
        escaped(out);
        continue;
      }
      if (peek() < 0x20) fail("invalid character");  // also the end of the text
      const std::size_t length = utf8_length(text_.substr(at_));
      if (length == 0) fail("invalid UTF-8");
      out += text_.substr(at_, length);
      at_ += length;
    }
    return out;
  }

  void escaped(std::string& out) {
    static constexpr std::string_view letters = "\"\\/bfnrt";
    static constexpr std::string_view meanings = "\"\\/\b\f\n\r\t";
    if (take('u')) {
      std::uint32_t code = four_digits();
      if (code >= 0xDC00 && code <= 0xDFFF) fail("invalid UTF-16 surrogate pair");
      if (code >= 0xD800 && code <= 0xDBFF) {
        if (!take('\\') || !take('u')) fail("invalid UTF-16 surrogate pair");
        const std::uint32_t low = four_digits();
        if (low < 0xDC00 || low > 0xDFFF) fail("invalid UTF-16 surrogate pair");
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
      }
      append_utf8(out, code);
      return;
    }
    const std::size_t which = peek() < 0 ? std::string_view::npos : letters.find(text_[at_]);
    if (which == std::string_view::npos) fail("invalid escape character in string");
    out += meanings[which];
    ++at_;
  }

  std::uint32_t four_digits() {
    std::uint32_t code = 0;
    for (int i = 0; i < 4; ++i) {
      static constexpr std::string_view digits = "0123456789abcdefABCDEF";
      const std::size_t digit = peek() < 0 ? std::string_view::npos : digits.find(text_[at_]);
      if (digit == std::string_view::npos) fail("invalid character in unicode escape");
      code = code * 16 + static_cast<std::uint32_t>(digit < 16 ? digit : digit - 6);
      ++at_;
    }
    return code;
  }

  bool digit() const { return peek() >= '0' && peek() <= '9'; }

  void digits() {
    if (!digit()) fail("invalid number");
    while (digit()) ++at_;
  }

  Json number() {
    const std::size_t start = at_;
    const bool negative = take('-');
    if (!digit()) fail(negative ? "invalid number" : "invalid character");
    if (take('0')) {
      if (digit()) fail("invalid number");
    } else {
      digits();
    }
    bool whole = true;
    if (take('.')) {
      whole = false;
      digits();
    }
    if (take('e') || take('E')) {
      whole = false;
      if (!take('+')) take('-');
      digits();
    }
    const std::string text(text_.substr(start, at_ - start));
    std::int64_t integer = 0;
    if (whole && integer_from(text, integer)) return integer;
    const double value = double_from_text(text);
    if (!std::isfinite(value)) {
      at_ = start;
      fail("number out of range");
    }
    return value;
  }

  // False where 64 bits do not hold it.
  static bool integer_from(const std::string& text, std::int64_t& out) {
    const bool negative = text[0] == '-';
    // Downwards from 0, since there is one more number on that side.
    constexpr std::int64_t lowest = std::numeric_limits<std::int64_t>::min();
    std::int64_t value = 0;
    for (std::size_t i = negative ? 1 : 0; i < text.size(); ++i) {
      const int digit = text[i] - '0';
      if (value < (lowest + digit) / 10) return false;
      value = value * 10 - digit;
    }
    if (!negative && value == lowest) return false;
    out = negative ? value : -value;
    return true;
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

void write_string(std::string_view text, std::string& out) {
  static constexpr std::string_view special = "\"\\\b\f\n\r\t";
  static constexpr std::string_view letters = "\"\\bfnrt";
  static constexpr std::string_view hex = "0123456789abcdef";
  out += '"';
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t which = special.find(text[i]);
    const auto byte = static_cast<unsigned char>(text[i]);
    const std::size_t length = utf8_length(text.substr(i));
    if (which != std::string_view::npos) {
      out += '\\';
      out += letters[which];
    } else if (byte < 0x20) {
      out += "\\u00";
      out += hex[byte >> 4];
      out += hex[byte & 15];
    } else if (length == 0) {
      append_utf8(out, 0xFFFD);  // a path may hold bytes that are no text
    } else {
      out += text.substr(i, length);
    }
    i += std::max<std::size_t>(length, 1);
  }
  out += '"';
}

// Line ends and blanks of one indentation; nothing at all for 0.
struct Layout {
  int indent;

  void line(int level, std::string& out) const {
    if (indent == 0) return;
    out += '\n';
    out.append(static_cast<std::size_t>(level) * static_cast<std::size_t>(indent), ' ');
  }
};

void write(const Json& json, const Layout& layout, int level, std::string& out);

// `each` writes one member; the brackets and what lies between is the same for both kinds.
template <typename Members, typename Each>
void write_members(const Members& members, const char* brackets, const Layout& layout, int level,
                   std::string& out, Each each) {
  out += brackets[0];
  bool first = true;
  for (const auto& member : members) {
    if (!first) out += ',';
    first = false;
    layout.line(level + 1, out);
    each(member);
  }
  if (!first) layout.line(level, out);
  out += brackets[1];
}

void write(const Json& json, const Layout& layout, int level, std::string& out) {
  if (const bool* flag = json.as_bool()) {
    out += *flag ? "true" : "false";
  } else if (const std::int64_t* integer = json.as_int()) {
    out += std::to_string(*integer);
  } else if (const double* real = json.as_double(); real != nullptr && std::isfinite(*real)) {
    out += shortest_text(*real);
  } else if (const std::string* text = json.as_string()) {
    write_string(*text, out);
  } else if (const Json::Array* items = json.as_array()) {
    write_members(*items, "[]", layout, level, out,
                  [&](const Json& item) { write(item, layout, level + 1, out); });
  } else if (const Json::Object* members = json.as_object()) {
    write_members(*members, "{}", layout, level, out, [&](const auto& member) {
      write_string(member.first, out);
      out += layout.indent == 0 ? ":" : ": ";
      write(member.second, layout, level + 1, out);
    });
  } else {
    out += "null";
  }
}

}  // namespace

Json Json::parse(std::string_view text) { return Parser(text).whole(); }

std::string Json::dump(int indent) const {
  std::string out;
  write(*this, Layout{indent}, 0, out);
  return out;
}

const Json* Json::find(std::string_view name) const noexcept {
  const Object* members = as_object();
  if (members == nullptr) return nullptr;
  const auto found = std::find_if(members->rbegin(), members->rend(),
                                  [&](const auto& member) { return member.first == name; });
  return found == members->rend() ? nullptr : &found->second;
}

}  // namespace vad
