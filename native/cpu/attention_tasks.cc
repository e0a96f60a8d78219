// Which thread attends to what.
#include "cpu/attention_tasks.h"

#include <algorithm>

namespace vllm_pd::cpu {
namespace {

/** Queries of one attention tile: each packs its K and V anew, so many share it. */
constexpr int64_t kTileQueries = 256;
/** Tiles of at most this many queries a KV head are cut into spans wherever there is a thread to share them with. */
constexpr int64_t kSplitQueries = 16;

}  // namespace

void AttentionTasks::run(const AttentionStep& step) {
  cut_tiles(step);
  cut_spans(step);
  threads_.parallel_for(static_cast<int64_t>(pieces_.size()), [&](int64_t index, int thread) {
    const Piece& piece = pieces_[index];
    const Tile& tile = tiles_[piece.tile];
    const AttentionArgs args = args_of(step, tile, thread);
    if (piece.span < 0) return kernels_.attention(args);
    const int64_t state_floats = tile.num_kv_heads * attention_state_floats(rows_of(args), args.head_dim);
    float* const states = states_.data() + tile.first_state;
    kernels_.attention_span(args, piece.span, states + (piece.span - tile.spans.begin) * state_floats);
    // Whoever ends last has all spans before it.
    const auto num_spans = tile.spans.end - tile.spans.begin;
    if (spans_done_[piece.tile].fetch_add(1, std::memory_order_acq_rel) + 1 == num_spans) {
      kernels_.attention_join(args, states, num_spans);
    }
  });
}

/**
 * KV heads that few queries attend to in one tile: all of them, whose K and V lie side by side, unless that leaves
 * threads without work.
 */
int64_t AttentionTasks::heads_a_tile(const AttentionStep& step) const {
  const int64_t num_kv_heads = step.shape.num_kv_heads;
  if (threads_.count() == 1) return num_kv_heads;
  int64_t num_spans = 0;
  for (int64_t request = 0; request < step.batch.num_requests(); ++request) {
    const int64_t end = step.batch.cu_seqlens_q[request + 1];
    if (end > step.batch.cu_seqlens_q[request]) num_spans += step.batch.positions[end - 1] / kSpan + 1;
  }
  const int64_t splits = std::clamp<int64_t>(4 * threads_.count() / std::max<int64_t>(num_spans, 1), 1, num_kv_heads);
  return (num_kv_heads + splits - 1) / splits;
}

/** Into tokens of one request: few for some KV heads, many for one. */
void AttentionTasks::cut_tiles(const AttentionStep& step) {
  const AttentionShape& shape = step.shape;
  const Batch& batch = step.batch;
  tiles_.clear();
  const int64_t group = shape.num_heads / shape.num_kv_heads;
  const int64_t tile_tokens = std::max<int64_t>(1, kTileQueries / group);
  const int64_t few_heads = heads_a_tile(step);
  for (int64_t request = 0; request < batch.num_requests(); ++request) {
    const int64_t end = batch.cu_seqlens_q[request + 1];
    for (int64_t token = batch.cu_seqlens_q[request]; token < end; token += tile_tokens) {
      const int64_t num_tokens = std::min(tile_tokens, end - token);
      const int64_t heads = num_tokens * group <= kSplitQueries ? few_heads : 1;
      for (int64_t kv_head = 0; kv_head < shape.num_kv_heads; kv_head += heads) {
        tiles_.push_back({request, token, num_tokens, kv_head, std::min(heads, shape.num_kv_heads - kv_head)});
      }
    }
  }
  // The latest tokens, which see the most keys, are begun first, so that threads end together.
  std::reverse(tiles_.begin(), tiles_.end());
}

/**
 * Cuts tiles into spans where threads would otherwise wait for one another: always where one token decodes
 * over a long context, and where there are few tiles. A span's state is as large as a tile's result.
 */
void AttentionTasks::cut_spans(const AttentionStep& step) {
  pieces_.clear();
  const int64_t num_tiles = static_cast<int64_t>(tiles_.size());
  const bool few = num_tiles < 2 * threads_.count();
  int64_t num_state_floats = 0;
  for (int64_t i = 0; i < num_tiles; ++i) {
    Tile& tile = tiles_[i];
    const AttentionArgs args = args_of(step, tile, 0);
    const int64_t num_rows = rows_of(args);
    tile.spans = spans_of(keys_of(args));
    const int64_t num_spans = tile.spans.end - tile.spans.begin;
    if (threads_.count() == 1 || num_spans == 1 || !(few || num_rows <= kSplitQueries)) {
      pieces_.push_back({i, -1});
      continue;
    }
    tile.first_state = num_state_floats;
    num_state_floats += num_spans * tile.num_kv_heads * attention_state_floats(num_rows, args.head_dim);
    for (int64_t span = tile.spans.begin; span < tile.spans.end; ++span) pieces_.push_back({i, span});
  }
  if (static_cast<int64_t>(states_.size()) < num_state_floats) states_.resize(num_state_floats);
  if (num_state_floats > 0) spans_done_ = std::make_unique<std::atomic<int64_t>[]>(num_tiles);
}

AttentionArgs AttentionTasks::args_of(const AttentionStep& step, const Tile& tile, int thread) {
  const AttentionShape& shape = step.shape;
  const KvLayout& layout = step.pool.layout;
  const int64_t group = shape.num_heads / shape.num_kv_heads;
  const int64_t head_dim = shape.head_dim;
  AttentionArgs args;
  args.q = step.qkv + tile.token * shape.qkv_dim() + tile.kv_head * group * head_dim;
  args.q_stride = shape.qkv_dim();
  args.positions = step.batch.positions.data() + tile.token;
  args.num_tokens = tile.num_tokens;
  args.num_kv_heads = tile.num_kv_heads;
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
  args.scratch = threads_.scratch(thread, attention_scratch_floats(rows_of(args), tile.num_kv_heads, head_dim));
  return args;
}

}  // namespace vllm_pd::cpu
