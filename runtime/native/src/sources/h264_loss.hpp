// Notices pictures of an H.264 stream that were lost on the way: vad_runtime.sources.h264_loss,
// which explains the method (frame_num of ITU-T H.264, 7.4.3).

#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace vad::sources {

// Follows `frame_num` from packet to packet. One thread.
class H264Loss {
 public:
  // The codec's header, as Annex B or avcC; empty = parameter sets are in the packets.
  H264Loss(const std::uint8_t* header, std::size_t bytes);

  // Whether a picture between the packet before and this one is missing. What cannot be read says
  // nothing. A stream that would lose every second picture counts otherwise than the standard says,
  // and is believed.
  bool lost_before(const std::uint8_t* packet, std::size_t bytes, bool key);

 private:
  struct Number {
    std::uint32_t value;
    bool reference;
    bool idr;
  };
  struct Unit {
    const std::uint8_t* data;
    std::size_t bytes;
  };

  std::vector<Unit> units(const std::uint8_t* packet, std::size_t bytes, bool whole) const;
  std::optional<Number> frame_num(const std::uint8_t* packet, std::size_t bytes, bool key);
  void parameters(const Unit& unit);

  std::size_t length_bytes_ = 0;  // of the length in front of each unit; 0 = start codes
  unsigned bits_ = 0;             // of frame_num; 0 = unknown yet, or not to be used
  bool separate_planes_ = false;
  bool fields_ = false;  // a second field has the number of the first
  std::optional<std::uint32_t> before_;
  std::int64_t seen_ = 0;
  std::int64_t losses_ = 0;
};

}  // namespace vad::sources
