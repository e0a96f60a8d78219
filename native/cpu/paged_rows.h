// K and V of one segment where they lie in the blocks: found, read as sixteen floats, and transposed.
#pragma once

#include "cpu/kernels.h"
#include "cpu/simd.h"

namespace vllm_pd::cpu {
namespace {

/** Magnitude of bfloat16 infinity; NaN is above it. */
constexpr int kInfiniteHalf = 0x7f80;

/** Where the segment's keys lie, in bytes from `keys` (and their values from `values`). */
struct Slots {
  int64_t offset[kSegment];
  int64_t count;
  /** The same as runs of neighbours. */
  int64_t run_offset[kSegment];
  int64_t run_bytes[kSegment];
  int64_t num_runs;
};

VLLM_PD_INLINE int64_t row_bytes_of(const AttentionArgs& args) {
  return args.head_dim * (args.is_bfloat16 ? 2 : 4);
}

/** Up to a segment of the `count` keys from position `begin`. */
VLLM_PD_INLINE void find_slots(const AttentionArgs& args, int64_t begin, int64_t count, Slots* slots) {
  const int64_t row_bytes = row_bytes_of(args);
  slots->count = count < 0 ? 0 : count < kSegment ? count : kSegment;
  slots->num_runs = 0;
  int64_t block = begin / args.block_size;
  int64_t within = begin % args.block_size;
  for (int64_t key = 0; key < slots->count; ++block, within = 0) {
    const int64_t first = args.block_table[block] * args.block_stride + within * row_bytes;
    const int64_t run = args.block_size - within;
    const int64_t end = key + run < slots->count ? key + run : slots->count;
    slots->run_offset[slots->num_runs] = first;
    slots->run_bytes[slots->num_runs++] = (end - key) * row_bytes;
    for (int64_t i = 0; key + i < end; ++i) slots->offset[key + i] = first + i * row_bytes;
    key = end;
  }
}

/** One KV head's K and V of a segment, in the order in which they are used. */
struct SegmentRows {
  const uint8_t* keys;
  const uint8_t* values;
  const Slots* slots;
};

/**
 * What is used next, asked for a few lines at a time while something else is computed: blocks lie far apart, so the
 * processor does not see them coming, and what is asked for in bursts waits for one another. Two runs at a time, which
 * more than one channel of the memory answers, and three quarters of a head's segment ahead: what is asked for earlier is
 * pushed out again.
 */
class Wanted {
 public:
  /** What lies so far ahead while `now` is computed, of which `next` follows. */
  Wanted(const SegmentRows& now, const SegmentRows& next)
      : rows_{now, next},
        run_(now.slots->num_runs * 3 / 2 / kStreams * kStreams),
        runs_left_(2 * now.slots->num_runs) {
    begin_runs();
  }

  /** Asks for kLines more of each stream. */
  template <int kLines>
  VLLM_PD_INLINE void ask() {
    if (line_ >= end_) return;
#pragma GCC unroll 8
    for (int i = 0; i < kLines; ++i) {
      __builtin_prefetch(line_ + 64 * i, 0, 3);
      __builtin_prefetch(line_ + other_ + 64 * i, 0, 3);
    }
    line_ += 64 * kLines;
    if (line_ >= end_ && runs_left_ > 0) begin_runs();
  }

 private:
  static constexpr int64_t kStreams = 2;

  /** Run `run` of both segments' K, V, K, V; null behind them. */
  VLLM_PD_INLINE const uint8_t* find(int64_t run, int64_t* bytes) const {
    for (const SegmentRows& rows : rows_) {
      const int64_t num_runs = rows.slots->num_runs;
      if (run < 2 * num_runs) {
        const uint8_t* const base = run < num_runs ? rows.keys : rows.values;
        if (run >= num_runs) run -= num_runs;
        *bytes = rows.slots->run_bytes[run];
        return base + rows.slots->run_offset[run];
      }
      run -= 2 * num_runs;
    }
    return nullptr;
  }

  VLLM_PD_INLINE void begin_runs() {
    int64_t bytes = 0;
    line_ = find(run_, &bytes);
    end_ = line_ + bytes;
    int64_t other_bytes = 0;
    const uint8_t* const other = find(run_ + 1, &other_bytes);
    other_ = other && line_ ? other - line_ : 0;
    run_ += kStreams;
    runs_left_ -= kStreams;
  }

  SegmentRows rows_[2];
  int64_t run_;
  int64_t runs_left_;
  const uint8_t* line_;
  const uint8_t* end_;
  int64_t other_;
};

/** As many bfloat16 as a register has floats, as whole numbers. GCC 12 makes five instructions of the general form with AVX2. */
VLLM_PD_INLINE NativeInt load_halves(const uint8_t* from) {
#if defined(VLLM_PD_AVX512)
  return (NativeInt)_mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__AVX2__)
  return (NativeInt)_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
  typedef uint16_t Halves __attribute__((vector_size(kWidth * 2), aligned(2), may_alias));
  return __builtin_convertvector(*reinterpret_cast<const Halves*>(from), NativeInt);
#endif
}

/** Sixteen bfloat16 as floats. */
VLLM_PD_INLINE V16 load_bfloat16(const uint8_t* from) {
  V16 r;
  VLLM_PD_EACH_PART r.part[i] = (Native)(load_halves(from + i * kWidth * 2) << 16);
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

#if defined(__AVX2__) && !defined(VLLM_PD_AVX512)
/** Words [word, word + 4) of eight rows: lane i of out[j] is word word + j of rows[i]. */
VLLM_PD_INLINE void transpose_words(const uint8_t* const rows[kWidth], int64_t word, Native out[4]) {
  __m256d pairs[4];
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    // Rows r and r + 4 side by side: loads put them there, shuffles are dear.
    const auto quads = [&](int r) {
      const __m128 low = _mm_loadu_ps(reinterpret_cast<const float*>(rows[r] + 4 * word));
      return _mm256_insertf128_ps(_mm256_castps128_ps256(low), _mm_loadu_ps(reinterpret_cast<const float*>(rows[r + 4] + 4 * word)), 1);
    };
    const __m256 even = quads(2 * i);
    const __m256 odd = quads(2 * i + 1);
    pairs[i] = _mm256_castps_pd(_mm256_unpacklo_ps(even, odd));
    pairs[2 + i] = _mm256_castps_pd(_mm256_unpackhi_ps(even, odd));
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    out[2 * i] = (Native)_mm256_unpacklo_pd(pairs[2 * i], pairs[2 * i + 1]);
    out[2 * i + 1] = (Native)_mm256_unpackhi_pd(pairs[2 * i], pairs[2 * i + 1]);
  }
}
#endif

/** Lane i of out[j] becomes lane j of rows[i]. */
VLLM_PD_INLINE void transpose_16x16(const V16 rows[kLanes], V16 out[kLanes]) {
#if defined(VLLM_PD_AVX512)
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
 * Words [word, word + num_words) of keys [key, key + 16), four bytes each and 16 words at most, into columns: word
 * word + i of key + j is lane j of out[i]. Keys behind the segment's last one repeat it.
 */
VLLM_PD_INLINE void transpose_keys(const AttentionArgs& args, const Slots& slots, int64_t key, int64_t word,
                                   int64_t num_words, V16 out[kLanes]) {
  const uint8_t* const keys = args.keys + 4 * word;
  V16 in[kLanes];
  if (num_words == kLanes && key + kLanes <= slots.count) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) in[i] = load(reinterpret_cast<const float*>(keys + slots.offset[key + i]));
  } else {
    for (int i = 0; i < kLanes; ++i) {
      const int64_t from = key + i < slots.count ? key + i : slots.count - 1;
      in[i] = load_some(reinterpret_cast<const float*>(keys + slots.offset[from]), num_words);
    }
  }
  transpose_16x16(in, out);
}

}  // namespace
}  // namespace vllm_pd::cpu
