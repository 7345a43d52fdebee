#include "vad/mirrored.hpp"

#include <cerrno>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <system_error>

#include <sys/mman.h>
#include <unistd.h>

namespace vad {
namespace {

[[noreturn]] void throw_errno(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

// Closes its file descriptor; the mappings outlive it.
class MemoryFile {
 public:
  explicit MemoryFile(std::size_t bytes) : fd_(memfd_create("vad-ring", MFD_CLOEXEC)) {
    if (fd_ < 0) throw_errno("memfd_create");
    if (ftruncate(fd_, static_cast<off_t>(bytes)) != 0) {
      const int error = errno;  // close() may change it
      close(fd_);
      errno = error;
      throw_errno("ftruncate of " + std::to_string(bytes) + " bytes");
    }
  }
  ~MemoryFile() { close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  int fd() const noexcept { return fd_; }

 private:
  int fd_;
};

// A stretch of address space; unmapped unless release() was called.
class Reservation {
 public:
  explicit Reservation(std::size_t bytes)
      : start_(mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)),
        bytes_(bytes) {
    if (start_ == MAP_FAILED) throw_errno("mmap of " + std::to_string(bytes) + " bytes");
  }
  ~Reservation() {
    if (start_ != nullptr) munmap(start_, bytes_);
  }
  Reservation(const Reservation&) = delete;
  Reservation& operator=(const Reservation&) = delete;

  std::uint8_t* start() const noexcept { return static_cast<std::uint8_t*>(start_); }
  std::uint8_t* release() noexcept {
    std::uint8_t* start = this->start();
    start_ = nullptr;
    return start;
  }

 private:
  void* start_;
  std::size_t bytes_;
};

void check(std::size_t bytes) {
  const std::size_t page = MirroredBuffer::page_size();
  if (bytes == 0 || bytes % page != 0) {
    throw std::invalid_argument("bytes must be a positive multiple of the page size " +
                                std::to_string(page) + ", not " + std::to_string(bytes));
  }
  if (bytes > PTRDIFF_MAX / 2) {
    throw std::invalid_argument("bytes must leave room for two mappings, and " +
                                std::to_string(bytes) + " does not");
  }
}

}  // namespace

std::size_t MirroredBuffer::page_size() noexcept {
  return static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

MirroredBuffer::MirroredBuffer(std::size_t bytes) : data_(nullptr), capacity_(bytes) {
  check(bytes);
  // Reserving both halves first keeps another thread's mmap from taking the second one.
  Reservation reservation(2 * bytes);
  const MemoryFile file(bytes);
  for (std::uint8_t* half : {reservation.start(), reservation.start() + bytes}) {
    if (mmap(half, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file.fd(), 0) ==
        MAP_FAILED) {
      throw_errno("mmap of one half of " + std::to_string(bytes) + " bytes");
    }
  }
  data_ = reservation.release();
}

MirroredBuffer::~MirroredBuffer() { munmap(data_, 2 * capacity_); }

}  // namespace vad
