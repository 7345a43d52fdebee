// Ring, HoleRule and Window.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "expect.hpp"
#include "synthetic.hpp"
#include "vad/ring.hpp"
#include "vad/window.hpp"

namespace {

using Indices = std::vector<std::int64_t>;

void put(vad::Ring& ring, std::size_t bytes, int value) {
  std::memset(ring.slot(), value, bytes);
  ring.commit();
}

// 4096 and 1024 bytes suit memory pages, 6 bytes do not, 1021 would need more than they are worth.
void a_ring_gives_the_last_frames_as_one_block_however_often_it_wraps() {
  for (const std::size_t bytes : {std::size_t{6}, std::size_t{1021}, std::size_t{1024},
                                  std::size_t{4096}, std::size_t{112 * 112 * 3}}) {
    for (const int frames : {1, 2, 5, 16}) {
      const auto ring = vad::host_ring(frames, bytes);
      for (int i = 0; i < 100; ++i) {
        put(*ring, bytes, i);
        if (i + 1 < frames) continue;
        const std::uint8_t* block = ring->latest();
        for (int frame = 0; frame < frames; ++frame) {
          const std::uint8_t* start = block + static_cast<std::size_t>(frame) * bytes;
          EXPECT(std::all_of(start, start + bytes,
                             [&](std::uint8_t b) { return b == i + 1 - frames + frame; }));
        }
      }
    }
  }
}

void a_slot_that_is_never_committed_spoils_nothing() {
  const auto ring = vad::host_ring(2, 4096);
  for (int i = 0; i < 7; ++i) {
    put(*ring, 4096, i);
    std::memset(ring->slot(), 0xEE, 4096);
    if (i > 0) EXPECT(ring->latest()[0] == i - 1 && ring->latest()[4096] == i);
  }
}

void a_ring_that_is_not_full_is_a_bug_of_the_caller() {
  const auto ring = vad::host_ring(2, 6);
  put(*ring, 6, 1);
  put(*ring, 6, 2);
  ring->clear();
  put(*ring, 6, 3);
  bool refused = false;
  try {
    ring->latest();
  } catch (const std::logic_error&) {
    refused = true;
  }
  EXPECT(refused);
}

void more_memory_than_there_is_is_one_line_for_the_user() {
  EXPECT(holds(error_of([] { vad::host_ring(2147483647, std::size_t{1} << 60); }), "no memory"));
}

void a_long_step_in_time_is_a_hole() {
  vad::HoleRule rule(25.0);
  EXPECT(!rule.cause(synthetic_frame(0, 10.0)));
  EXPECT(!rule.cause(synthetic_frame(1, 10.5)));
  EXPECT(rule.cause(synthetic_frame(2, 11.01)) == std::string("jump in time"));
  vad::HoleRule slow(2.0);  // four frames are two seconds
  EXPECT(!slow.cause(synthetic_frame(0, 0.0)));
  EXPECT(!slow.cause(synthetic_frame(1, 2.0)));
  EXPECT(slow.cause(synthetic_frame(2, 4.01)).has_value());
  vad::HoleRule live(std::nullopt);
  EXPECT(!live.cause(synthetic_frame(0, 0.0)));
  EXPECT(!live.cause(synthetic_frame(1, 1000.0)));
}

void what_the_source_says_is_a_hole_is_one() {
  vad::HoleRule rule(25.0);
  vad::Frame frame = synthetic_frame(0, 0.0);
  frame.hole = "reconnected";
  EXPECT(rule.cause(frame) == std::string("reconnected"));
  frame.damaged = true;
  EXPECT(rule.cause(frame) == std::string("reconnected"));
  frame.hole.reset();
  EXPECT(rule.cause(frame) == std::string("damaged frame"));
}

struct Stream {
  explicit Stream(const std::string& clip, std::optional<int> hop = std::nullopt)
      : spec(synthetic_manifest(R"("height": 2, "width": 3, )" + clip,
                                R"("per": "clip", "form": "x")")
                 .clip),
        ring(vad::host_ring(spec.frames, spec.frame_bytes())),
        window(spec, *ring, hop) {}

  Indices push(std::int64_t index) {
    return checked(window.push(synthetic_frame(index, static_cast<double>(index) / 25)));
  }
  Indices flush() { return checked(window.flush()); }

  // The clip's indices, after a look at each of its bytes.
  Indices checked(const std::optional<vad::Clip>& clip) const {
    if (!clip) return {};
    const std::size_t bytes = spec.frame_bytes();
    for (std::size_t frame = 0; frame < clip->indices.size(); ++frame) {
      for (std::size_t i = 0; i < bytes; ++i) {
        EXPECT(clip->pixels[frame * bytes + i] == synthetic_byte(clip->indices[frame], i));
      }
    }
    return clip->indices;
  }

  vad::ClipSpec spec;
  std::unique_ptr<vad::Ring> ring;
  vad::Window window;
};

void clips_come_a_hop_apart_and_the_tail_is_not_lost() {
  Stream stream(R"("frames": 4, "hop": 2)");
  const std::vector<Indices> expected = {{}, {}, {}, {0, 1, 2, 3}, {}, {2, 3, 4, 5}, {}};
  for (std::int64_t i = 0; i < 7; ++i) {
    EXPECT(stream.push(i) == expected[static_cast<std::size_t>(i)]);
  }
  EXPECT(stream.flush() == (Indices{3, 4, 5, 6}));
  EXPECT(stream.window.empty());
}

void a_stride_skips_frames() {
  Stream stream(R"("frames": 3, "stride": 2, "hop": 4)");
  std::vector<Indices> clips;
  for (std::int64_t i = 0; i < 10; ++i) {
    const Indices clip = stream.push(i);
    if (!clip.empty()) clips.push_back(clip);
  }
  EXPECT(clips == (std::vector<Indices>{{0, 2, 4}, {4, 6, 8}}));
  EXPECT(stream.flush().empty());
}

void no_clip_spans_a_flush() {
  Stream stream(R"("frames": 4)");
  for (std::int64_t i = 0; i < 3; ++i) EXPECT(stream.push(i).empty());
  EXPECT(stream.flush().empty());
  for (std::int64_t i = 10; i < 13; ++i) EXPECT(stream.push(i).empty());
  EXPECT(stream.push(13) == (Indices{10, 11, 12, 13}));
  EXPECT(stream.flush().empty());
}

void a_hop_that_is_no_multiple_of_the_stride_is_refused() {
  EXPECT(Stream(R"("frames": 2, "stride": 2, "hop": 2)", 6).window.hop() == 6);
  for (const int hop : {3, 0, -2}) {
    EXPECT(holds(error_of([&] { Stream(R"("frames": 2, "stride": 2, "hop": 2)", hop); }),
                 "hop must be a positive multiple of stride 2, got " + std::to_string(hop)));
  }
}

// A ring on a device that takes the pictures which lie there.
class DeviceRing final : public vad::Ring {
 public:
  std::uint8_t* slot() override { return host_; }
  void commit() override { ++written; }
  bool write_device(const vad::Image& image) override {
    if (image.width != 1) return false;
    ++taken;
    return true;
  }
  const std::uint8_t* latest() const override { return host_; }
  void clear() override {}
  int device() const noexcept override { return 3; }

  int written = 0;
  int taken = 0;

 private:
  std::uint8_t host_[6] = {};
};

class DevicePicture final : public vad::Picture {
 public:
  DevicePicture(int where, int width) : where_(where) { image_.width = width; }
  void write(const vad::ClipSpec& spec, std::uint8_t* out) override {
    std::memset(out, 0, spec.frame_bytes());
  }
  const vad::Image* on_device(int device) const override {
    return device == where_ ? &image_ : nullptr;
  }

 private:
  int where_;
  vad::Image image_;
};

void a_picture_on_the_rings_device_stays_there_where_the_ring_can_take_it() {
  const vad::ClipSpec spec = synthetic_manifest().clip;
  DeviceRing ring;
  vad::Window window(spec, ring);
  vad::Frame frame;
  const auto push = [&](int where, int width) {
    frame.picture = std::make_unique<DevicePicture>(where, width);
    window.push(frame);
  };
  push(3, 1);
  EXPECT(ring.taken == 1 && ring.written == 0);
  push(3, 2);  // the ring says that it cannot
  EXPECT(ring.taken == 1 && ring.written == 1);
  push(0, 1);  // another device
  EXPECT(ring.taken == 1 && ring.written == 2);
}

}  // namespace

int main() {
  a_ring_gives_the_last_frames_as_one_block_however_often_it_wraps();
  a_slot_that_is_never_committed_spoils_nothing();
  a_ring_that_is_not_full_is_a_bug_of_the_caller();
  more_memory_than_there_is_is_one_line_for_the_user();
  a_long_step_in_time_is_a_hole();
  what_the_source_says_is_a_hole_is_one();
  clips_come_a_hop_apart_and_the_tail_is_not_lost();
  a_stride_skips_frames();
  no_clip_spans_a_flush();
  a_hop_that_is_no_multiple_of_the_stride_is_refused();
  a_picture_on_the_rings_device_stays_there_where_the_ring_can_take_it();
  std::puts("window: all expectations hold");
}
