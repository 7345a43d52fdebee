#include "sources/h264_loss.hpp"

#include <algorithm>
#include <array>

namespace vad::sources {
namespace {

constexpr int slice = 1;
constexpr int idr_slice = 5;
constexpr int sps = 7;
constexpr std::size_t head_bytes = 64;  // all that is read of a slice
constexpr std::size_t sps_bytes = 512;  // an SPS with scaling lists may be longer than that
constexpr std::size_t first_bytes = 1024;
constexpr std::array<unsigned, 13> high_profiles{100, 110, 122, 244, 44,  83, 86,
                                                 118, 128, 138, 139, 134, 135};
constexpr int enough = 50;

// Reads bits of a NAL unit, without its emulation prevention bytes. Past the end, and from a code
// that is none, bad() says so and every bit is 0.
class Bits {
 public:
  Bits(const std::uint8_t* data, std::size_t bytes) {
    unsigned zeros = 0;
    for (std::size_t i = 0; i < bytes; ++i) {
      if (zeros == 2 && data[i] == 3) {
        zeros = 0;
        continue;
      }
      zeros = data[i] != 0 ? 0 : std::min(zeros + 1, 2U);
      data_.push_back(data[i]);
    }
  }

  bool bad() const noexcept { return bad_; }

  std::uint32_t read(unsigned count) {
    std::uint32_t value = 0;
    for (unsigned i = 0; i < count; ++i, ++at_) {
      bad_ = bad_ || at_ / 8 >= data_.size();
      value = (value << 1U) | (bad_ ? 0U : (data_[at_ / 8] >> (7 - at_ % 8)) & 1U);
    }
    return value;
  }

  // ue(v): Exp-Golomb.
  std::uint32_t number() {
    unsigned zeros = 0;
    while (!bad_ && read(1) == 0) bad_ = ++zeros > 31;
    return bad_ ? 0 : static_cast<std::uint32_t>((std::uint64_t{1} << zeros) - 1) + read(zeros);
  }

  // se(v).
  int signed_number() {
    const std::uint32_t code = number();
    const int half = static_cast<int>((std::uint64_t{code} + 1) / 2);
    return code % 2 == 1 ? half : -half;
  }

 private:
  std::vector<std::uint8_t> data_;
  std::size_t at_ = 0;
  bool bad_ = false;
};

// Passes over what high profiles have in front; returns separate_colour_plane_flag.
bool skip_high(Bits& bits) {
  const std::uint32_t chroma = bits.number();
  const bool separate = chroma == 3 && bits.read(1) == 1;
  bits.number();
  bits.number();
  bits.read(1);
  if (bits.read(1) == 1) {  // seq_scaling_matrix_present_flag
    for (int i = 0; i < (chroma != 3 ? 8 : 12); ++i) {
      if (bits.read(1) == 0) continue;
      int last = 8;
      int following = 8;
      for (int k = 0; k < (i < 6 ? 16 : 64); ++k) {
        if (following != 0) following = ((last + bits.signed_number()) % 256 + 256) % 256;
        if (following != 0) last = following;
      }
    }
  }
  return separate;
}

bool gaps_allowed(Bits& bits) {
  const std::uint32_t order = bits.number();
  if (order == 0) {
    bits.number();
  } else if (order == 1) {
    bits.read(1);
    bits.signed_number();
    bits.signed_number();
    const std::uint32_t cycle = std::min(bits.number(), 255U);
    for (std::uint32_t i = 0; i < cycle; ++i) bits.signed_number();
  }
  bits.number();  // max_num_ref_frames
  return bits.read(1) == 1;
}

// The next start code at or behind a place, or the end.
std::size_t start_code(const std::uint8_t* data, std::size_t at, std::size_t end) {
  for (; at + 3 <= end; ++at) {
    if (data[at] == 0 && data[at + 1] == 0 && data[at + 2] == 1) return at;
  }
  return end;
}

}  // namespace

H264Loss::H264Loss(const std::uint8_t* header, std::size_t bytes) {
  if (bytes >= 7 && header[0] == 1) {
    // An AVCDecoderConfigurationRecord (ISO/IEC 14496-15, 5.3.3.1).
    length_bytes_ = (header[4] & 3U) + 1;
    std::size_t at = 6;
    for (unsigned i = header[5] & 31U; i > 0 && at + 2 < bytes; --i) {
      const std::size_t size = header[at] * 256U + header[at + 1];
      at += 2;
      parameters({header + at, std::min(size, bytes - at)});
      at = std::min(at + size, bytes);
    }
  } else if (bytes > 0) {
    for (const Unit& unit : units(header, bytes, true)) parameters(unit);
  }
}

bool H264Loss::lost_before(const std::uint8_t* packet, std::size_t bytes, bool key) {
  const std::optional<Number> number = frame_num(packet, bytes, key);
  if (!number) return false;
  bool follows = !before_ || number->idr || number->value == (*before_ + 1) % (1U << bits_);
  follows = follows || (fields_ && number->value == *before_);
  if (number->reference || !follows) before_ = number->value;
  ++seen_;
  if (!follows) ++losses_;
  return !follows && !(seen_ >= enough && losses_ * 2 > seen_);
}

// `whole` = split all of an Annex B packet; a packet without parameter sets starts with its slice,
// or with a few small units before it.
std::vector<H264Loss::Unit> H264Loss::units(const std::uint8_t* packet, std::size_t bytes,
                                            bool whole) const {
  std::vector<Unit> found;
  if (length_bytes_ > 0) {
    std::size_t at = 0;
    while (at + length_bytes_ < bytes) {
      std::size_t size = 0;
      for (std::size_t i = 0; i < length_bytes_; ++i) size = size * 256 + packet[at + i];
      at += length_bytes_;
      size = std::min(size, bytes - at);
      if (size > 0) found.push_back({packet + at, size});
      at += size;
    }
    return found;
  }
  const std::size_t end = whole ? bytes : std::min(bytes, first_bytes);
  for (std::size_t at = start_code(packet, 0, end); at < end;) {
    const std::size_t next = start_code(packet, at + 3, end);
    const std::size_t size = (next < end ? next : bytes) - at - 3;
    if (size > 0) found.push_back({packet + at + 3, size});
    at = next;
  }
  return found;
}

std::optional<H264Loss::Number> H264Loss::frame_num(const std::uint8_t* packet, std::size_t bytes,
                                                    bool key) {
  for (const Unit& unit : units(packet, bytes, key)) {
    const int kind = unit.data[0] & 31;
    if (kind == sps) parameters(unit);
    if ((kind == slice || kind == idr_slice) && bits_ > 0) {
      Bits bits(unit.data + 1, std::min(unit.bytes - 1, head_bytes));
      bits.number();  // first_mb_in_slice
      bits.number();  // slice_type
      bits.number();  // pic_parameter_set_id
      if (separate_planes_) bits.read(2);
      const std::uint32_t value = bits.read(bits_);
      if (bits.bad()) return std::nullopt;
      return Number{value, (unit.data[0] & 0x60) != 0, kind == idr_slice};
    }
  }
  return std::nullopt;
}

// Reads a sequence parameter set (7.3.2.1.1); a broken one changes nothing.
void H264Loss::parameters(const Unit& unit) {
  if (unit.bytes == 0 || (unit.data[0] & 31) != sps) return;
  Bits bits(unit.data + 1, std::min(unit.bytes - 1, sps_bytes));
  const unsigned profile = bits.read(8);
  bits.read(16);
  bits.number();
  const bool high =
      std::find(high_profiles.begin(), high_profiles.end(), profile) != high_profiles.end();
  const bool separate = high && skip_high(bits);
  const std::uint32_t frame_num_less = bits.number();
  const bool gaps = gaps_allowed(bits);
  bits.number();  // pic_width_in_mbs_minus1
  bits.number();  // pic_height_in_map_units_minus1
  const bool fields = bits.read(1) == 0;  // frame_mbs_only_flag
  if (bits.bad() || frame_num_less > 12) return;
  separate_planes_ = separate;
  fields_ = fields;
  bits_ = gaps ? 0 : frame_num_less + 4;
}

}  // namespace vad::sources
