// The last T frames as one block, where the engine reads it.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "vad/image.hpp"

namespace vad {

// One thread writes and reads.
class Ring {
 public:
  virtual ~Ring() = default;

  // Host memory for the next frame; whoever writes there calls commit() behind it.
  virtual std::uint8_t* slot() = 0;
  virtual void commit() = 0;
  // Takes a picture whose planes lie on the ring's device, resizing it there. False = this ring
  // cannot, nothing was done: write to slot().
  virtual bool write_device(const Image& image) {
    (void)image;
    return false;
  }
  // The last T committed frames, oldest first, contiguous; host or device memory, as the back end
  // that made the ring wants it. Valid until the next slot().
  virtual const std::uint8_t* latest() const = 0;
  virtual void clear() = 0;
  // CUDA index of the device where latest() lies; -1 = host.
  virtual int device() const noexcept { return -1; }
};

// In host memory: mirrored (each frame is written once) where the frame's size suits memory pages,
// else in two halves (commit() copies the frame once).
std::unique_ptr<Ring> host_ring(int frames, std::size_t frame_bytes);

}  // namespace vad
