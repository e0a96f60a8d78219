// Many rows times a packed matrix in AMX tiles, blocked for the caches: a panel's next sixteen tiles stay in the nearest
// cache while all rows, which lie in the second one in the order in which tiles take them, pass by. Every sum runs over k
// in order, one tile multiplication after the other, whatever the number of rows.
#pragma once

#include "cpu/amx_formats.h"
#include "cpu/amx_tiles.h"
#include "cpu/kernels.h"
#include "cpu/rows.h"
#include "cpu/simd.h"

namespace vllm_pd::cpu {
namespace {

/** Tiles of a panel that stay in the nearest cache: 32 KiB. */
constexpr int64_t kAmxDepth = 16;
/** How far ahead a panel is asked for that one pass of rows goes through: further, and memory answers a fifth more slowly. */
constexpr int64_t kAmxTilesAhead = 8;
/** Rows of one pass: two tiles. */
constexpr int64_t kAmxPassRows = 2 * kAmxRows;
/** A pass's sums, as they leave the tiles: (first rows, left), (first, right), (second, left), (second, right). */
constexpr int64_t kAmxPassSums = kAmxPassRows * kPanel;
constexpr int64_t kAmxPanelTileBytes = kAmxSteps * kPanelStride;

/** Lines that will be read next, asked for a few at a time. */
class LinesAhead {
 public:
  LinesAhead(const uint8_t* begin, const uint8_t* end, int64_t num_steps)
      : line_(begin), end_(end), lines_a_step_(((end - begin) / 64 + num_steps - 1) / num_steps) {}

  VLLM_PD_INLINE void step() {
    for (int64_t i = 0; i < lines_a_step_ && line_ < end_; ++i, line_ += 64) __builtin_prefetch(line_, 0, 2);
  }

 private:
  const uint8_t* line_;
  const uint8_t* end_;
  int64_t lines_a_step_;
};

/** Sixteen columns of a row of products, as far as there are so many, onto what they are added to. */
VLLM_PD_INLINE void finish_columns(const MatmulArgs& args, int64_t row, int64_t column, const V16& product) {
  const int64_t count = args.n - column;
  if (count <= 0) return;
  float* const out = args.out + row * args.n + column;
  const float* const init = args.init ? args.init + row * args.init_stride + column : nullptr;
  if (count < kLanes) return store_some(out, init ? product + load_some(init, count) : product, count);
  const V16 sum = init ? product + load(init) : product;
  if (args.stream) {
    stream(out, sum);
  } else {
    store(out, sum);
  }
}

/**
 * Sums of one pass on their way to the product. They are written a row or two at a time while the next pass multiplies:
 * stores that come in a burst, each to a line that no cache holds, wait for one another.
 */
template <typename Format>
class PassRows {
 public:
  explicit PassRows(const MatmulArgs& args) : args_(args) {}

  void take(const typename Format::Sum* sums, int64_t row, int64_t num_rows, int64_t panel) {
    sums_ = sums;
    row_ = row;
    num_left_ = num_rows;
    num_written_ = 0;
    column_ = panel * kPanel;
  }

  int64_t num_left() const { return num_left_; }

  VLLM_PD_INLINE void write(int64_t count) {
    for (; count > 0 && num_left_ > 0; --count, --num_left_, ++row_) {
      const V16 left = Format::finish(sums_, args_, row_, column_);
      const V16 right = Format::finish(sums_ + kAmxTileSums, args_, row_, column_ + kLanes);
      if (args_.gated_size > 0) {
        gate(left, right);
      } else {
        finish_columns(args_, row_, column_, left);
        finish_columns(args_, row_, column_ + kLanes, right);
      }
      sums_ += kLanes;
      ++num_written_;
      if (num_written_ == kAmxRows) sums_ += kAmxTileSums;
    }
  }

 private:
  VLLM_PD_INLINE void gate(V16 left, V16 right) {
    if (args_.init) {
      left = left + load(args_.init + column_);
      right = right + load(args_.init + column_ + kLanes);
    }
    const V16 gated = silu(left) * right;
    const int64_t at = column_ / 2;
    if (args_.gated_rows) {
      auto* const rows = static_cast<uint8_t*>(args_.gated_rows) + row_ / kAmxRows * kAmxRows * args_.gated_stride;
      write_elements(gated, element_of<uint16_t>(rows + row_ % kAmxRows * kRowPiece, at, kAmxTileBytes));
      return;
    }
    float* const out = args_.out + row_ * args_.gated_size + at;
    const int64_t count = args_.gated_size - at;
    // Both are padded to whole panels of the next product.
    if (count <= 0) return;
    if (count < kLanes) {
      store_some(out, gated, count);
    } else if (args_.stream) {
      stream(out, gated);
    } else {
      store(out, gated);
    }
  }

  const MatmulArgs& args_;
  const typename Format::Sum* sums_ = nullptr;
  int64_t row_ = 0;
  int64_t num_left_ = 0;
  int64_t num_written_ = 0;
  int64_t column_ = 0;
};

template <typename Format>
class BlockedProduct {
 public:
  explicit BlockedProduct(const MatmulArgs& args)
      : args_(args),
        num_tiles_(args.k / Format::kTileK),
        num_passes_((args.num_rows + kAmxPassRows - 1) / kAmxPassRows),
        finished_(args) {}

  void run() {
    for (int64_t panel = args_.panel_begin; panel < args_.panel_end; ++panel) {
      for (int64_t tile = 0; tile < num_tiles_; tile += depth()) multiply(panel, tile);
    }
    finished_.write(kAmxPassRows);
    if (args_.stream) stream_end();
    release_tiles();
  }

 private:
  using Sum = typename Format::Sum;

  /** One pass keeps its sums in the tiles for all of k. */
  int64_t depth() const { return num_passes_ == 1 ? num_tiles_ : kAmxDepth; }

  const uint8_t* panel_tile(int64_t panel, int64_t tile) const {
    return static_cast<const uint8_t*>(args_.panels) + (panel * num_tiles_ + tile) * kAmxPanelTileBytes;
  }

  /** All rows with `depth()` tiles of a panel from `begin` on. */
  void multiply(int64_t panel, int64_t begin) {
    const int64_t end = begin + depth() < num_tiles_ ? begin + depth() : num_tiles_;
    const uint8_t* const next = panel_tile(panel, num_passes_ == 1 ? begin + kAmxTilesAhead : end);
    const uint8_t* const last = panel_tile(args_.panel_end, 0);
    const int64_t num_bytes = (end - begin) * kAmxPanelTileBytes;
    LinesAhead ahead(next, last - next < num_bytes ? last : next + num_bytes, num_passes_ * (end - begin));
    for (int64_t pass = 0; pass < num_passes_; ++pass) {
      const int64_t row = pass * kAmxPassRows;
      const int64_t rows = args_.num_rows - row < kAmxPassRows ? args_.num_rows - row : kAmxPassRows;
      configure(rows);
      Sum* const kept = reinterpret_cast<Sum*>(args_.scratch) + pass * kAmxPassSums;
      Sum* const to = end == num_tiles_ ? sums_[turn_] : kept;
      const uint8_t* const a = static_cast<const uint8_t*>(args_.a) + row * args_.a_stride;
      if (rows > kAmxRows) {
        add_pass<true>(a, panel_tile(panel, 0), begin, end, kept, ahead, to);
      } else {
        add_pass<false>(a, panel_tile(panel, 0), begin, end, kept, ahead, to);
      }
      if (end < num_tiles_) continue;
      finished_.write(kAmxPassRows);
      finished_.take(to, row, rows, panel);
      turn_ = 1 - turn_;
    }
  }

  void configure(int64_t rows) {
    if (configured_ == rows) return;
    const int64_t first = rows < kAmxRows ? rows : kAmxRows;
    configure_tiles(tiles_for(first, rows - first));
    configured_ = rows;
  }

  /** Tiles [begin, end) of k, on top of what `kept` holds of those before them. */
  template <bool kBoth>
  VLLM_PD_INLINE void add_pass(const uint8_t* a, const uint8_t* panel, int64_t begin, int64_t end, const Sum* kept,
                               LinesAhead& ahead, Sum* to) {
    load_sums<kBoth>(begin == 0 ? nullptr : kept);
    const uint8_t* first = a + begin * kAmxTileBytes;
    const uint8_t* second = first + kAmxRows * args_.a_stride;
    panel += begin * kAmxPanelTileBytes;
    const int64_t rows_a_step = (finished_.num_left() + end - begin - 1) / (end - begin);
    for (int64_t tile = begin; tile < end; ++tile) {
      // Rows are used once for each panel: they pass by the nearest cache, where the panel stays.
      load_tile_once<4>(first, kAmxRowBytes);
      load_tile<6>(panel, kPanelStride);
      load_tile<7>(panel + kAmxRowBytes, kPanelStride);
      if constexpr (kBoth) load_tile_once<5>(second, kAmxRowBytes);
      finished_.write(rows_a_step);
      Format::template multiply<0, 4, 6>();
      Format::template multiply<1, 4, 7>();
      if constexpr (kBoth) {
        Format::template multiply<2, 5, 6>();
        Format::template multiply<3, 5, 7>();
      }
      ahead.step();
      first += kAmxTileBytes;
      second += kAmxTileBytes;
      panel += kAmxPanelTileBytes;
    }
    store_tile_to<0>(to, kAmxRowBytes);
    store_tile_to<1>(to + kAmxTileSums, kAmxRowBytes);
    if constexpr (kBoth) {
      store_tile_to<2>(to + 2 * kAmxTileSums, kAmxRowBytes);
      store_tile_to<3>(to + 3 * kAmxTileSums, kAmxRowBytes);
    }
  }

  /** Null: zeros. */
  template <bool kBoth>
  VLLM_PD_INLINE static void load_sums(const Sum* kept) {
    if (kept == nullptr) {
      zero_tile<0>();
      zero_tile<1>();
      if constexpr (kBoth) {
        zero_tile<2>();
        zero_tile<3>();
      }
      return;
    }
    load_tile<0>(kept, kAmxRowBytes);
    load_tile<1>(kept + kAmxTileSums, kAmxRowBytes);
    if constexpr (kBoth) {
      load_tile<2>(kept + 2 * kAmxTileSums, kAmxRowBytes);
      load_tile<3>(kept + 3 * kAmxTileSums, kAmxRowBytes);
    }
  }

  const MatmulArgs& args_;
  const int64_t num_tiles_;
  const int64_t num_passes_;
  int64_t configured_ = 0;
  /** Of the pass that is being multiplied and the one that is being written. */
  alignas(64) Sum sums_[2][kAmxPassSums];
  int turn_ = 0;
  PassRows<Format> finished_;
};

template <typename Format>
void matmul_amx(const MatmulArgs& args) {
  BlockedProduct<Format>(args).run();
}

}  // namespace
}  // namespace vllm_pd::cpu
