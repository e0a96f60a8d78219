// K and V of one segment where they lie in the blocks: found, read as sixteen floats, and transposed.
#pragma once

#include "cpu/kernels.h"
#include "cpu/simd.h"

namespace vllm_pd::cpu {
namespace {

/** Where the segment's keys lie, in bytes from `keys` (and their values from `values`). */
struct Slots {
  int64_t offset[kSegment];
  int64_t count;
};

VLLM_PD_INLINE int64_t row_bytes_of(const AttentionArgs& args) {
  return args.head_dim * (args.is_bfloat16 ? 2 : 4);
}

/** Up to a segment of the `count` keys from position `begin`. */
VLLM_PD_INLINE Slots find_slots(const AttentionArgs& args, int64_t begin, int64_t count) {
  const int64_t row_bytes = row_bytes_of(args);
  Slots slots;
  slots.count = count < 0 ? 0 : count < kSegment ? count : kSegment;
  int64_t block = begin / args.block_size;
  int64_t within = begin % args.block_size;
  for (int64_t key = 0; key < slots.count; ++block, within = 0) {
    const int64_t first = args.block_table[block] * args.block_stride + within * row_bytes;
    const int64_t run = args.block_size - within;
    const int64_t end = key + run < slots.count ? key + run : slots.count;
    for (int64_t i = 0; key + i < end; ++i) slots.offset[key + i] = first + i * row_bytes;
    key = end;
  }
  return slots;
}

/** Blocks lie far apart, so the processor does not see the next segment coming. */
VLLM_PD_INLINE void prefetch_rows(const uint8_t* from, const Slots& slots, int64_t begin, int64_t end,
                                  int64_t row_bytes) {
  if (end > slots.count) end = slots.count;
  for (int64_t key = begin; key < end; ++key) {
    for (int64_t i = 0; i < row_bytes; i += 64) __builtin_prefetch(from + slots.offset[key] + i, 0, 2);
  }
}

typedef uint16_t Halves __attribute__((vector_size(kWidth * 2), aligned(2), may_alias));

/** Sixteen bfloat16 as floats. */
VLLM_PD_INLINE V16 load_bfloat16(const uint8_t* from) {
  V16 r;
  VLLM_PD_EACH_PART {
    const Halves halves = *reinterpret_cast<const Halves*>(from + i * kWidth * 2);
    r.part[i] = (Native)(__builtin_convertvector(halves, NativeInt) << 16);
  }
  return r;
}

/** Elements [0, count) of a row from byte `from`, the other lanes zero; count <= 16. */
template <bool kBf16>
VLLM_PD_INLINE V16 load_row(const uint8_t* from, int64_t count) {
  if constexpr (kBf16) {
    if (count >= kLanes) return load_bfloat16(from);
    uint8_t halves[2 * kLanes] = {};
    std::memcpy(halves, from, count * 2);
    return load_bfloat16(halves);
  } else {
    const auto* const floats = reinterpret_cast<const float*>(from);
    return count >= kLanes ? load(floats) : load_some(floats, count);
  }
}

/** Lane i of out[j] becomes lane j of rows[i]. */
VLLM_PD_INLINE void transpose_16x16(const V16 rows[kLanes], V16 out[kLanes]) {
#if defined(__AVX512F__)
  // The forms with a mask of ones: what GCC 12 makes of the others warns of uninitialised values.
  __m512 a[kLanes];
  __m512 b[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; i += 2) {
    a[i] = _mm512_maskz_unpacklo_ps(0xffff, (__m512)rows[i].part[0], (__m512)rows[i + 1].part[0]);
    a[i + 1] = _mm512_maskz_unpackhi_ps(0xffff, (__m512)rows[i].part[0], (__m512)rows[i + 1].part[0]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; i += 4) {
    b[i] = (__m512)_mm512_maskz_unpacklo_pd(0xff, (__m512d)a[i], (__m512d)a[i + 2]);
    b[i + 1] = (__m512)_mm512_maskz_unpackhi_pd(0xff, (__m512d)a[i], (__m512d)a[i + 2]);
    b[i + 2] = (__m512)_mm512_maskz_unpacklo_pd(0xff, (__m512d)a[i + 1], (__m512d)a[i + 3]);
    b[i + 3] = (__m512)_mm512_maskz_unpackhi_pd(0xff, (__m512d)a[i + 1], (__m512d)a[i + 3]);
  }
#pragma GCC unroll 16
  for (int j = 0; j < 4; ++j) {
    const __m512 even_low = _mm512_maskz_shuffle_f32x4(0xffff, b[j], b[4 + j], 0x88);
    const __m512 even_high = _mm512_maskz_shuffle_f32x4(0xffff, b[8 + j], b[12 + j], 0x88);
    const __m512 odd_low = _mm512_maskz_shuffle_f32x4(0xffff, b[j], b[4 + j], 0xdd);
    const __m512 odd_high = _mm512_maskz_shuffle_f32x4(0xffff, b[8 + j], b[12 + j], 0xdd);
    out[j].part[0] = (Native)_mm512_maskz_shuffle_f32x4(0xffff, even_low, even_high, 0x88);
    out[4 + j].part[0] = (Native)_mm512_maskz_shuffle_f32x4(0xffff, odd_low, odd_high, 0x88);
    out[8 + j].part[0] = (Native)_mm512_maskz_shuffle_f32x4(0xffff, even_low, even_high, 0xdd);
    out[12 + j].part[0] = (Native)_mm512_maskz_shuffle_f32x4(0xffff, odd_low, odd_high, 0xdd);
  }
#else
  float from[kLanes][kLanes];
  float to[kLanes][kLanes];
  for (int i = 0; i < kLanes; ++i) store(from[i], rows[i]);
  for (int i = 0; i < kLanes; i += 4) {
    for (int j = 0; j < kLanes; j += 4) {
      const float* const quads[4] = {from[i] + j, from[i + 1] + j, from[i + 2] + j, from[i + 3] + j};
      transpose_4x4(quads, to[j] + i, kLanes);
    }
  }
  for (int j = 0; j < kLanes; ++j) out[j] = load(to[j]);
#endif
}

/** The two bfloat16 of each lane's 32 bits as floats, the one that lies first in memory first. */
VLLM_PD_INLINE V16 first_of_pair(const V16& pairs) {
  V16 r;
  VLLM_PD_EACH_PART r.part[i] = (Native)((NativeInt)pairs.part[i] << 16);
  return r;
}

VLLM_PD_INLINE V16 second_of_pair(const V16& pairs) {
  V16 r;
  VLLM_PD_EACH_PART r.part[i] = (Native)((NativeInt)pairs.part[i] & static_cast<int32_t>(0xffff0000));
  return r;
}

/**
 * Elements [d, d + 16), of bfloat16 [d, d + 32), of keys [key, key + 16) into columns: element d + i of key + j goes to
 * panel[i * stride + j]. Columns beyond the segment's last key repeat it. Elements from head_dim on are left out.
 */
template <bool kBf16>
VLLM_PD_INLINE void transpose_keys(const AttentionArgs& args, const Slots& slots, int64_t key, int64_t d, float* panel,
                                   int64_t stride) {
  // A lane of 32 bits holds one float or two bfloat16.
  constexpr int64_t kPack = kBf16 ? 2 : 1;
  const int64_t left = (args.head_dim - d) / kPack;
  const int64_t num_words = left < kLanes ? left : kLanes;
  const uint8_t* const keys = args.keys + d * (kBf16 ? 2 : 4);
  const auto row = [&](int64_t i) {
    return reinterpret_cast<const float*>(keys + slots.offset[key + i < slots.count ? key + i : slots.count - 1]);
  };
  V16 in[kLanes];
  V16 out[kLanes];
  if (num_words == kLanes && key + kLanes <= slots.count) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) in[i] = load(reinterpret_cast<const float*>(keys + slots.offset[key + i]));
  } else {
    for (int i = 0; i < kLanes; ++i) in[i] = load_some(row(i), num_words);
  }
  transpose_16x16(in, out);
  const auto put = [&](int64_t i) {
    if constexpr (kBf16) {
      store(panel + 2 * i * stride, first_of_pair(out[i]));
      store(panel + (2 * i + 1) * stride, second_of_pair(out[i]));
    } else {
      store(panel + i * stride, out[i]);
    }
  };
  if (num_words == kLanes) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) put(i);
  } else {
    for (int64_t i = 0; i < num_words; ++i) put(i);
  }
}

}  // namespace
}  // namespace vllm_pd::cpu
