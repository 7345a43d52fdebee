// What a user may name as a source, and how to show it without the password in it. As
// vad_runtime.sources.address, whose tests say what is hidden.

#pragma once

#include <cstdint>
#include <string>

namespace vad::sources {

enum class AddressKind : std::uint8_t { file, usb, stream, gstreamer };

struct Address {
  AddressKind kind = AddressKind::file;
  std::string text;  // may hold a password: show shown()

  // Whether it has a pace of its own, and no end.
  bool live() const noexcept { return kind != AddressKind::file; }
  std::string scheme() const { return text.substr(0, text.find(':')); }
  std::string shown() const;
};

// Throws Error: an empty text, control characters, an unknown protocol, or no host.
Address address_from_text(const std::string& text);
// A text without the credentials that it holds: they become `***`. In doubt more is hidden than has
// to be. Masking it again changes nothing.
std::string masked(const std::string& text);

}  // namespace vad::sources
