// Bundles for tests of back ends: small graphs, written here as ONNX files, so that neither Python
// nor a file is needed.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "vad/bundle.hpp"

namespace tiny {

constexpr int frames = 4;
constexpr int side = 8;
constexpr std::size_t frame_bytes = side * side;

// A message of Protocol Buffers, field by field.
class Message {
 public:
  Message& number(int field, std::uint64_t value) {
    varint(static_cast<std::uint64_t>(field) << 3);
    varint(value);
    return *this;
  }
  Message& text(int field, const std::string& value) {
    varint(static_cast<std::uint64_t>(field) << 3 | 2);
    varint(value.size());
    bytes_ += value;
    return *this;
  }
  Message& message(int field, const Message& value) { return text(field, value.bytes_); }
  const std::string& bytes() const { return bytes_; }

 private:
  void varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
    bytes_ += static_cast<char>(value);
  }
  std::string bytes_;
};

// onnx.proto: NodeProto with one input and one output.
inline Message node(const std::string& kind, const std::string& from, const std::string& to) {
  return Message().text(1, from).text(2, to).text(4, kind);
}

// ValueInfoProto; a size of 0 is the free dimension N. Types: 1 = float32, 2 = uint8.
inline Message value(const std::string& name, int type, const std::vector<int>& shape) {
  Message sizes;
  for (const int size : shape) {
    Message each;
    if (size == 0) {
      each.text(2, "N");
    } else {
      each.number(1, static_cast<std::uint64_t>(size));
    }
    sizes.message(1, each);
  }
  const Message tensor = Message().number(1, static_cast<std::uint64_t>(type)).message(2, sizes);
  return Message().text(1, name).message(2, Message().message(1, tensor));
}

struct Graph {
  int input_frames = frames;
  std::string input = "clip";
  std::string output = "score";
  bool per_frame = false;
  bool logarithm = false;  // of the mean: minus infinity for a black clip
};

// The mean over a clip, or over each frame, as an ONNX file.
inline std::string onnx_from(const Graph& graph) {
  Message mean = node("ReduceMean", "floats", graph.logarithm ? "mean" : graph.output);
  Message axes = Message().text(1, "axes").number(20, 7);
  for (int axis = graph.per_frame ? 2 : 1; axis < 5; ++axis) {
    axes.number(8, static_cast<std::uint64_t>(axis));
  }
  mean.message(5, axes).message(5, Message().text(1, "keepdims").number(3, 0).number(20, 2));
  Message cast = node("Cast", graph.input, "floats");
  cast.message(5, Message().text(1, "to").number(3, 1).number(20, 2));

  Message body;
  body.message(1, cast).message(1, mean);
  if (graph.logarithm) body.message(1, node("Log", "mean", graph.output));
  body.text(2, "test");
  body.message(11, value(graph.input, 2, {0, graph.input_frames, side, side, 1}));
  std::vector<int> shape{0};
  if (graph.per_frame) shape.push_back(graph.input_frames);
  body.message(12, value(graph.output, 1, shape));
  return Message()
      .number(1, 7)
      .message(7, body)
      .message(8, Message().text(1, "").number(2, 13))
      .bytes();
}

struct About {
  bool per_frame = false;
  std::string short_name = "fp32";
  std::string precision = "fp32";
  std::string plan = "null";
  std::string features = "null";
};

// A bundle in a folder of its own, gone with the object.
class Folder {
 public:
  explicit Folder(const std::string& model, const About& about = {}) {
    std::string pattern = (std::filesystem::temp_directory_path() / "vad-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
    root_ = pattern;
    path_ = root_ / "tiny.vad";
    std::filesystem::create_directory(path_);
    std::ofstream(path_ / "model.onnx", std::ios::binary) << model;
    std::ofstream(path_ / "manifest.json") << manifest(about, model.size());
  }
  ~Folder() { std::filesystem::remove_all(root_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  vad::Bundle open() const { return vad::Bundle::open(path_.string(), false); }

 private:
  static std::string manifest(const About& about, std::size_t bytes) {
    const std::string count = about.per_frame ? std::to_string(frames) : "1";
    const bool features = about.features != "null";
    const std::string per = features ? "segment" : about.per_frame ? "frame" : "clip";
    return R"({"schema": 1, "family": "test", "name": "tiny", "clip": {"frames": )" +
           std::to_string(frames) + R"(, "height": 8, "width": 8, "colour": "gray"}, )" +
           R"("score": {"per": ")" + per + R"(", "form": "mean", "count": )" + count +
           R"(}, "artefacts": {")" + about.short_name +
           R"(": {"file": "model.onnx", "sha256": ")" + std::string(64, '0') +
           R"(", "bytes": )" + std::to_string(bytes) + R"(, "format": "onnx", "precision": ")" +
           about.precision + R"("}}, "features": )" + about.features + R"(, "plan": )" +
           about.plan + "}";
  }

  std::filesystem::path root_;
  std::filesystem::path path_;
};

}  // namespace tiny
