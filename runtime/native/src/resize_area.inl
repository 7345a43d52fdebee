// The area filter (a part of resize_kernels.inl): down first, across second.
//
// Rows of bytes are added up to 16-bit sums, a tile of output rows at a time; the tile is then
// turned by 90 degrees, so that the sums across are additions of whole vectors too, one output row
// in every lane.

// Rows of the source that one output row covers: a part of `above`, `count` whole ones from `first`
// on, a part of `below`. A row whose part is 0 is some row of the picture all the same.
struct Cover {
  const std::uint8_t* above;
  const std::uint8_t* first;
  const std::uint8_t* below;
  std::ptrdiff_t stride;
  int count;
  std::uint32_t above_part;
  std::uint32_t below_part;
  std::uint32_t parts;
};

inline Cover cover_of(const Area& job, int output) {
  const Edge begin = job.rows[output];
  const Edge end = job.rows[output + 1];
  const std::uint32_t above_part = begin.fraction == 0 ? 0 : job.row_parts - begin.fraction;
  const int first = begin.index + (above_part != 0);
  const auto row = [&](int y) {
    // An index of one past the end comes with a weight of 0 or a count of 0.
    const int last = job.source.height - 1;
    return job.source.data + job.source.stride * (y < last ? y : last);
  };
  return {row(begin.index), row(first), row(end.index), job.source.stride,
          end.index - first, above_part, end.fraction, job.row_parts};
}

inline Wide words_at(const std::uint8_t* bytes) {
  return *reinterpret_cast<const WideLoose*>(bytes);
}

// Bytes are added up two by two, as words of 16 bits: `both` is the sum of the even columns and 256
// times that of the odd ones, modulo 2^16. No byte has to be moved into a word of its own; even
// and odd columns go to the two halves of a row of sums, and turn_sums() brings them together.
template <int vectors>
inline void sum_strip(const Cover& cover, int x, std::uint16_t* even_sums,
                      std::uint16_t* odd_sums) {
  Wide both[vectors] = {};
  Wide odd[vectors] = {};
  const std::uint8_t* row = cover.first + x;
  for (int y = 0; y < cover.count; ++y, row += cover.stride) {
#pragma GCC unroll 4
    for (int i = 0; i < vectors; ++i) {
      const Wide words = words_at(row + i * VAD_VECTOR_BYTES);
      both[i] += words;
      odd[i] += words >> 8;
    }
  }
  const Wide parts = Wide{} + static_cast<std::uint16_t>(cover.parts);
  const Wide above_part = Wide{} + static_cast<std::uint16_t>(cover.above_part);
  const Wide below_part = Wide{} + static_cast<std::uint16_t>(cover.below_part);
#pragma GCC unroll 4
  for (int i = 0; i < vectors; ++i) {
    const int at = x + i * VAD_VECTOR_BYTES;
    const Wide above = words_at(cover.above + at);
    const Wide below = words_at(cover.below + at);
    const Wide even = both[i] - (odd[i] << 8);
    *reinterpret_cast<WideLoose*>(even_sums + at / 2) =
        even * parts + (above & 255) * above_part + (below & 255) * below_part;
    *reinterpret_cast<WideLoose*>(odd_sums + at / 2) =
        odd[i] * parts + (above >> 8) * above_part + (below >> 8) * below_part;
  }
}

std::uint16_t column_sum(const Cover& cover, int x) {
  std::uint32_t whole = 0;
  for (int y = 0; y < cover.count; ++y) whole += cover.first[cover.stride * y + x];
  return static_cast<std::uint16_t>(whole * cover.parts + cover.above[x] * cover.above_part +
                                    cover.below[x] * cover.below_part);
}

// Columns [begin, end), from an even one on: weighted sums that fit 16 bits. The last strip
// overlaps the one before it, so that nothing beyond the row is read.
void sum_down(const Cover& cover, int begin, int end, std::uint16_t* even_sums,
              std::uint16_t* odd_sums) {
  constexpr int vectors = 4;
  constexpr int strip = vectors * VAD_VECTOR_BYTES;
  int x = begin;
  for (; x + strip <= end; x += strip) sum_strip<vectors>(cover, x, even_sums, odd_sums);
  for (; x + VAD_VECTOR_BYTES <= end; x += VAD_VECTOR_BYTES) {
    sum_strip<1>(cover, x, even_sums, odd_sums);
  }
  const int even_end = end / 2 * 2;
  if (x < even_end && even_end >= VAD_VECTOR_BYTES) {
    sum_strip<1>(cover, even_end - VAD_VECTOR_BYTES, even_sums, odd_sums);
    x = even_end;
  }
  for (; x < end; ++x) {
    std::uint16_t* sums = x % 2 == 0 ? even_sums : odd_sums;
    sums[x / 2] = column_sum(cover, x);
  }
}

// From `lanes` rows of sums to columns of them, every second column at a time.
void turn_sums(const Area& job, int begin, int end) {
  for (int x = begin; x < end; x += 2 * lanes) {
    for (int parity = 0; parity < 2; ++parity) {
      const std::uint16_t* sums = job.sums + job.pitch / 2 * parity + x / 2;
      std::uint16_t* turned = job.turned + static_cast<std::size_t>(x + parity) * lanes;
      Lanes block[lanes];
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) {
        block[i] = *reinterpret_cast<const LanesLoose*>(sums + job.pitch * i);
      }
      turn(block);
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) {
        *reinterpret_cast<LanesLoose*>(turned + 2 * i * lanes) = block[i];
      }
    }
  }
}

// Sums up to each edge, modulo 2^32; the difference of two edges is an output's exact sum.
void sum_across(const Area& job, int channel) {
  const Quotient quotient(job.divisor.total);
  const Halves half = Halves{} + static_cast<std::uint32_t>(job.divisor.half);
  const Halves mask = Halves{} + 0xffffU;
  const std::size_t step = static_cast<std::size_t>(job.source.step) * lanes;
  const std::uint16_t* columns = job.turned + static_cast<std::size_t>(channel) * lanes;
  Halves even{};  // running sums of whole columns
  Halves odd{};
  Halves even_before{};
  Halves odd_before{};
  int x = 0;
  const std::uint16_t* column = columns;
  for (int j = 0; j < job.width; ++j) {
    const Edge edge = job.columns[j + 1];
    for (; x < edge.index; ++x, column += step) {
      const Halves sums = *reinterpret_cast<const HalvesLoose*>(column);
      even += sums & mask;
      odd += sums >> 16;
    }
    // At the right end, the fraction is 0 and the column one of padding.
    const Halves sums = *reinterpret_cast<const HalvesLoose*>(column);
    const Halves even_now = even * job.column_parts + (sums & mask) * edge.fraction;
    const Halves odd_now = odd * job.column_parts + (sums >> 16) * edge.fraction;
    const Halves low = quotient(even_now - even_before + half);
    const Halves high = quotient(odd_now - odd_before + half);
    even_before = even_now;
    odd_before = odd_now;
    *reinterpret_cast<HalvesLoose*>(job.quotients + static_cast<std::size_t>(j) * lanes) =
        low | (high << 16);
  }
}

void turn_back(const Area& job, int top, int channel) {
  const int rows = job.height - top < lanes ? job.height - top : lanes;
  for (int j = 0; j < job.width; j += lanes) {
    Lanes block[lanes];
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) {
      block[i] = *reinterpret_cast<const LanesLoose*>(job.quotients +
                                                      static_cast<std::size_t>(j + i) * lanes);
    }
    turn(block);
    std::uint8_t* out = job.out[channel] + static_cast<std::size_t>(top) * job.width + j;
    if (rows == lanes && j + lanes <= job.width) {
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) {
        *reinterpret_cast<Bytes*>(out + static_cast<std::size_t>(i) * job.width) =
            __builtin_convertvector(block[i], Bytes);
      }
      continue;
    }
    const int columns = job.width - j < lanes ? job.width - j : lanes;
    for (int i = 0; i < rows; ++i) {
      for (int k = 0; k < columns; ++k) {
        out[static_cast<std::size_t>(i) * job.width + k] = static_cast<std::uint8_t>(block[i][k]);
      }
    }
  }
}

void area_small(const Area& job) {
  const int samples = job.source.width * job.source.step;
  // Sums of this many columns of a tile stay in the first-level cache until they are turned.
  constexpr int chunk = 512;
  for (int top = 0; top < job.height; top += lanes) {
    for (int begin = 0; begin < samples; begin += chunk) {
      const int end = samples - begin < chunk ? samples : begin + chunk;
      for (int i = 0; i < lanes && top + i < job.height; ++i) {
        std::uint16_t* sums = job.sums + job.pitch * i;
        sum_down(cover_of(job, top + i), begin, end, sums, sums + job.pitch / 2);
      }
      turn_sums(job, begin, end);
    }
    for (int channel = 0; channel < job.source.step; ++channel) {
      sum_across(job, channel);
      turn_back(job, top, channel);
    }
  }
}

// Sizes that share no factor: 32-bit sums down, 64-bit sums across, a division.
void area_any(const Area& job) {
  const int samples = job.source.width * job.source.step;
  const int step = job.source.step;
  std::uint32_t* sums = job.wide;
  for (int i = 0; i < job.height; ++i) {
    const Cover cover = cover_of(job, i);
    for (int x = 0; x < samples; ++x) sums[x] = 0;
    for (int y = 0; y < cover.count; ++y) {
      const std::uint8_t* row = cover.first + cover.stride * y;
      for (int x = 0; x < samples; ++x) sums[x] += row[x];
    }
    for (int x = 0; x < samples; ++x) {
      sums[x] = sums[x] * cover.parts + cover.above[x] * cover.above_part +
                cover.below[x] * cover.below_part;
    }
    for (int channel = 0; channel < step; ++channel) {
      std::uint8_t* out = job.out[channel] + static_cast<std::size_t>(i) * job.width;
      std::uint64_t whole = 0;
      std::uint64_t before = 0;
      int x = 0;
      for (int j = 0; j < job.width; ++j) {
        const Edge edge = job.columns[j + 1];
        for (; x < edge.index; ++x) whole += sums[x * step + channel];
        std::uint64_t now = whole * job.column_parts;
        if (edge.fraction != 0) {
          now += static_cast<std::uint64_t>(sums[x * step + channel]) * edge.fraction;
        }
        out[j] = static_cast<std::uint8_t>((now - before + job.divisor.half) / job.divisor.total);
        before = now;
      }
    }
  }
}

void area(const Area& job) { job.small ? area_small(job) : area_any(job); }
