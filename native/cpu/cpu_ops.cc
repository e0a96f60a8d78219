// The CPU backend.
#include "cpu/cpu_ops.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>

#include "cpu/isa.h"
#include "cpu/kernels.h"
#include "cpu/packed_matrix.h"
#include "threads.h"

namespace vllm_pd::cpu {
namespace {

const PanelMatrix& panels_of(const PackedMatrix& matrix) { return static_cast<const PanelMatrix&>(matrix); }

class CpuOps : public Ops {
 public:
  explicit CpuOps(int num_threads)
      : kernels_(chosen_kernels()), threads_(num_threads), scratch_(num_threads) {}

  std::string packed_layout() const override { return kPackedLayout; }

  int64_t packed_bytes(const MatrixShape& shape) const override { return cpu::packed_bytes(shape); }

  void pack(const MatrixShape& shape, RowSource source, const void* context, uint8_t* out) override {
    threads_.parallel_for(num_panels(shape.n), [&](int64_t panel, int thread) {
      pack_panel(shape, panel, source, context, scratch(thread, shape.k), out);
    });
  }

  std::unique_ptr<PackedMatrix> open(const MatrixShape& shape, const uint8_t* packed,
                                     std::shared_ptr<const void> owner) override {
    return std::make_unique<PanelMatrix>(shape, packed, std::move(owner));
  }

  void embed(const int32_t* ids, int64_t num_rows, const PackedMatrix& table, float* out) override {
    const PanelMatrix& panels = panels_of(table);
    for_rows(num_rows, table.k(), [&](int64_t row) { panels.read_row(ids[row], out + row * table.k()); });
  }

  void rms_norm(const float* x, int64_t num_rows, int64_t dim, const float* weight, float eps,
                float* out) override {
    for_rows(num_rows, dim,
             [&](int64_t row) { kernels_.rms_norm(x + row * dim, dim, weight, eps, out + row * dim); });
  }

  void matmul(const float* a, int64_t num_rows, const PackedMatrix& w, const float* bias,
              float* out) override {
    multiply(a, num_rows, w, bias, 0, out);
  }

  void matmul_add(const float* a, int64_t num_rows, const PackedMatrix& w, float* out) override {
    multiply(a, num_rows, w, out, w.n(), out);
  }

  void rotate_and_cache(float* qkv, const AttentionShape& shape, const RotaryArgs& rotary, const Batch& batch,
                        const KvRegion& pool, int64_t layer) override {
    const int64_t head_dim = shape.head_dim;
    const int64_t half = rotary.rotary_dim / 2;
    const int64_t num_requests = batch.num_requests();
    const auto rotate = [&](float* head, const float* norm, int64_t token) {
      if (norm) kernels_.rms_norm(head, head_dim, norm, rotary.norm_eps, head);
      if (rotary.cos) {
        kernels_.rotate(head, rotary.rotary_dim, rotary.cos + token * half, rotary.sin + token * half);
      }
    };
    for_rows(batch.num_tokens(), shape.qkv_dim(), [&](int64_t token) {
      float* const q = qkv + token * shape.qkv_dim();
      float* const k = q + shape.q_dim();
      const float* const v = k + shape.kv_dim();
      for (int64_t head = 0; head < shape.num_heads; ++head)
        rotate(q + head * head_dim, rotary.q_norm, token);
      for (int64_t head = 0; head < shape.num_kv_heads; ++head)
        rotate(k + head * head_dim, rotary.k_norm, token);
      const auto& cu = batch.cu_seqlens_q;
      const int64_t request = std::upper_bound(cu.begin(), cu.begin() + num_requests, token) - cu.begin() - 1;
      const int64_t block_size = pool.layout.block_size;
      const int64_t position = batch.positions[token];
      const int64_t block_id = batch.block_tables[batch.cu_blocks[request] + position / block_size];
      uint8_t* const keys = pool.block(block_id) + layer * 2 * pool.layout.kv_bytes();
      uint8_t* const values = keys + pool.layout.kv_bytes();
      const int64_t row_bytes = head_dim * pool.layout.element_bytes();
      for (int64_t head = 0; head < shape.num_kv_heads; ++head) {
        const int64_t slot = (head * block_size + position % block_size) * row_bytes;
        cache_row(k + head * head_dim, head_dim, pool.layout.dtype, keys + slot);
        cache_row(v + head * head_dim, head_dim, pool.layout.dtype, values + slot);
      }
    });
  }

  void paged_attention(const float* qkv, const AttentionShape& shape, const Batch& batch,
                       const KvRegion& pool, int64_t layer, float* out) override {
    const AttentionStep step{qkv, shape, batch, pool, layer, out};
    tiles_.clear();
    const int64_t group = shape.num_heads / shape.num_kv_heads;
    const int64_t tile_tokens = std::max<int64_t>(1, kTileQueries / group);
    for (int64_t request = 0; request < batch.num_requests(); ++request) {
      const int64_t end = batch.cu_seqlens_q[request + 1];
      for (int64_t token = batch.cu_seqlens_q[request]; token < end; token += tile_tokens) {
        for (int64_t kv_head = 0; kv_head < shape.num_kv_heads; ++kv_head) {
          tiles_.push_back({request, token, std::min(tile_tokens, end - token), kv_head});
        }
      }
    }
    // The latest tokens, which see the most keys, are begun first, so that threads end together.
    std::reverse(tiles_.begin(), tiles_.end());
    plan_attention(step);
    threads_.parallel_for(static_cast<int64_t>(pieces_.size()), [&](int64_t index, int thread) {
      const Piece& piece = pieces_[index];
      const Tile& tile = tiles_[piece.tile];
      const AttentionArgs args = attention_args(step, tile, thread);
      if (piece.span < 0) return kernels_.attention(args);
      const int64_t state_floats = attention_state_floats(tile.num_tokens * args.group_size, args.head_dim);
      float* const states = states_.data() + tile.first_state;
      kernels_.attention_span(args, piece.span, states + (piece.span - tile.spans.begin) * state_floats);
      // Whoever ends last has all spans before it.
      const auto num_spans = tile.spans.end - tile.spans.begin;
      if (spans_done_[piece.tile].fetch_add(1, std::memory_order_acq_rel) + 1 == num_spans) {
        kernels_.attention_join(args, states, num_spans);
      }
    });
  }

  void swiglu(const float* gate_up, int64_t num_rows, int64_t dim, float* out) override {
    for_rows(num_rows, 2 * dim, [&](int64_t row) {
      const float* const gate = gate_up + row * 2 * dim;
      kernels_.swiglu(gate, gate + dim, dim, out + row * dim);
    });
  }

 private:
  /** Queries of one attention tile: each packs its K and V anew, so many share it. */
  static constexpr int64_t kTileQueries = 256;
  /** Tiles of at most this many queries are cut into spans wherever there is a thread to share them with. */
  static constexpr int64_t kSplitQueries = 16;
  /** Of rows that one matmul task goes through for each panel: they stay in the second-level cache. */
  static constexpr int64_t kTaskBytes = 384 * 1024;
  /** Below this many floats a loop over rows costs less than telling another thread of it. */
  static constexpr int64_t kSplitFloats = 16 * 1024;

  /** This thread's own floats; what they held before is lost. */
  float* scratch(int thread, int64_t count) {
    std::vector<float>& floats = scratch_[thread];
    if (static_cast<int64_t>(floats.size()) < count) floats.resize(count);
    return floats.data();
  }

  /** What all tiles of one call share. */
  struct AttentionStep {
    const float* qkv;
    const AttentionShape& shape;
    const Batch& batch;
    const KvRegion& pool;
    int64_t layer;
    float* out;
  };

  /** Tokens of one request, for one KV head. */
  struct Tile {
    int64_t request;
    int64_t token;
    int64_t num_tokens;
    int64_t kv_head;
    KeyRange spans = {0, 0};
    int64_t first_state = 0;  // where its spans' states begin, in floats of states_
  };

  /** What one thread takes at a time: one span of a tile, or (span -1) all of it. */
  struct Piece {
    int64_t tile;
    int64_t span;
  };

  AttentionArgs attention_args(const AttentionStep& step, const Tile& tile, int thread) {
    const AttentionShape& shape = step.shape;
    const KvLayout& layout = step.pool.layout;
    const int64_t group = shape.num_heads / shape.num_kv_heads;
    const int64_t head_dim = shape.head_dim;
    AttentionArgs args;
    args.q = step.qkv + tile.token * shape.qkv_dim() + tile.kv_head * group * head_dim;
    args.q_stride = shape.qkv_dim();
    args.positions = step.batch.positions.data() + tile.token;
    args.num_tokens = tile.num_tokens;
    args.group_size = group;
    args.head_dim = head_dim;
    args.block_table = step.batch.block_tables.data() + step.batch.cu_blocks[tile.request];
    args.is_bfloat16 = layout.dtype == KvDtype::kBF16;
    args.sliding_window = shape.sliding_window;
    args.keys = step.pool.block(0) + step.layer * 2 * layout.kv_bytes() +
                tile.kv_head * layout.block_size * head_dim * layout.element_bytes();
    args.values = args.keys + layout.kv_bytes();
    args.block_stride = layout.block_bytes();
    args.block_size = layout.block_size;
    args.out = step.out + tile.token * shape.q_dim() + tile.kv_head * group * head_dim;
    args.out_stride = shape.q_dim();
    args.scratch = scratch(thread, attention_scratch_floats(tile.num_tokens * group, head_dim));
    return args;
  }

  /**
   * Cuts tiles into spans where threads would otherwise wait for one another: always where one token decodes
   * over a long context, and where there are few tiles. A span's state is as large as a tile's result.
   */
  void plan_attention(const AttentionStep& step) {
    pieces_.clear();
    const int64_t num_tiles = static_cast<int64_t>(tiles_.size());
    const bool few = num_tiles < 2 * threads_.num_threads();
    int64_t num_state_floats = 0;
    for (int64_t i = 0; i < num_tiles; ++i) {
      Tile& tile = tiles_[i];
      const AttentionArgs args = attention_args(step, tile, 0);
      const int64_t num_rows = tile.num_tokens * args.group_size;
      tile.spans = spans_of(keys_of(args));
      const int64_t num_spans = tile.spans.end - tile.spans.begin;
      if (threads_.num_threads() == 1 || num_spans == 1 || !(few || num_rows <= kSplitQueries)) {
        pieces_.push_back({i, -1});
        continue;
      }
      tile.first_state = num_state_floats;
      num_state_floats += num_spans * attention_state_floats(num_rows, args.head_dim);
      for (int64_t span = tile.spans.begin; span < tile.spans.end; ++span) pieces_.push_back({i, span});
    }
    if (static_cast<int64_t>(states_.size()) < num_state_floats) states_.resize(num_state_floats);
    if (num_state_floats > 0) spans_done_ = std::make_unique<std::atomic<int64_t>[]>(num_tiles);
  }

  void cache_row(const float* x, int64_t count, KvDtype dtype, uint8_t* out) const {
    if (dtype == KvDtype::kBF16) {
      kernels_.round_to_bfloat16(x, count, reinterpret_cast<uint16_t*>(out));
    } else {
      std::memcpy(out, x, count * sizeof(float));
    }
  }

  template <typename Body>
  void for_rows(int64_t num_rows, int64_t floats_a_row, Body&& body) {
    if (num_rows * floats_a_row < kSplitFloats) {
      for (int64_t row = 0; row < num_rows; ++row) body(row);
      return;
    }
    threads_.parallel_for(num_rows, [&](int64_t row, int) { body(row); });
  }

  /** Rows of activations as a matrix's kernel takes them. */
  struct Rows {
    const uint8_t* data;
    int64_t stride;  // bytes
    const float* scales;
  };

  Rows convert_rows(const float* a, int64_t num_rows, const PanelMatrix& w) {
    const int64_t k = w.k();
    if (w.type() == WeightType::kFloat32) {
      return {reinterpret_cast<const uint8_t*>(a), k * static_cast<int64_t>(sizeof(float)), nullptr};
    }
    const bool int8 = w.type() == WeightType::kInt8;
    const int64_t row_bytes = w.padded_k() * (int8 ? kernels_.int8_row_element : kernels_.bf16_row_element);
    // A line more than needed: rows a power of two apart would take turns in few sets of the nearest cache.
    const int64_t stride = (row_bytes + 63) / 64 * 64 + 64;
    if (static_cast<int64_t>(rows_.size()) < num_rows * stride + 64) rows_.resize(num_rows * stride + 64);
    if (static_cast<int64_t>(row_scales_.size()) < num_rows) row_scales_.resize(num_rows);
    auto* const data =
        reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(rows_.data()) + 63) & ~uintptr_t{63});
    for_rows(num_rows, k, [&](int64_t row) {
      if (int8) {
        row_scales_[row] = kernels_.quantize_row(a + row * k, k, w.padded_k(), data + row * stride);
      } else {
        kernels_.round_row(a + row * k, k, w.padded_k(), data + row * stride);
      }
    });
    return {data, stride, row_scales_.data()};
  }

  void multiply(const float* a, int64_t num_rows, const PackedMatrix& matrix, const float* init,
                int64_t init_stride, float* out) {
    const PanelMatrix& w = panels_of(matrix);
    const Rows rows = convert_rows(a, num_rows, w);
    const auto kernel = w.type() == WeightType::kFloat32    ? kernels_.matmul_f32
                        : w.type() == WeightType::kBFloat16 ? kernels_.matmul_bf16
                                                            : kernels_.matmul_int8;
    const int64_t tile_rows =
        w.type() == WeightType::kFloat32 ? kernels_.f32_tile_rows : kernels_.narrow_tile_rows;
    const int64_t n = w.n();
    const int64_t panels = num_panels(n);
    const int64_t rows_a_task =
        std::max<int64_t>(tile_rows, kTaskBytes / rows.stride / tile_rows * tile_rows);
    const int64_t row_blocks = (num_rows + rows_a_task - 1) / rows_a_task;
    const int64_t wanted_tasks = 4 * threads_.num_threads();
    const int64_t splits =
        std::clamp<int64_t>((wanted_tasks + row_blocks - 1) / std::max<int64_t>(row_blocks, 1), 1, panels);
    const int64_t panels_a_task = (panels + splits - 1) / splits;
    const int64_t column_blocks = (panels + panels_a_task - 1) / panels_a_task;
    threads_.parallel_for(row_blocks * column_blocks, [&](int64_t index, int) {
      const int64_t row = index / column_blocks * rows_a_task;
      const int64_t panel = index % column_blocks * panels_a_task;
      MatmulArgs args;
      args.a = rows.data + row * rows.stride;
      args.a_stride = rows.stride;
      args.num_rows = std::min(rows_a_task, num_rows - row);
      args.k = w.padded_k();
      args.panels = w.panels();
      args.panel_begin = panel;
      args.panel_end = std::min(panel + panels_a_task, panels);
      args.n = n;
      args.init = init ? init + row * init_stride : nullptr;
      args.init_stride = init_stride;
      args.out = out + row * n;
      args.row_scales = rows.scales ? rows.scales + row : nullptr;
      args.column_scales = w.scales();
      args.column_sums = w.sums();
      kernel(args);
    });
  }

  const Kernels& kernels_;
  ThreadPool threads_;
  std::vector<std::vector<float>> scratch_;

  // Of one call of paged_attention; kept for the memory.
  std::vector<Tile> tiles_;
  std::vector<Piece> pieces_;
  std::vector<float> states_;
  std::unique_ptr<std::atomic<int64_t>[]> spans_done_;
  std::vector<uint8_t> rows_;
  std::vector<float> row_scales_;
};

}  // namespace

std::unique_ptr<Ops> make_ops(int num_threads) { return std::make_unique<CpuOps>(num_threads); }

}  // namespace vllm_pd::cpu
