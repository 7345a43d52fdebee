// The bilinear filter (a part of resize_kernels.inl): across first, of the rows that are needed.

void pairs_at(const std::uint8_t* __restrict row, const std::int32_t* __restrict lefts, int count,
              std::uint16_t* __restrict pairs) {
#pragma GCC unroll 8
  for (int i = 0; i < count; ++i) __builtin_memcpy(pairs + i, row + lefts[i], 2);
}

void pairs_between(const std::uint8_t* __restrict row, const std::int32_t* __restrict lefts,
                   int count, int step, std::uint16_t* __restrict pairs) {
#pragma GCC unroll 4
  for (int i = 0; i < count; ++i) {
    const std::uint8_t* left = row + lefts[i] * step;
    pairs[i] = static_cast<std::uint16_t>(left[0] | left[step] << 8);
  }
}

void blend(const std::uint16_t* __restrict pairs, const std::uint32_t* __restrict weights,
           int count, std::uint32_t parts, std::uint32_t* __restrict out) {
  for (int i = 0; i < count; ++i) {
    out[i] = (pairs[i] & 0xffU) * (parts - weights[i]) + (pairs[i] >> 8U) * weights[i];
  }
}

// One row of the source at the columns of the result.
void blend_across(const Bilinear& job, int y, std::uint32_t* blended) {
  const Source& source = job.source;
  const std::uint8_t* row = source.data + source.stride * y;
  for (int channel = 0; channel < source.step; ++channel) {
    if (source.width == 1) {
      for (int j = 0; j < job.width; ++j) {
        job.pairs[j] = static_cast<std::uint16_t>(row[channel] * 257U);
      }
    } else if (source.step == 1) {
      pairs_at(row, job.lefts, job.width, job.pairs);
    } else {
      pairs_between(row + channel, job.lefts, job.width, source.step, job.pairs);
    }
    blend(job.pairs, job.weights, job.width, job.column_parts,
          blended + static_cast<std::size_t>(channel) * job.width);
  }
}

void blend_down(const Bilinear& job, const std::uint32_t* upper, const std::uint32_t* lower,
                std::uint32_t weight, std::uint8_t* out) {
  const std::uint32_t upper_weight = job.row_parts - weight;
  int j = 0;
  if (job.small) {
    // GCC takes four lanes apart to make them bytes; it does well with a loop over more of them.
    constexpr int few = lanes / 2;
    constexpr int many = 32;
    std::uint32_t quotients[many];
    const Quotient quotient(job.divisor.total);
    const std::uint32_t half = static_cast<std::uint32_t>(job.divisor.half);
    for (; j < job.width && many <= job.width; j += many) {
      if (j + many > job.width) j = job.width - many;  // some of them once more
      for (int k = 0; k < many; k += few) {
        const Halves sum = *reinterpret_cast<const HalvesLoose*>(upper + j + k) * upper_weight +
                           *reinterpret_cast<const HalvesLoose*>(lower + j + k) * weight + half;
        *reinterpret_cast<HalvesLoose*>(quotients + k) = quotient(sum);
      }
      for (int k = 0; k < many; ++k) out[j + k] = static_cast<std::uint8_t>(quotients[k]);
    }
  }
  for (; j < job.width; ++j) {
    const std::uint64_t sum = static_cast<std::uint64_t>(upper[j]) * upper_weight +
                              static_cast<std::uint64_t>(lower[j]) * weight;
    out[j] = static_cast<std::uint8_t>((sum + job.divisor.half) / job.divisor.total);
  }
}

void bilinear(const Bilinear& job) {
  // Rows of the source that the two buffers hold; neighbouring outputs often share them.
  int held[2] = {-1, -1};
  const auto blended = [&](int y) {
    const int slot = y % 2;
    if (held[slot] != y) {
      blend_across(job, y, job.blended[slot]);
      held[slot] = y;
    }
    return job.blended[slot];
  };
  for (int i = 0; i < job.height; ++i) {
    const Pair rows = job.rows[i];
    const std::uint32_t* upper = blended(rows.left);
    const std::uint32_t* lower = rows.weight == 0 ? upper : blended(rows.left + 1);
    for (int channel = 0; channel < job.source.step; ++channel) {
      const std::size_t at = static_cast<std::size_t>(channel) * job.width;
      blend_down(job, upper + at, lower + at, rows.weight,
                 job.out[channel] + static_cast<std::size_t>(i) * job.width);
    }
  }
}
