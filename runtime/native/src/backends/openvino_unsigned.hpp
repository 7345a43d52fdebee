// Unsigned INT8 for activations that are never negative. openvino_unsigned.py says why.

#pragma once

#include <memory>

#include <openvino/core/model.hpp>

namespace vad {

// Whether this processor adds products of unsigned and signed bytes without overflow.
bool unsigned_is_safe();
// Makes signed INT8 activations unsigned where they cannot be negative, in place. Returns how many
// tensors were changed.
int read_unsigned(const std::shared_ptr<ov::Model>& model);

}  // namespace vad
