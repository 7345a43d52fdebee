// The same graph surgery as vad_runtime/backends/openvino_unsigned.py, which has the drawings.

#include "openvino_unsigned.hpp"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include <openvino/op/constant.hpp>
#include <openvino/op/convert.hpp>
#include <openvino/op/fake_quantize.hpp>
#include <openvino/op/multiply.hpp>
#include <openvino/op/parameter.hpp>

#include "checks.hpp"

namespace vad {
namespace {

using Known = std::unordered_map<const ov::Node*, bool>;

constexpr std::size_t unsigned_steps = 255;

// Operators whose result is not negative: always; where their first input is not; where no input
// is.
const std::set<std::string> never_negative{"Relu", "Sigmoid", "Softmax", "Abs", "Exp", "Sqrt"};
const std::set<std::string> keeps_sign{
    "MaxPool",   "AvgPool", "Reshape",      "Transpose",  "Slice",     "StridedSlice", "Gather",
    "Squeeze",   "Unsqueeze", "Convert",    "FakeQuantize", "ReduceMean", "ReduceSum",
    "ReduceMax"};
const std::set<std::string> all_inputs{"Add", "Concat", "Multiply", "Divide", "Maximum"};

std::string kind(const ov::Node& node) { return node.get_type_name(); }

std::shared_ptr<ov::Node> input_node(const ov::Node& node, std::size_t index) {
  return node.input_value(index).get_node_shared_ptr();
}

std::vector<double> values_of(const ov::Node& node) {
  const auto* constant = dynamic_cast<const ov::op::v0::Constant*>(&node);
  return constant == nullptr ? std::vector<double>{} : constant->cast_vector<double>();
}

// An input's value where it is one constant number.
std::optional<double> constant(const ov::Node& node, std::size_t index) {
  const std::vector<double> values = values_of(*input_node(node, index));
  if (values.size() != 1) return std::nullopt;
  return values[0];
}

bool is_zero(const ov::Node& node) {
  std::shared_ptr<ov::Node> source = input_node(node, 1);
  while (kind(*source) == "Convert" || kind(*source) == "Reshape" ||
         kind(*source) == "Broadcast") {
    source = input_node(*source, 0);
  }
  if (kind(*source) != "Constant") return false;
  const std::vector<double> values = values_of(*source);
  return std::all_of(values.begin(), values.end(), [](double value) { return value == 0.0; });
}

std::vector<std::shared_ptr<ov::Node>> readers(const std::shared_ptr<ov::Node>& node) {
  std::vector<std::shared_ptr<ov::Node>> found;
  for (const ov::Input<ov::Node>& target : node->output(0).get_target_inputs()) {
    found.push_back(target.get_node()->shared_from_this());
  }
  return found;
}

bool not_negative(const std::shared_ptr<ov::Node>& node, Known& known);

bool looked_up(const std::shared_ptr<ov::Node>& node, Known& known) {
  const std::string type = kind(*node);
  if (type == "Parameter") {
    const ov::element::Type element = node->get_output_element_type(0);
    return element.is_integral_number() && !element.is_signed();
  }
  if (type == "Constant") {
    const std::vector<double> values = values_of(*node);
    return std::all_of(values.begin(), values.end(), [](double value) { return value >= 0.0; });
  }
  if (never_negative.count(type) != 0) return true;
  if (type == "Subtract") return is_zero(*node) && not_negative(input_node(*node, 0), known);
  if (keeps_sign.count(type) != 0) return not_negative(input_node(*node, 0), known);
  if (all_inputs.count(type) == 0) return false;
  for (std::size_t i = 0; i < node->get_input_size(); ++i) {
    if (!not_negative(input_node(*node, i), known)) return false;
  }
  return true;
}

// By the operators that make it; every way is walked once.
bool not_negative(const std::shared_ptr<ov::Node>& node, Known& known) {
  const auto found = known.find(node.get());
  if (found != known.end()) return found->second;
  const bool answer = looked_up(node, known);
  known[node.get()] = answer;
  return answer;
}

// A signed rounding, the ends of its ways back to float32, and its largest value.
//
//   FakeQuantize -128..127 -- Convert i8 -- Convert f32 -- [Subtract 0] -- Multiply step
struct Chain {
  std::shared_ptr<ov::Node> rounding;
  std::vector<std::shared_ptr<ov::Node>> ends;
  double limit = 0.0;
};

std::optional<Chain> chain_at(const std::shared_ptr<ov::Node>& node) {
  if (kind(*node) != "FakeQuantize" || constant(*node, 3) != -128.0) return std::nullopt;
  const std::optional<double> largest = constant(*node, 2);
  if (!largest || constant(*node, 4) != 127.0) return std::nullopt;
  Chain chain{node, {}, *largest};
  for (const auto& rounded : readers(node)) {
    if (kind(*rounded) != "Convert") return std::nullopt;
    for (const auto& widened : readers(rounded)) {
      if (kind(*widened) != "Convert") return std::nullopt;
      for (const auto& end : readers(widened)) {
        if (kind(*end) != "Subtract") {
          chain.ends.push_back(end);
          continue;
        }
        if (!is_zero(*end)) return std::nullopt;
        for (const auto& last : readers(end)) chain.ends.push_back(last);
      }
    }
  }
  for (const auto& end : chain.ends) {
    if (kind(*end) != "Multiply") return std::nullopt;
    if (end->get_output_element_type(0) != ov::element::f32) return std::nullopt;
  }
  if (chain.ends.empty()) return std::nullopt;
  return chain;
}

std::shared_ptr<ov::Node> number(double value) {
  return ov::op::v0::Constant::create(ov::element::f32, ov::Shape{}, {static_cast<float>(value)});
}

void make_unsigned(const Chain& chain) {
  const auto step = static_cast<float>(chain.limit / unsigned_steps);  // rounded once
  const auto rounded = std::make_shared<ov::op::v0::FakeQuantize>(
      chain.rounding->input_value(0), number(0.0), number(chain.limit), number(0.0),
      number(unsigned_steps), unsigned_steps + 1);
  const auto bytes = std::make_shared<ov::op::v0::Convert>(rounded, ov::element::u8);
  for (const auto& last : chain.ends) {
    const auto wide = std::make_shared<ov::op::v0::Convert>(bytes, ov::element::f32);
    const auto back = std::make_shared<ov::op::v1::Multiply>(wide, number(step));
    back->set_friendly_name(last->get_friendly_name());
    // A copy: replacing changes the set.
    const std::set<ov::Input<ov::Node>> targets = last->output(0).get_target_inputs();
    for (ov::Input<ov::Node> reader : targets) reader.replace_source_output(back->output(0));
  }
}

}  // namespace

bool unsigned_is_safe() {
  const std::set<std::string> flags = cpu_flags();
  return flags.count("avx512_vnni") + flags.count("avx_vnni") + flags.count("amx_int8") != 0;
}

int read_unsigned(const std::shared_ptr<ov::Model>& model) {
  Known known;
  std::vector<Chain> chains;  // all are found before the first is changed
  for (const auto& node : model->get_ordered_ops()) {
    const std::optional<Chain> chain = chain_at(node);
    if (chain && not_negative(input_node(*node, 0), known)) chains.push_back(*chain);
  }
  for (const Chain& chain : chains) make_unsigned(chain);
  return static_cast<int>(chains.size());
}

}  // namespace vad
