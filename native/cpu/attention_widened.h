// Attention in float32: K and V of either type, multiplied in the units of every instruction set.
#pragma once

#include <type_traits>

#include "cpu/attention_rows.h"
#include "cpu/attention_state.h"
#include "cpu/kernels.h"
#include "cpu/paged_rows.h"
#include "cpu/panel_tile.h"
#include "cpu/simd.h"

namespace vllm_pd::cpu {
namespace {

/** Calls `body` with the number of rows, at most kMax, as a constant. */
template <int kMax, typename Body>
VLLM_PD_INLINE void with_rows(int64_t num_rows, Body&& body) {
  if (num_rows == kMax) {
    body(std::integral_constant<int, kMax>());
  } else if constexpr (kMax > 1) {
    with_rows<kMax - 1>(num_rows, body);
  }
}

template <bool kBf16>
struct Widened {
  /** What multiplies needs no setting up. */
  struct Unit {};
  static constexpr int kPack = kBf16 ? 2 : 1;
  /** Tiles of at most this many rows read K and V where they lie; larger ones pack them once for all rows. */
  static constexpr int64_t kMaxDirectRows = 8;
  /** Few rows, too, are multiplied with keys that were packed: sixteen registers hold no keys to transpose beside sums. */
  static constexpr bool kScoresPanels = kWidth == 8;
  /** Rows whose scores, probabilities and sums stay in the nearest cache together. */
  static constexpr int64_t kBlockRows = 24;

  /** Asks for half as many lines as a panel of keys was packed from. */
  struct AskBeside {
    static constexpr int64_t kEvery = 4 * kPack;
    Wanted& wanted;
    VLLM_PD_INLINE void operator()() { wanted.ask<1>(); }
  };

  static bool reads_in_place(const AttentionArgs&) { return true; }

  static int64_t q_floats(int64_t head_dim) { return head_dim; }

  static void take_query(const float* q, int64_t head_dim, float scale, float* out) {
    for (int64_t i = 0; i < head_dim; ++i) out[i] = q[i] * scale;
  }

  static void arrange_queries(float*, int64_t, int64_t) {}

  /** Probabilities of one row, in place of its scores. */
  static void put_row(const V16 p[kSegment / kLanes], float* row) {
    for (int i = 0; i < kSegment / kLanes; ++i) store(row + i * kLanes, p[i]);
  }

  static void end_rows(float*) {}

  static void put_sums(const float* sums, float factor, int64_t head_dim, float* out) {
    for (int64_t d = 0; d < head_dim; ++d) out[d] = sums[d] * factor;
  }

  static void score_rows(Unit&, const AttentionArgs& args, const Slots& slots, Wanted& wanted, const float* q, int64_t num_rows,
                         float* scores) {
    if constexpr (kScoresPanels) {
      float* const panel = carve(args).keys;
      for (int64_t key = 0; key < slots.count; key += kPanel) {
        pack_key_panel(args, slots, key, wanted, panel);
        AskBeside beside{wanted};
        matmul_panel({q, args.head_dim, args.head_dim, panel, nullptr, 0, scores + key, kSegment}, num_rows, beside);
      }
      return;
    }
    for (int64_t row = 0; row < num_rows; row += kDirectRows) {
      const int64_t count = num_rows - row < kDirectRows ? num_rows - row : kDirectRows;
      with_rows<kDirectRows>(count, [&](auto rows) {
        cpu::score_rows<kBf16, rows.value>(args, slots, wanted, q + row * args.head_dim, scores + row * kSegment);
      });
    }
  }

  static void weigh_rows(Unit&, const AttentionArgs& args, const Slots& slots, Wanted& wanted, const KeyRange& range,
                         const float* p, int64_t num_rows, float* sums) {
    const int64_t value_dim = value_dim_of(args.head_dim);
    for (int64_t row = 0; row < num_rows; row += kDirectRows) {
      const int64_t count = num_rows - row < kDirectRows ? num_rows - row : kDirectRows;
      with_rows<kDirectRows>(count, [&](auto rows) {
        cpu::weigh_rows<kBf16, rows.value>(args, slots, wanted, range, p + row * kSegment, sums + row * value_dim, value_dim);
      });
    }
  }

  /** K into panels (kSegment / kPanel, head_dim, kPanel); keys beyond the last, up to a whole panel, repeat it. */
  static void pack_keys(const AttentionArgs& args, const Slots& slots, Wanted& wanted, float* panels) {
    for (int64_t key = 0; key < slots.count; key += kPanel) pack_key_panel(args, slots, key, wanted, panels + key * args.head_dim);
  }

  /** Keys [key, key + kPanel), likewise: (head_dim, kPanel). */
  static void pack_key_panel(const AttentionArgs& args, const Slots& slots, int64_t key, Wanted& wanted, float* panel) {
    const int64_t num_words = args.head_dim / kPack;
#if defined(__AVX2__) && !defined(VLLM_PD_AVX512)
    if (num_words % 4 == 0) {
      for (int64_t first = 0; first < kPanel; first += kWidth) {
        const uint8_t* rows[kWidth];
        for (int i = 0; i < kWidth; ++i) {
          const int64_t at = key + first + i;
          rows[i] = args.keys + slots.offset[at < slots.count ? at : slots.count - 1];
        }
        float* to = panel + first;
        for (int64_t word = 0; word < num_words; word += 4) {
          if (word % 8 == 0) wanted.ask<1>();
          Native words[4];
          transpose_words(rows, word, words);
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i, to += kPack * kPanel) {
            store_native(to, kBf16 ? (Native)((NativeInt)words[i] << 16) : words[i]);
            if (kBf16) store_native(to + kPanel, (Native)((NativeInt)words[i] & static_cast<int32_t>(0xffff0000)));
          }
        }
      }
      return;
    }
#endif
    for (int64_t first = 0; first < kPanel; first += kLanes) {
      for (int64_t word = 0; word < num_words; word += kLanes) {
        if (kScoresPanels) wanted.ask<4>();
        V16 words[kLanes];
        const int64_t count = num_words - word < kLanes ? num_words - word : kLanes;
        transpose_keys(args, slots, key + first, word, count, words);
        float* to = panel + first + word * kPack * kPanel;
        for (int64_t i = 0; i < count; ++i, to += kPack * kPanel) {
          store(to, kBf16 ? first_of_pair(words[i]) : words[i]);
          if (kBf16) store(to + kPanel, second_of_pair(words[i]));
        }
      }
    }
  }

  /** V into panels (value_dim / kPanel, kSegment, kPanel), zeros outside the range; returns whether all are finite. */
  static bool pack_values(const AttentionArgs& args, const Slots& slots, const KeyRange& range, float* panels) {
    V16 zeros = splat(0.0f);
    for (int64_t key = 0; key < kSegment; ++key) {
      const bool exists = key >= range.begin && key < range.end;
      const uint8_t* const row = exists ? args.values + slots.offset[key] : nullptr;
      for (int64_t column = 0; column < value_dim_of(args.head_dim); column += kLanes) {
        const int64_t left = exists ? args.head_dim - column : 0;
        const V16 lanes = left > 0 ? load_row<kBf16>(row + column * (kBf16 ? 2 : 4), left) : splat(0.0f);
        // NaN from there on where a value is not finite.
        zeros = fma(lanes, splat(0.0f), zeros);
        store(panels + column / kPanel * kPanel * kSegment + key * kPanel + column % kPanel, lanes);
      }
    }
    return reduce_add(zeros) == 0.0f;
  }

  /** scores (num_rows, kSegment) of q with keys [0, num_keys), in whole panels. */
  static void score_panels(Unit&, const float* q, int64_t head_dim, const float* panels, int64_t num_rows, int64_t num_keys,
                           float* scores) {
    for (int64_t key = 0; key < num_keys; key += kPanel) {
      matmul_panel({q, head_dim, head_dim, panels + key * head_dim, nullptr, 0, scores + key, kSegment}, num_rows);
    }
  }

  /** sums (num_rows, value_dim) += p (num_rows, kSegment) · V; p is zero outside the range. */
  static void weigh_panels(Unit&, const float* p, const float* panels, const KeyRange& range, int64_t num_rows,
                           int64_t value_dim, float* sums) {
    for (int64_t column = 0; column < value_dim; column += kPanel) {
      matmul_panel({p + range.begin, kSegment, range.end - range.begin,
                    panels + column * kSegment + range.begin * kPanel, sums + column, value_dim, sums + column, value_dim},
                   num_rows);
    }
  }
};

}  // namespace
}  // namespace vllm_pd::cpu
