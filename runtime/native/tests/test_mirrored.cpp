// A plain program: the first broken expectation prints where it stands and exits 1.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <type_traits>
#include <vector>

#include "vad/mirrored.hpp"

#define EXPECT(condition)                                                      \
  do {                                                                         \
    if (!(condition)) {                                                        \
      std::fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                            \
    }                                                                          \
  } while (false)

namespace {

using vad::MirroredBuffer;

const std::size_t page = MirroredBuffer::page_size();

void both_halves_are_the_same_memory() {
  MirroredBuffer buffer(3 * page);
  const std::size_t n = buffer.capacity();
  EXPECT(n == 3 * page);
  for (std::size_t i = 0; i < 2 * n; ++i) EXPECT(buffer.data()[i] == 0);
  for (std::size_t i = 0; i < n; ++i) {
    buffer.data()[i] = static_cast<std::uint8_t>(i * 31 + 7);
    EXPECT(buffer.data()[n + i] == buffer.data()[i]);
    buffer.data()[n + i] ^= 0x5a;
    EXPECT(buffer.data()[n + i] == buffer.data()[i]);
  }
}

void a_write_over_the_seam_wraps() {
  MirroredBuffer buffer(page);
  const std::string text = "over the seam";
  std::memcpy(buffer.data() + page - 4, text.data(), text.size());
  EXPECT(std::memcmp(buffer.data(), text.data() + 4, text.size() - 4) == 0);
  EXPECT(std::memcmp(buffer.data() + 2 * page - 4, text.data(), 4) == 0);
}

void two_buffers_do_not_share() {
  MirroredBuffer one(page);
  MirroredBuffer two(page);
  one.data()[0] = 1;
  EXPECT(two.data()[0] == 0);
  EXPECT(two.data()[page] == 0);
}

void a_size_that_cannot_be_is_refused() {
  for (std::size_t bytes : {std::size_t{0}, std::size_t{1}, page - 1, page + 1, ~(page - 1)}) {
    bool refused = false;
    try {
      MirroredBuffer buffer(bytes);
    } catch (const std::invalid_argument& error) {
      refused = std::string(error.what()).find(std::to_string(bytes)) != std::string::npos;
    }
    EXPECT(refused);
  }
}

void more_than_the_address_space_is_a_system_error() {
  bool failed = false;
  try {
    MirroredBuffer buffer(std::size_t{1} << 61);
  } catch (const std::system_error& error) {
    failed = error.code() == std::errc::not_enough_memory;
  }
  EXPECT(failed);
}

std::size_t open_files() {
  const std::filesystem::directory_iterator files("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(files), end(files)));
}

std::size_t ring_maps() {
  std::ifstream maps("/proc/self/maps");
  std::size_t count = 0;
  for (std::string line; std::getline(maps, line);) {
    if (line.find("vad-ring") != std::string::npos) ++count;
  }
  return count;
}

void nothing_leaks() {
  const std::size_t files = open_files();
  EXPECT(ring_maps() == 0);
  for (int i = 0; i < 5000; ++i) {
    MirroredBuffer buffer(2 * page);
    buffer.data()[i % page] = 1;
  }
  EXPECT(ring_maps() == 0);
  {
    std::vector<std::unique_ptr<MirroredBuffer>> alive;
    for (int i = 0; i < 10; ++i) alive.push_back(std::make_unique<MirroredBuffer>(page));
    EXPECT(ring_maps() == 20);      // the kernel does not merge the two halves
    EXPECT(open_files() == files);  // a live buffer holds no file descriptor either
  }
  EXPECT(ring_maps() == 0);
  EXPECT(open_files() == files);
}

}  // namespace

int main() {
  static_assert(!std::is_copy_constructible_v<MirroredBuffer>);
  static_assert(!std::is_move_constructible_v<MirroredBuffer>);
  both_halves_are_the_same_memory();
  a_write_over_the_seam_wraps();
  two_buffers_do_not_share();
  a_size_that_cannot_be_is_refused();
  more_than_the_address_space_is_a_system_error();
  nothing_leaks();
  std::puts("mirrored: all expectations hold");
}
