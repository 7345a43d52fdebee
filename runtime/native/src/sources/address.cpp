#include "sources/address.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "vad/error.hpp"

namespace vad::sources {
namespace {

constexpr const char* hidden = "***";
constexpr std::array<const char*, 8> schemes{"rtsp",  "rtsps", "http", "https",
                                             "rtmp",  "rtmps", "udp",  "srt"};
constexpr auto none = std::string::npos;

bool is_space(char c) { return std::strchr(" \t\n\r\f\v", c) != nullptr && c != '\0'; }
bool is_alpha(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
// Bytes from 128 on are parts of letters in UTF-8, as a rule.
bool is_word(char c) {
  return is_alpha(c) || is_digit(c) || c == '_' || static_cast<unsigned char>(c) >= 128;
}

std::string lower(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

std::string stripped(const std::string& text) {
  std::size_t start = 0;
  std::size_t end = text.size();
  while (start < end && is_space(text[start])) ++start;
  while (end > start && is_space(text[end - 1])) --end;
  return text.substr(start, end - start);
}

std::size_t skip_spaces(const std::string& text, std::size_t at, std::size_t most) {
  const std::size_t end = std::min(text.size(), at + most);
  while (at < end && is_space(text[at])) ++at;
  return at;
}

// `host/path@2` holds no login; `user:pa/ss@host` does, although it should be escaped.
bool is_plain_host(const std::string& text, std::size_t at) {
  std::size_t end = at;
  while (end < text.size() && !is_space(text[end]) && std::strchr("/?#", text[end]) == nullptr) {
    ++end;
  }
  const std::string host = text.substr(at, end - at);
  return host.find('@') == none && (host[0] == '[' || host.find(':') == none);
}

// The part of each address in front of its host.
std::string without_logins(const std::string& text) {
  std::string out;
  std::size_t at = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    if (is_space(text[begin])) {
      ++begin;
      continue;
    }
    std::size_t end = begin;
    while (end < text.size() && !is_space(text[end])) ++end;
    const std::size_t login = text.rfind('@', end - 1);
    if (login != none && login >= begin) {
      std::size_t start = text.find("://", at);
      while (start != none && start + 3 <= login) {
        start += 3;
        if (!is_plain_host(text, start)) {
          out += text.substr(at, start - at) + hidden;
          at = login;
          break;
        }
        start = text.find("://", start);
      }
    }
    begin = end;
  }
  return out + text.substr(at);
}

bool in(char c, const char* set) { return c != '\0' && std::strchr(set, c) != nullptr; }

// Length of `user:password@` at a place, in a text that names no protocol; 0 = none there.
std::size_t bare_login(const std::string& text, std::size_t at) {
  if (at > 0 && !is_space(text[at - 1]) && !in(text[at - 1], "\"'=(")) return 0;
  std::size_t end = at;
  while (end < text.size() && !is_space(text[end]) && !in(text[end], "/:@\"'=(")) ++end;
  if (end == at || end - at > 99 || end == text.size() || text[end] != ':') return 0;
  ++end;
  if (text.compare(end, 2, "//") == 0) return 0;
  const std::size_t password = end;
  while (end < text.size() && !is_space(text[end]) && text[end] != '@') ++end;
  if (end - password > 300 || end + 1 >= text.size() || text[end] != '@') return 0;
  return is_space(text[end + 1]) || text[end + 1] == '@' ? 0 : end + 1 - at;
}

std::string without_bare_logins(const std::string& text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = bare_login(text, at);
    if (length > 0) out += std::string(hidden) + "@";
    if (length == 0) out += text[at];
    at += std::max<std::size_t>(length, 1);
  }
  return out;
}

bool is_secret(const std::string& key) {
  const std::string small = lower(key);
  for (const char* part :
       {"pass", "pwd", "psw", "token", "secret", "auth", "credential", "signature", "apikey",
        "accesskey", "userid", "user-id", "username", "user-name", "login", "streamid", "jwt",
        "hmac", "session", "hdnts", "hdnea"}) {
    if (small.find(part) != none) return true;
  }
  std::string word;
  for (std::size_t i = 0; i <= key.size(); ++i) {
    const bool end = i == key.size() || in(key[i], "-_.");
    const bool camel = !end && i > 0 && key[i - 1] >= 'a' && key[i - 1] <= 'z' && key[i] >= 'A' &&
                       key[i] <= 'Z';
    if (end || camel) {
      const std::string one = lower(word);
      for (const char* secret : {"key", "pw", "pas", "sig", "sid", "sas", "user", "usr"}) {
        if (one == secret) return true;
      }
      word.clear();
    }
    if (!end) word += key[i];
  }
  return false;
}

// `key=value`, also GStreamer's `key=(string)value`: where the value starts, and the key. `at` =
// where the next one is sought; none = there is none.
std::size_t next_value(const std::string& text, std::size_t at, std::string& key) {
  for (; at < text.size(); ++at) {
    const bool inside = at > 0 && (is_word(text[at - 1]) || in(text[at - 1], ".-"));
    if (inside || !is_alpha(text[at])) continue;
    std::size_t end = at;
    while (end < text.size() && (is_word(text[end]) || in(text[end], ".-"))) ++end;
    key = text.substr(at, end - at);
    end = skip_spaces(text, end, 3);
    if (end == text.size() || text[end] != '=') continue;
    end = skip_spaces(text, end + 1, 3);
    std::size_t type = end + 1;
    while (end < text.size() && text[end] == '(' && type < text.size() && is_word(text[type])) {
      ++type;
    }
    const bool typed = type > end + 1 && type - end <= 21 && type < text.size() &&
                       text[type] == ')';
    return typed ? skip_spaces(text, type + 1, 3) : end;
  }
  return none;
}

// The end of a value: its closing quote, or `&` or white space.
std::size_t end_of_value(const std::string& text, std::size_t at, bool& quoted) {
  quoted = false;
  if (at < text.size() && in(text[at], "\"'")) {
    for (std::size_t i = at + 1; i < text.size(); ++i) {
      if (text[i] == text[at]) {
        quoted = true;
        return i + 1;
      }
      if (text[i] == '\\') ++i;
    }
  }
  const auto ends = [&](std::size_t i) {
    return i >= text.size() || is_space(text[i]) || text[i] == '&';
  };
  while (!ends(at) && !(in(text[at], "\"'") && ends(at + 1))) ++at;
  return at;
}

std::string without_values(const std::string& text) {
  std::string out;
  std::string key;
  std::size_t at = 0;
  for (std::size_t value = next_value(text, 0, key); value != none;
       value = next_value(text, at, key)) {
    out += text.substr(at, value - at);
    at = value;
    if (!is_secret(key)) continue;
    bool quoted = false;
    const std::size_t end = end_of_value(text, at, quoted);
    if (end == at) continue;
    const std::string quote = quoted ? std::string(1, text[at]) : "";
    out += quote + hidden + quote;
    at = end;
  }
  return out + text.substr(at);
}

Address stream(const std::string& scheme, const std::string& rest) {
  if (scheme == "file") return {AddressKind::file, rest};
  const std::string shown = masked(scheme + "://" + rest);
  if (std::find(schemes.begin(), schemes.end(), scheme) == schemes.end()) {
    std::string known;
    for (const char* name : schemes) {
      known += (known.empty() ? "" : ", ") + std::string(name) + "://";
    }
    throw Error(shown + " has an unknown protocol. Known are " + known + ".");
  }
  if (std::any_of(rest.begin(), rest.end(), is_space)) {
    throw Error(shown + " holds a space. Write %20 in its place.");
  }
  // An `@` may start an address of udp://, which then listens on every interface.
  const std::size_t login = rest.rfind('@');
  const std::size_t host = login == none ? 0 : login + 1;
  if (host == rest.size() || in(rest[host], "/?#")) {
    throw Error(shown + " names no host. Write " + scheme + "://HOST/…");
  }
  return {AddressKind::stream, scheme + "://" + rest};
}

bool is_usb_device(const std::string& text) {
  for (const char* folder : {"/dev/v4l/by-id/", "/dev/v4l/by-path/"}) {
    const std::string start(folder);
    if (text.compare(0, start.size(), start) == 0 && text.size() > start.size() &&
        text.find('/', start.size()) == none) {
      return true;
    }
  }
  const std::string start("/dev/video");
  const std::string number = text.size() > start.size() ? text.substr(start.size()) : "";
  return text.compare(0, start.size(), start) == 0 && !number.empty() && number.size() <= 3 &&
         std::all_of(number.begin(), number.end(), is_digit);
}

}  // namespace

std::string Address::shown() const {
  return masked(kind == AddressKind::gstreamer ? "gst: " + text : text);
}

Address address_from_text(const std::string& given) {
  const std::string text = stripped(given);
  if (text.empty()) {
    throw Error("the source is empty. Give a file, a folder, rtsp://… or /dev/video0.");
  }
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 32 || c == 127) {
      throw Error("the source holds control characters. Write it on one line.");
    }
  }
  const std::string start = lower(text.substr(0, 4));
  const std::string rest = text.size() > 4 ? stripped(text.substr(4)) : "";
  if (start == "gst:") {
    if (rest.empty()) {
      throw Error("the pipeline after gst: is empty. Write what gst-launch-1.0 takes.");
    }
    return {AddressKind::gstreamer, rest};
  }
  if (start == "usb:") {
    if (rest.empty() || rest.size() > 3 || !std::all_of(rest.begin(), rest.end(), is_digit)) {
      throw Error(masked(text) + " names no camera. Write usb:0 for /dev/video0.");
    }
    return {AddressKind::usb, "/dev/video" + std::to_string(std::stoi(rest))};
  }
  if (is_usb_device(text)) return {AddressKind::usb, text};
  std::size_t end = 0;
  while (end < text.size() &&
         (is_alpha(text[end]) || (end > 0 && (is_digit(text[end]) || in(text[end], "+.-"))))) {
    ++end;
  }
  if (end > 0 && text.compare(end, 3, "://") == 0) {
    return stream(lower(text.substr(0, end)), text.substr(end + 3));
  }
  std::error_code ignored;
  if (bare_login(text, 0) > 0 && !std::filesystem::exists(text, ignored)) {
    throw Error(masked(text) + " names no protocol. Write rtsp:// in front of it.");
  }
  return {AddressKind::file, text};
}

std::string masked(const std::string& text) {
  return without_values(without_bare_logins(without_logins(text)));
}

}  // namespace vad::sources
