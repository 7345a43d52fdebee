#include "tensorrt_plan.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include <sys/stat.h>

#include "vad/error.hpp"

namespace vad::tensorrt {
namespace {

// Header, little endian, as vad_runtime.engines.plan_file describes it:
//
//     0-3    `ftrt` (TensorRT, lean and dispatch included) or `vtrt` (TensorRT for RTX)
//     16-23  RTX only: size of the whole plan in bytes
//     24-27  version, one number a byte: major, minor, patch, build
//     32-39  RTX only: the compute capabilities, one a bit
constexpr std::size_t header_bytes = 40;
constexpr std::size_t head_bytes = 4096;  // that tell a text from something else
constexpr std::uint64_t longest_wrapper = 1U << 20;
constexpr std::array<int, 6> targets{75, 80, 86, 89, 120, 121};
// GPUs that came after those.
constexpr unsigned later_bit = targets.size();

std::uint64_t little_endian(std::string_view bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = bytes.size(); i-- > 0;) {
    value = value << 8 | static_cast<unsigned char>(bytes[i]);
  }
  return value;
}

bool starts_with(std::string_view text, std::string_view start) {
  return text.substr(0, start.size()) == start;
}

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

// As Python shows bytes: what cannot stand in a line of text as \xNN.
std::string quoted(std::string_view bytes) {
  constexpr const char* digits = "0123456789abcdef";
  const bool single = bytes.find('\'') == std::string_view::npos;
  const char mark = single || bytes.find('"') != std::string_view::npos ? '\'' : '"';
  std::string text = std::string("b") + mark;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\t' || c == '\n' || c == '\r') {
      text += c == '\t' ? "\\t" : c == '\n' ? "\\n" : "\\r";
    } else if (c == '\\' || c == mark) {
      text += std::string("\\") + c;
    } else if (byte >= 0x20 && byte < 0x7f) {
      text += c;
    } else {
      text += std::string("\\x") + digits[byte >> 4] + digits[byte & 15];
    }
  }
  return text + mark;
}

// Well-formed UTF-8 without a NUL; a character that the end cuts in two is allowed if `cut`.
bool is_text(std::string_view head, bool cut) {
  std::size_t i = 0;
  while (i < head.size()) {
    const auto byte = static_cast<unsigned char>(head[i]);
    if (byte == 0) return false;
    std::size_t more = 0;
    if (byte >= 0xc2 && byte < 0xe0) {
      more = 1;
    } else if (byte >= 0xe0 && byte < 0xf0) {
      more = 2;
    } else if (byte >= 0xf0 && byte < 0xf5) {
      more = 3;
    } else if (byte >= 0x80) {
      return false;
    }
    for (std::size_t k = 1; k <= more; ++k) {
      if (i + k >= head.size()) return cut;
      if ((static_cast<unsigned char>(head[i + k]) & 0xc0) != 0x80) return false;
    }
    i += more + 1;
  }
  return true;
}

// An ONNX graph begins with `ir_version`, then one of the fields that follow (ModelProto).
bool looks_like_onnx(std::string_view head) {
  constexpr std::string_view next = "\x12\x1a\x22\x28\x32\x3a\x42";
  return head.size() > 2 && head[0] == 0x08 && head[1] > 0 && head[1] < 0x20 &&
         next.find(head[2]) != std::string_view::npos;
}

struct Wrapper {
  std::uint64_t offset = 0;
  bool found = false;
};

std::string read_at(std::ifstream& stream, std::uint64_t offset, std::size_t count) {
  std::string bytes(count, '\0');
  stream.clear();
  stream.seekg(static_cast<std::streamoff>(offset));
  stream.read(bytes.data(), static_cast<std::streamsize>(count));
  bytes.resize(static_cast<std::size_t>(std::max<std::streamsize>(stream.gcount(), 0)));
  return bytes;
}

// Ultralytics writes the length of a JSON text (4 bytes), the text, and then the plan.
Wrapper wrapper_of(const std::string& plan, std::ifstream& stream, std::string_view head,
                   std::uint64_t total) {
  if (head.size() < 5 || head[4] != '{') return {};
  const std::uint64_t length = little_endian(head.substr(0, 4));
  if (length < 2 || length > std::min(longest_wrapper, total - 4)) return {};
  try {
    Json::parse(read_at(stream, 4, static_cast<std::size_t>(length)));
  } catch (const Error&) {
    throw Error(plan + " begins like an engine of Ultralytics, but its metadata are damaged. "
                       "Export it again there.");
  }
  return {4 + length, true};
}

std::string what_else(const std::string& plan, std::string_view head, std::string_view header,
                      bool wrapped, const std::string& build) {
  if (head.empty()) return plan + " is empty, not a plan. Build it with: " + build;
  if (wrapped) {
    return plan + " has metadata of Ultralytics and no plan behind them. Export it again there.";
  }
  if (starts_with(head, "version https://git-lfs")) {
    return plan + " is a pointer of Git LFS, not the plan itself. Get it with: git lfs pull";
  }
  if (looks_like_onnx(head)) {
    return plan + " is an ONNX graph, not a plan, whatever its name says. "
                  "Engines are built from bundles: " + build;
  }
  if (is_text(head, head.size() == head_bytes)) {
    if (ends_with(plan, ".engine.json")) {
      const std::string name = plan.substr(plan.find_last_of('/') + 1);
      return plan + " is the sidecar of an engine. Name the engine: " +
             name.substr(0, name.size() - 5);
    }
    return plan + " is a text file, not a plan. Build an engine with: " + build;
  }
  if (header.size() >= 4 && header.substr(1, 3) == "trt") {
    return plan + " is a plan of a TensorRT that this vad-edge does not know (it begins with " +
           quoted(header.substr(0, 4)) + "). Build it with: " + build;
  }
  return plan + " is no TensorRT plan (it begins with " + quoted(head.substr(0, 4)) +
         "). Build one with: " + build;
}

std::string dotted(std::string_view bytes) {
  std::string text;
  for (const char byte : bytes) {
    if (!text.empty()) text += '.';
    text += std::to_string(static_cast<unsigned char>(byte));
  }
  return text;
}

PlanHeader decoded(std::string_view header, const Wrapper& wrapper) {
  PlanHeader found;
  found.offset = wrapper.offset;
  found.wrapped = wrapper.found;
  if (header[0] == 'f') {
    // The library's own version has three numbers on a Jetson and four in a wheel.
    found.version = dotted(header.substr(24, 3));
    return found;
  }
  found.family = Family::rtx;
  found.version = dotted(header.substr(24, 4));
  found.size = little_endian(header.substr(16, 8));
  const std::uint64_t mask = little_endian(header.substr(32, 8));
  // A later TensorRT-RTX counts its targets in another way: claim nothing.
  if (mask != 0 && mask >> (later_bit + 1) == 0) {
    found.sms.emplace();
    for (unsigned bit = 0; bit < targets.size(); ++bit) {
      if ((mask >> bit & 1) != 0) found.sms->push_back(targets[bit]);
    }
  }
  found.later_sms = (mask >> later_bit & 1) != 0;
  return found;
}

void require_numbers(const std::string& plan, const PlanHeader& header, std::uint64_t length,
                     const std::string& build, bool any_version) {
  const std::string again = "Copy it again, or build it with: " + build;
  if (!any_version && header.version.find_first_not_of("0.") == std::string::npos) {
    throw Error(plan + " names no version in its header: it is damaged. " + again);
  }
  if (!header.size || *header.size == length) return;
  const std::string here = std::to_string(length);
  const std::string said = std::to_string(*header.size);
  if (length < *header.size) {
    throw Error(plan + " was cut off: " + here + " of its " + said + " bytes are there. " + again);
  }
  throw Error(plan + " has " + here + " bytes, its header says " + said + ". " + again);
}

[[noreturn]] void throw_unreadable(const std::string& file, int error) {
  throw Error(file + " cannot be read (" + std::strerror(error) + "). Check its name and rights.");
}

}  // namespace

PlanHeader read_header(const std::string& plan, const std::string& build, bool any_version) {
  if (plan.find('\0') != std::string::npos) throw_unreadable(plan.c_str(), EINVAL);
  struct stat about {};
  if (stat(plan.c_str(), &about) != 0) {
    if (errno == ENOENT) throw Error(plan + " does not exist. Build an engine with: " + build);
    throw_unreadable(plan, errno);
  }
  if (S_ISDIR(about.st_mode)) {
    throw Error(plan + " is a folder, not a plan. Name a file in it.");
  }
  // Opening a pipe would wait for whoever writes to it.
  if (!S_ISREG(about.st_mode)) throw Error(plan + " is no plain file, so no plan. Name a file.");
  const auto total = static_cast<std::uint64_t>(about.st_size);
  std::ifstream stream(plan, std::ios::binary);
  if (!stream) throw_unreadable(plan, errno);
  const std::string head = read_at(stream, 0, head_bytes);
  const Wrapper wrapper = wrapper_of(plan, stream, head, total);
  const std::string header = read_at(stream, wrapper.offset, header_bytes);
  if (!starts_with(header, "ftrt") && !starts_with(header, "vtrt")) {
    throw Error(what_else(plan, head, header, wrapper.found, build));
  }
  if (header.size() < header_bytes) {
    throw Error(plan + " has " + std::to_string(header.size()) +
                " bytes, which is too short for a plan: it was cut off. Copy it again, or build "
                "it with: " + build);
  }
  PlanHeader found = decoded(header, wrapper);
  require_numbers(plan, found, total - wrapper.offset, build, any_version);
  return found;
}

Sidecar read_sidecar(const std::string& plan, const PlanHeader* header, const std::string& build) {
  const std::string path = plan + ".json";
  std::ifstream stream(path, std::ios::binary);
  if (!stream) {
    if (errno != ENOENT) {
      throw Error(path + " cannot be read (" + std::strerror(errno) + "). Check its rights.");
    }
    if (header != nullptr && header->wrapped) {
      throw Error(plan + " is an engine that Ultralytics wrote, and vad-run runs engines of its "
                         "bundles only. Build one with: " + build);
    }
    throw Error(plan + " has no sidecar (" + path.substr(path.find_last_of('/') + 1) +
                "), so nothing says what it was made from and where it may run. Copy both files, "
                "or build it with: " + build);
  }
  // A folder opens and cannot be read.
  std::string text;
  std::array<char, 4096> part{};
  while (stream.read(part.data(), part.size()) || stream.gcount() > 0) {
    text.append(part.data(), static_cast<std::size_t>(stream.gcount()));
  }
  if (stream.bad()) throw Error(path + " cannot be read. Check its rights.");
  return Sidecar::parse(text, path);
}

}  // namespace vad::tensorrt
