// Colours at model size (a part of resize_kernels.inl).

inline std::uint8_t clamped(std::int32_t sum) {
  const std::int32_t value = (sum + 32768) >> 16;
  return static_cast<std::uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

// Loops that the compiler vectorises: planes in, planes out, then interleaved.
void stretch(const ColourMatrix& matrix, const std::uint8_t* __restrict luma, int count,
             std::uint8_t* __restrict out) {
  const ColourMatrix table = matrix;
  for (int i = 0; i < count; ++i) {
    out[i] = clamped((luma[i] - table.luma_offset) * table.luma);
  }
}

void luma_of(const std::uint8_t* __restrict red, const std::uint8_t* __restrict green,
             const std::uint8_t* __restrict blue, int count, std::uint8_t* __restrict out) {
  for (int i = 0; i < count; ++i) {
    out[i] = clamped(19595 * red[i] + 38470 * green[i] + 7471 * blue[i]);
  }
}

void rgb_of(const ColourMatrix& matrix, const std::uint8_t* __restrict luma,
            const std::uint8_t* __restrict cb, const std::uint8_t* __restrict cr, int count,
            std::uint8_t* __restrict red, std::uint8_t* __restrict green,
            std::uint8_t* __restrict blue) {
  const ColourMatrix table = matrix;
  for (int i = 0; i < count; ++i) {
    const std::int32_t y = (luma[i] - table.luma_offset) * table.luma;
    const std::int32_t u = cb[i] - 128;
    const std::int32_t v = cr[i] - 128;
    red[i] = clamped(y + table.red_cr * v);
    green[i] = clamped(y - table.green_cb * u - table.green_cr * v);
    blue[i] = clamped(y + table.blue_cb * u);
  }
}

void interleave(const std::uint8_t* __restrict red, const std::uint8_t* __restrict green,
                const std::uint8_t* __restrict blue, int count, std::uint8_t* __restrict out) {
  for (int i = 0; i < count; ++i) {
    out[3 * i] = red[i];
    out[3 * i + 1] = green[i];
    out[3 * i + 2] = blue[i];
  }
}

void colours(const Colours& colours, const std::uint8_t* const* planes, std::size_t pixels,
             std::uint8_t* work, std::uint8_t* out) {
  using Kind = Colours::Kind;
  for (std::size_t at = 0; at < pixels; at += work_pixels) {
    const int count = static_cast<int>(pixels - at < work_pixels ? pixels - at : work_pixels);
    std::uint8_t* red = work;
    std::uint8_t* green = work + work_pixels;
    std::uint8_t* blue = work + 2 * work_pixels;
    switch (colours.kind) {
      case Kind::gray_to_gray:
        stretch(colours.matrix, planes[0] + at, count, out + at);
        break;
      case Kind::rgb_to_gray:
        luma_of(planes[0] + at, planes[1] + at, planes[2] + at, count, out + at);
        break;
      case Kind::gray_to_rgb:
        stretch(colours.matrix, planes[0] + at, count, red);
        interleave(red, red, red, count, out + 3 * at);
        break;
      case Kind::rgb_to_rgb:
        interleave(planes[0] + at, planes[1] + at, planes[2] + at, count, out + 3 * at);
        break;
      case Kind::yuv_to_rgb:
        rgb_of(colours.matrix, planes[0] + at, planes[1] + at, planes[2] + at, count, red, green,
               blue);
        interleave(red, green, blue, count, out + 3 * at);
        break;
    }
  }
}
