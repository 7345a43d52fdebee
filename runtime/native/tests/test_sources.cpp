// Sources that need no library, and what all sources share. Films and cameras are compared with
// Python in tests/runtime/test_cpp_sources.py.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <sys/stat.h>

#include "expect.hpp"
#include "sources/address.hpp"
#include "sources/clock.hpp"
#include "sources/folder.hpp"
#include "sources/live.hpp"
#include "sources/picture.hpp"
#include "temporary_folder.hpp"
#include "vad/source.hpp"

namespace {

using vad::sources::masked;

vad::ClipSpec spec_of(int height, int width, vad::Colour colour) {
  vad::ClipSpec spec;
  spec.frames = 1;
  spec.height = height;
  spec.width = width;
  spec.colour = colour;
  spec.resizer = vad::ResizerKind::portable;
  return spec;
}

const vad::ClipSpec gray = spec_of(2, 2, vad::Colour::gray);

// `count` frames of 4 x 4 pixels with all samples of one level: 10, 20, 30, …
std::string y4m(const std::string& header, int count, std::size_t bytes) {
  std::string text = "YUV4MPEG2 " + header + "\n";
  for (int i = 1; i <= count; ++i) {
    text += "FRAME\n" + std::string(bytes, static_cast<char>(10 * i));
  }
  return text;
}

std::vector<vad::Frame> frames_of(vad::Source& source) {
  std::vector<vad::Frame> frames;
  for (vad::Frame frame; source.next(frame); frame = {}) frames.push_back(std::move(frame));
  return frames;
}

int level(const vad::Frame& frame) {
  std::vector<std::uint8_t> pixels(gray.frame_bytes());
  frame.picture->write(gray, pixels.data());
  for (const std::uint8_t pixel : pixels) EXPECT(pixel == pixels[0]);
  return pixels[0];
}

void every_variant_of_y4m_is_read() {
  const TemporaryFolder folder;
  const std::vector<std::pair<std::string, std::size_t>> variants{
      {"", 24},        {" C420", 24},   {" C420jpeg", 24}, {" C420mpeg2", 24},
      {" C420paldv", 24}, {" C422", 32}, {" C444", 48},     {" C411", 24},
  };
  for (const auto& [name, bytes] : variants) {
    write_file(folder / "film", y4m("W4 H4 F30000:1001 Ip A1:1 XCOLORRANGE=FULL" + name, 3, bytes));
    const auto source = vad::open_source(folder / "film", gray, {});
    EXPECT(source->info().kind == "video file");
    EXPECT(source->info().width == 4 && source->info().height == 4);
    EXPECT(source->info().fps == 30000.0 / 1001.0);
    const std::vector<vad::Frame> frames = frames_of(*source);
    EXPECT(frames.size() == 3);
    EXPECT(frames[2].index == 2 && frames[2].pts_s == 2 * 1001.0 / 30000.0);
    EXPECT(level(frames[0]) == 10 && level(frames[2]) == 30);
    EXPECT(source->stats().frames == 3 && source->stats().notes.empty());
  }
}

void grey_is_full_range_unless_it_says_otherwise() {
  const TemporaryFolder folder;
  write_file(folder / "full.y4m", y4m("W4 H4 F25:1 Cmono", 2, 16));
  EXPECT(level(frames_of(*vad::open_source(folder / "full.y4m", gray, {}))[1]) == 20);
  write_file(folder / "limited.y4m", y4m("W4 H4 F25:1 Cmono XCOLORRANGE=LIMITED", 2, 16));
  EXPECT(level(frames_of(*vad::open_source(folder / "limited.y4m", gray, {}))[1]) == 5);
}

void an_odd_size_has_one_more_sample_of_chroma() {
  const TemporaryFolder folder;
  write_file(folder / "film.y4m", y4m("W5 H3 F25:1", 2, 15 + 2 * 3 * 2));
  EXPECT(frames_of(*vad::open_source(folder / "film.y4m", gray, {})).size() == 2);
}

void a_picture_that_is_too_large_is_refused_in_one_line() {
  const std::vector<std::uint8_t> row(65536);
  vad::Image image;
  image.width = 65536;
  image.height = 1;
  image.planes[0] = {row.data(), 65536, 65536, 1};
  vad::sources::Portable portable;
  std::vector<std::uint8_t> out(gray.frame_bytes());
  const std::string error = error_of([&] { portable.write(image, gray.target(), out.data()); });
  EXPECT(holds(error, "65536 x 1 is too large for the resizer portable"));
  EXPECT(holds(error, "--resizer fast"));
}

void what_is_no_y4m_of_8_bits_is_refused() {
  const TemporaryFolder folder;
  for (const char* header : {"W4 H4 F25:1 C420p10", "W4 H4 F25:1 C444alpha", "W0 H4 F25:1", "H4",
                             "W70000 H4", "W4 H4 F25", "W4 H4 Fx:1", "W-4 H4", "W4.5 H4"}) {
    write_file(folder / "film.y4m", y4m(header, 1, 64));
    const std::string error =
        error_of([&] { vad::open_source(folder / "film.y4m", gray, {}); });
    EXPECT(holds(error, "film.y4m is no YUV4MPEG2 video that can be read ("));
  }
}

void a_message_holds_no_more_of_a_file_than_can_be_shown() {
  const TemporaryFolder folder;
  write_file(folder / "film.y4m", y4m("W4 H4 C\xff\x1b[2J" + std::string(3000, 'x'), 1, 24));
  const std::string error = error_of([&] { vad::open_source(folder / "film.y4m", gray, {}); });
  EXPECT(holds(error, "its colour space is ??[2Jxxx") && holds(error, "x…). Make one"));
  EXPECT(error.size() < folder.path().size() + 250);
}

void a_header_that_promises_too_much_costs_nothing() {
  const TemporaryFolder folder;
  write_file(folder / "film.y4m", y4m("W65535 H65535 C444", 1, 24));
  EXPECT(holds(error_of([&] { vad::open_source(folder / "film.y4m", gray, {}); }),
               "its size is 65535 x 65535"));
  write_file(folder / "film.y4m", y4m("W16000 H16000 C444", 1, 24));
  const auto source = vad::open_source(folder / "film.y4m", gray, {});
  vad::Frame frame;
  EXPECT(holds(error_of([&] { source->next(frame); }), "holds no frame that decodes"));
}

#if VAD_WITH_FFMPEG
void swscale_is_told_how_large_chroma_is() {
  const TemporaryFolder folder;
  vad::ClipSpec spec = spec_of(24, 32, vad::Colour::rgb);
  spec.resizer = vad::ResizerKind::fast;
  // Luma of 100; chroma of 40 and 200. A wrong layout would read past the last plane.
  const std::vector<std::pair<std::string, std::size_t>> variants{
      {"420", 32 * 24}, {"422", 32 * 48}, {"411", 16 * 48}, {"444", 64 * 48}};
  for (const auto& [name, bytes] : variants) {
    write_file(folder / "film.y4m", "YUV4MPEG2 W64 H48 C" + name + "\nFRAME\n" +
                                        std::string(64 * 48, 100) + std::string(bytes, 40) +
                                        std::string(bytes, static_cast<char>(200)));
    std::vector<std::uint8_t> pixels(spec.frame_bytes());
    frames_of(*vad::open_source(folder / "film.y4m", spec, {}))[0].picture->write(spec,
                                                                                pixels.data());
    for (std::size_t i = 0; i < pixels.size(); ++i) EXPECT(pixels[i] == pixels[i % 3]);
    EXPECT(pixels[0] > 200 && pixels[2] < 20);
  }
}
#endif

void a_film_that_ends_early_says_so() {
  const TemporaryFolder folder;
  const std::string whole = y4m("W4 H4 F25:1", 3, 24);
  for (const std::size_t missing : {1U, 24U, 27U}) {
    write_file(folder / "film.y4m", whole.substr(0, whole.size() - missing));
    const auto source = vad::open_source(folder / "film.y4m", gray, {});
    EXPECT(frames_of(*source).size() == 2);
    EXPECT(source->stats().notes.size() == 1);
    EXPECT(holds(source->stats().notes[0], "reading stopped early"));
  }
  write_file(folder / "film.y4m", y4m("W4 H4 F25:1", 0, 0));
  const auto source = vad::open_source(folder / "film.y4m", gray, {});
  vad::Frame frame;
  EXPECT(holds(error_of([&] { source->next(frame); }), "holds no frame that decodes"));
}

void a_pipe_is_read_and_stopping_ends_the_wait() {
  const TemporaryFolder folder;
  const std::string pipe = folder / "pipe";
  EXPECT(mkfifo(pipe.c_str(), 0600) == 0);
  std::FILE* writer = nullptr;
  std::thread thread([&] {
    writer = std::fopen(pipe.c_str(), "wb");
    const std::string start = y4m("W4 H4 F25:1", 2, 24);
    std::fwrite(start.data(), 1, start.size(), writer);
    std::fflush(writer);
  });
  const auto source = vad::open_source(pipe, gray, {});
  vad::Frame frame;
  EXPECT(source->next(frame) && source->next(frame));
  thread.join();
  std::thread stopper([&] { source->stop(); });
  EXPECT(!source->next(frame));  // would wait for ever
  stopper.join();
  std::fclose(writer);
}

void a_wrong_name_is_refused_in_one_line() {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "empty");
  const auto refusal = [](const std::string& name) {
    return error_of([&] { vad::open_source(name, gray, {}); });
  };
  EXPECT(holds(refusal(folder / "nothing"), "does not exist. Check the path."));
  EXPECT(holds(refusal(folder / "empty"), "holds no frames. Give a video file"));
  EXPECT(holds(refusal(""), "the source is empty"));
  EXPECT(holds(refusal("gopher://host/x"), "unknown protocol"));
  EXPECT(holds(refusal("rtsp:///stream"), "names no host"));
  EXPECT(holds(refusal("rtsp://me:secret@host/a b"), "rtsp://***@host/a b holds a space"));
  EXPECT(holds(refusal("me:secret@192.168.1.9/live"), "***@192.168.1.9/live names no protocol"));
  vad::SourceOptions options;
  options.decoder = "nvdec";
  EXPECT(holds(error_of([&] { vad::open_source(folder.path(), gray, options); }),
               "is a recording, which is decoded in software and not by nvdec"));
}

void credentials_are_masked() {
  EXPECT(masked("rtsp://admin:hunter2@cam/1") == "rtsp://***@cam/1");
  EXPECT(masked("rtsp://admin:p/a@ss@cam/1") == "rtsp://***@cam/1");
  EXPECT(masked("http://cam/x?user=a&password=b&n=1") == "http://cam/x?user=***&password=***&n=1");
  EXPECT(masked("rtspsrc location=rtsp://cam user-pw=\"a b\" ! x") ==
         "rtspsrc location=rtsp://cam user-pw=\"***\" ! x");
  EXPECT(masked("http://host/path@2") == "http://host/path@2");
}

// Frames as they come from a script.
class Script final : public vad::Source {
 public:
  Script(const std::string& kind, int count, bool fails) : count_(count), fails_(fails) {
    info_.kind = kind;
  }
  const vad::SourceInfo& info() const override { return info_; }
  const vad::SourceStats& stats() const override { return stats_; }
  const std::atomic<int>& given() const { return given_; }
  void stop() override { stopped_ = true; }
  bool next(vad::Frame& frame) override {
    if (stopped_) return false;
    if (given_ == count_ && fails_) throw vad::Error("the camera burns. Put it out.");
    if (given_ == count_) return false;
    frame.index = given_;
    stats_.frames = ++given_;
    return true;
  }

 private:
  vad::SourceInfo info_;
  vad::SourceStats stats_;
  int count_;
  bool fails_;
  std::atomic<int> given_{0};
  std::atomic<bool> stopped_{false};
};

void prefetching_a_recording_loses_nothing() {
  const auto source = vad::prefetched(std::make_unique<Script>("video file", 500, false), 3);
  std::int64_t next = 0;
  for (vad::Frame frame; source->next(frame);) EXPECT(frame.index == next++ && !frame.hole);
  EXPECT(next == 500 && source->stats().frames == 500);
}

void an_error_comes_behind_the_frames_before_it() {
  const auto source = vad::prefetched(std::make_unique<Script>("video file", 5, true), 8);
  int frames = 0;
  const std::string error = error_of([&] {
    for (vad::Frame frame; source->next(frame);) ++frames;
  });
  EXPECT(frames == 5 && holds(error, "burns"));
}

void a_camera_never_waits_and_says_what_was_dropped() {
  auto script = std::make_unique<Script>("live stream", 1000, false);
  const std::atomic<int>& given = script->given();
  const auto source = vad::prefetched(std::move(script), 4);
  // Nobody reads while it runs, so the queue is emptied again and again.
  while (given < 1000) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::int64_t before = -1;
  std::int64_t missing = 0;
  for (vad::Frame frame; source->next(frame);) {
    EXPECT((frame.hole == "frames dropped") == (frame.index != before + 1));
    missing += frame.index - before - 1;
    before = frame.index;
  }
  EXPECT(before == 999 && missing >= 900);
  EXPECT(source->stats().dropped.at("frames dropped") == missing);
}

void a_prefetched_source_can_be_dropped_at_any_time() {
  for (int i = 0; i < 50; ++i) {
    const auto source = vad::prefetched(std::make_unique<Script>("video file", 100, false), 2);
    vad::Frame frame;
    for (int k = 0; k < i % 4; ++k) EXPECT(source->next(frame));
  }
}

// A connection that gives pictures and then breaks.
class Broken final : public vad::sources::Connection {
 public:
  explicit Broken(int number) : number_(number) { info_.fps = 25.0; }
  const vad::SourceInfo& info() const override { return info_; }
  const std::string& decoder() const override { return decoder_; }
  void stop() override {}
  bool next(vad::sources::LiveImage& image, double) override {
    if (given_ == 3 && number_ == 0) throw vad::sources::ConnectionFailed("cam", "gone");
    if (given_ == 3 && number_ == 1) {
      throw vad::sources::ConnectionFailed("cam", "silent", false, true);
    }
    if (given_ == 3) return false;
    image.picture = std::make_unique<Flat>(10 * number_ + given_);
    image.width = image.height = 4;
    image.pts_s = 0.04 * given_++;
    return true;
  }

 private:
  struct Flat final : vad::Picture {
    explicit Flat(int value) : level(value) {}
    void write(const vad::ClipSpec& spec, std::uint8_t* out) override {
      std::fill_n(out, spec.frame_bytes(), static_cast<std::uint8_t>(level));
    }
    int level;
  };
  int number_;
  int given_ = 0;
  vad::SourceInfo info_;
  std::string decoder_ = "software test";
};

void a_lost_camera_is_sought_again_and_the_hole_says_why() {
  int connections = 0;
  std::vector<std::string> lines;
  const auto address = vad::sources::address_from_text("rtsp://me:secret@cam/1");
  const auto source = vad::sources::open_live(
      address, gray, [&] { return std::make_unique<Broken>(connections++); },
      [&](const std::string& line) { lines.push_back(line); });
  EXPECT(source->info().name == "rtsp://***@cam/1" && source->info().kind == "live stream");
  std::vector<std::string> holes;
  double before_s = -1.0;
  for (int i = 0; i < 12; ++i) {
    vad::Frame frame;
    EXPECT(source->next(frame));
    EXPECT(frame.index == i && frame.pts_s > before_s);
    before_s = frame.pts_s;
    EXPECT(level(frame) == 10 * (i / 3) + i % 3);
    holes.push_back(frame.hole.value_or(""));
  }
  EXPECT((holes == std::vector<std::string>{"", "", "", "reconnected", "", "", "stalled", "", "",
                                            "reconnected", "", ""}));
  source->stop();
  vad::Frame frame;
  EXPECT(!source->next(frame));
  EXPECT(source->stats().connections == 4 && source->stats().holes.at("reconnected") == 2);
  EXPECT(lines.front() == "rtsp://***@cam/1: live: 4x4, 25 fps, software test");
  EXPECT(lines[1] == "rtsp://***@cam/1: lost: gone");
  EXPECT(lines.back() == "rtsp://***@cam/1: ended");
  for (const std::string& line : lines) EXPECT(!holds(line, "secret"));
}

void a_picture_that_nothing_can_be_done_with_does_not_end_a_camera() {
  class Odd final : public vad::sources::Connection {
   public:
    const vad::SourceInfo& info() const override { return info_; }
    const std::string& decoder() const override { return decoder_; }
    void stop() override {}
    bool next(vad::sources::LiveImage& image, double) override {
      image.picture = std::make_unique<Page>(given_++ == 1);
      image.width = image.height = 4;
      image.pts_s = 0.04 * given_;
      return true;
    }

   private:
    struct Page final : vad::Picture {
      explicit Page(bool is_odd) : odd(is_odd) {}
      void write(const vad::ClipSpec& spec, std::uint8_t* out) override {
        if (odd) throw std::invalid_argument("odd");
        std::fill_n(out, spec.frame_bytes(), std::uint8_t{7});
      }
      bool odd;
    };
    int given_ = 0;
    vad::SourceInfo info_;
    std::string decoder_ = "software test";
  };
  std::vector<std::string> lines;
  const auto source = vad::sources::open_live(
      vad::sources::address_from_text("rtsp://cam/1"), gray,
      [] { return std::make_unique<Odd>(); },
      [&](const std::string& line) { lines.push_back(line); });
  vad::Frame frame;
  EXPECT(source->next(frame) && !frame.hole);
  EXPECT(source->next(frame) && frame.hole == "reconnected");
  EXPECT(lines[1] == "rtsp://cam/1: lost: odd");
}

void a_camera_that_is_not_there_is_an_error_at_once() {
  const auto address = vad::sources::address_from_text("rtsp://cam/1");
  const std::string error = error_of([&] {
    vad::sources::open_live(
        address, gray,
        []() -> std::unique_ptr<vad::sources::Connection> {
          throw vad::sources::ConnectionFailed("rtsp://cam/1", "connection refused");
        },
        nullptr);
  });
  EXPECT(error == "rtsp://cam/1: connection refused. Check the camera and the network.");
}

void a_clock_that_steps_back_is_repaired() {
  vad::SourceStats stats;
  vad::sources::Clock clock(10.0, stats);
  EXPECT(clock.stamp(5.0) == 0.0);
  EXPECT(clock.stamp(5.1) - 0.1 < 1e-9);
  EXPECT(clock.stamp(5.1) > 0.15);  // the same time twice: the nominal step
  EXPECT(stats.timestamps_repaired == 1 && !clock.jumped());
  clock.stamp(1.0);  // starts over
  EXPECT(clock.jumped() && stats.timestamps_repaired == 2);
  const double before_s = clock.last_s();
  EXPECT(clock.stamp(1.1) - before_s - 0.1 < 1e-9 && !clock.jumped());
}

void numbers_in_names_count_as_numbers() {
  using vad::sources::natural_less;
  EXPECT(natural_less("2.jpg", "10.jpg") && !natural_less("10.jpg", "2.jpg"));
  EXPECT(natural_less("a9b2", "a09b10") && !natural_less("b", "A"));
  EXPECT(!natural_less("007", "7") && !natural_less("7", "007"));
  EXPECT(natural_less("99999999999999999999", "100000000000000000000"));
}

}  // namespace

int main() {
  every_variant_of_y4m_is_read();
  grey_is_full_range_unless_it_says_otherwise();
  an_odd_size_has_one_more_sample_of_chroma();
  what_is_no_y4m_of_8_bits_is_refused();
  a_picture_that_is_too_large_is_refused_in_one_line();
  a_message_holds_no_more_of_a_file_than_can_be_shown();
  a_header_that_promises_too_much_costs_nothing();
#if VAD_WITH_FFMPEG
  swscale_is_told_how_large_chroma_is();
#endif
  a_film_that_ends_early_says_so();
  a_pipe_is_read_and_stopping_ends_the_wait();
  a_wrong_name_is_refused_in_one_line();
  credentials_are_masked();
  prefetching_a_recording_loses_nothing();
  an_error_comes_behind_the_frames_before_it();
  a_camera_never_waits_and_says_what_was_dropped();
  a_prefetched_source_can_be_dropped_at_any_time();
  a_lost_camera_is_sought_again_and_the_hole_says_why();
  a_picture_that_nothing_can_be_done_with_does_not_end_a_camera();
  a_camera_that_is_not_there_is_an_error_at_once();
  a_clock_that_steps_back_is_repaired();
  numbers_in_names_count_as_numbers();
  std::puts("sources: all expectations hold");
}
