// paged_attention: prefill and decode against softmax in float64, and each other's bits however a prompt is chunked.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "cuda/check/lab.h"

namespace vllm_pd::cuda::checks {
namespace {

struct Case {
  ElementType type;
  KvType kv;
  HeadsArgs heads;
  int32_t block_size;
  int32_t sliding_window;
  /** Tokens that each request has in all, and of those already cached. */
  std::vector<int32_t> totals;
  std::vector<int32_t> cached;
};

/** One layer's pool with the K and V of all requests in shuffled blocks; slots of nobody hold NaN. */
struct Cache {
  std::vector<float> keys;    // (sum of totals, num_kv_heads, head_dim)
  std::vector<float> values;  // likewise
  std::vector<int64_t> first;  // of each request, in tokens
  std::vector<int32_t> block_tables;
  std::vector<int32_t> cu_blocks;
  DeviceMemory pool;
  int64_t plane;
};

Cache fill_cache(Lab& lab, const Case& c) {
  const int64_t dim = c.heads.head_dim;
  const int64_t row = c.heads.num_kv_heads * dim;
  Cache cache;
  cache.plane = row * c.block_size;
  cache.cu_blocks.push_back(0);
  int64_t tokens = 0;
  for (const int32_t total : c.totals) {
    cache.first.push_back(tokens);
    tokens += total;
    cache.cu_blocks.push_back(cache.cu_blocks.back() + (total + c.block_size - 1) / c.block_size);
  }
  const int64_t num_blocks = cache.cu_blocks.back() + 1;
  cache.block_tables = lab.random.shuffled(num_blocks);
  const int64_t element_bytes = kv_element_bytes(c.kv);
  std::vector<uint8_t> pool(static_cast<size_t>(num_blocks * 2 * cache.plane * element_bytes), 0xff);
  const auto put = [&](int64_t at, float value) {
    if (element_bytes == 1) {
      pool[at] = from_float<E4M3>(value).bits;
      return to_float(E4M3{pool[at]});
    }
    const uint16_t bits = bits_of(c.type, value);
    std::memcpy(pool.data() + 2 * at, &bits, 2);
    return value_of(c.type, bits);
  };
  for (size_t request = 0; request < c.totals.size(); ++request) {
    for (int32_t position = 0; position < c.totals[request]; ++position) {
      const int64_t block = cache.block_tables[cache.cu_blocks[request] + position / c.block_size];
      for (int64_t i = 0; i < row; ++i) {
        const int64_t at = block * 2 * cache.plane +
                           (i / dim * c.block_size + position % c.block_size) * dim + i % dim;
        cache.keys.push_back(put(at, lab.random.value() * 2.0f));
        cache.values.push_back(put(at + cache.plane, lab.random.value()));
      }
    }
  }
  cache.pool = lab.upload(pool);
  return cache;
}

/** Queries of every token, (tokens, num_heads, head_dim), also of those that are cached. */
struct Queries {
  std::vector<Tensor> requests;
};

Queries make_queries(Lab& lab, const Case& c) {
  Queries queries;
  for (const int32_t total : c.totals)
    queries.requests.push_back(lab.tensor(c.type, int64_t{total} * c.heads.num_heads * c.heads.head_dim, 2.0f));
  return queries;
}

/** Tokens [begin, end) of one request. */
struct Chunk {
  int32_t request;
  int32_t begin;
  int32_t end;
};

AttentionArgs base_args(const Case& c, const Cache& cache) {
  AttentionArgs args{};
  const int64_t element_bytes = kv_element_bytes(c.kv);
  args.kv.keys = cache.pool.as<void>();
  args.kv.values = cache.pool.as<uint8_t>() + cache.plane * element_bytes;
  args.kv.block_stride = 2 * cache.plane;
  args.kv.block_size = c.block_size;
  args.kv.k_scale = c.kv == KvType::kE4M3 ? 0.5f : 1.0f;
  args.kv.v_scale = c.kv == KvType::kE4M3 ? 2.0f : 1.0f;
  args.heads = c.heads;
  args.softmax_scale = 1.0f / std::sqrt(static_cast<float>(c.heads.head_dim));
  args.sliding_window = c.sliding_window;
  return args;
}

/** The chunks' rows of qkv: queries where they belong, NaN where K and V were. */
std::vector<uint16_t> rows_of(const Case& c, const Queries& queries, const std::vector<Chunk>& chunks) {
  const int64_t q_dim = int64_t{c.heads.num_heads} * c.heads.head_dim;
  const int64_t kv_dim = int64_t{2} * c.heads.num_kv_heads * c.heads.head_dim;
  std::vector<uint16_t> rows;
  for (const Chunk& chunk : chunks) {
    const std::vector<uint16_t>& bits = queries.requests[chunk.request].bits;
    for (int32_t token = chunk.begin; token < chunk.end; ++token) {
      rows.insert(rows.end(), bits.begin() + token * q_dim, bits.begin() + (token + 1) * q_dim);
      rows.insert(rows.end(), static_cast<size_t>(kv_dim), 0xffff);
    }
  }
  return rows;
}

struct Tables {
  std::vector<int32_t> positions;
  std::vector<int32_t> block_tables;
  std::vector<int32_t> cu_blocks = {0};
};

/** A batch lists the requests of its chunks, in their order. */
Tables tables_of(const Cache& cache, const std::vector<Chunk>& chunks) {
  Tables tables;
  for (const Chunk& chunk : chunks) {
    for (int32_t position = chunk.begin; position < chunk.end; ++position) tables.positions.push_back(position);
    tables.block_tables.insert(tables.block_tables.end(), cache.block_tables.begin() + cache.cu_blocks[chunk.request],
                               cache.block_tables.begin() + cache.cu_blocks[chunk.request + 1]);
    tables.cu_blocks.push_back(static_cast<int32_t>(tables.block_tables.size()));
  }
  return tables;
}

std::vector<AttentionTile> tiles_of(const Case& c, const std::vector<Chunk>& chunks) {
  const auto step = static_cast<int32_t>(tokens_per_tile(c.heads));
  std::vector<AttentionTile> tiles;
  int32_t first = 0;
  for (size_t request = 0; request < chunks.size(); ++request) {
    const int32_t count = chunks[request].end - chunks[request].begin;
    for (int32_t token = 0; token < count; token += step)
      tiles.push_back({static_cast<int32_t>(request), first + token, std::min(step, count - token)});
    first += count;
  }
  return tiles;
}

/** (rows of all chunks, num_heads * head_dim) as bits. `decode`: each chunk is one token. */
std::vector<uint16_t> attend(Lab& lab, const Case& c, const Cache& cache, const Queries& queries,
                             const std::vector<Chunk>& chunks, bool decode) {
  const int64_t q_dim = int64_t{c.heads.num_heads} * c.heads.head_dim;
  const Tables tables = tables_of(cache, chunks);
  const auto num_tokens = static_cast<int64_t>(tables.positions.size());
  const DeviceMemory qkv = lab.upload(rows_of(c, queries, chunks));
  const DeviceMemory positions = lab.upload(tables.positions);
  const DeviceMemory block_tables = lab.upload(tables.block_tables);
  const DeviceMemory cu_blocks = lab.upload(tables.cu_blocks);
  const DeviceMemory out = lab.space(num_tokens * q_dim * 2);
  AttentionArgs args = base_args(c, cache);
  args.qkv = qkv.as<void>();
  args.out = out.as<void>();
  args.positions = positions.as<int32_t>();
  args.block_tables = block_tables.as<int32_t>();
  args.cu_blocks = cu_blocks.as<int32_t>();
  Kernels kernels = lab.kernels(c.type, c.kv);
  if (decode) {
    const int64_t segments = num_segments(*std::max_element(c.totals.begin(), c.totals.end())) + 1;
    const int64_t partials = num_tokens * c.heads.num_heads * segments;
    const DeviceMemory partial_out = lab.space(partials * c.heads.head_dim * 4);
    const DeviceMemory partial_max = lab.space(partials * 4);
    const DeviceMemory partial_sum = lab.space(partials * 4);
    args.num_segments = static_cast<int32_t>(segments);
    args.partial_out = partial_out.as<float>();
    args.partial_max = partial_max.as<float>();
    args.partial_sum = partial_sum.as<float>();
    kernels.paged_attention_decode(args, num_tokens, lab.stream().get());
    return lab.download<uint16_t>(out, num_tokens * q_dim);
  }
  const std::vector<AttentionTile> tiles = tiles_of(c, chunks);
  const auto num_tiles = static_cast<int64_t>(tiles.size());
  const DeviceMemory tiles_memory = lab.upload(tiles);
  const DeviceMemory running = lab.space(prefill_scratch_floats(c.heads, num_tiles) * 4);
  args.tiles = tiles_memory.as<AttentionTile>();
  args.running = running.as<float>();
  kernels.paged_attention_prefill(args, num_tiles, lab.stream().get());
  return lab.download<uint16_t>(out, num_tokens * q_dim);
}

/** One token's attention, (num_heads, head_dim), appended to `out`. */
void reference(const Case& c, const Cache& cache, const Queries& queries, int32_t request, int32_t position,
               std::vector<double>& out) {
  const int64_t dim = c.heads.head_dim;
  const int32_t low = c.sliding_window > 0 ? std::max(0, position - c.sliding_window + 1) : 0;
  const AttentionArgs args = base_args(c, cache);
  for (int32_t head = 0; head < c.heads.num_heads; ++head) {
    const float* const q =
        queries.requests[request].values.data() + (int64_t{position} * c.heads.num_heads + head) * dim;
    const int64_t kv_head = head / (c.heads.num_heads / c.heads.num_kv_heads);
    std::vector<double> weights;
    double max = -INFINITY;
    const auto row = [&](int32_t key) { return ((cache.first[request] + key) * c.heads.num_kv_heads + kv_head) * dim; };
    for (int32_t key = low; key <= position; ++key) {
      double score = 0;
      for (int64_t i = 0; i < dim; ++i) score += static_cast<double>(q[i]) * cache.keys[row(key) + i] * args.kv.k_scale;
      weights.push_back(score * args.softmax_scale);
      max = std::max(max, weights.back());
    }
    double sum = 0;
    for (double& weight : weights) sum += weight = std::exp(weight - max);
    for (int64_t i = 0; i < dim; ++i) {
      double value = 0;
      for (int32_t key = low; key <= position; ++key) value += weights[key - low] * cache.values[row(key) + i];
      out.push_back(value / sum * args.kv.v_scale);
    }
  }
}

std::string label(const Case& c, const char* how) {
  return std::string("paged_attention ") + how + " " + name_of(c.type) + ", KV " + name_of(c.kv) + ", heads " +
         std::to_string(c.heads.num_heads) + "/" + std::to_string(c.heads.num_kv_heads) + " of " +
         std::to_string(c.heads.head_dim) + ", blocks of " + std::to_string(c.block_size) +
         (c.sliding_window ? ", window " + std::to_string(c.sliding_window) : "");
}

std::vector<uint16_t> slice(const std::vector<uint16_t>& rows, int64_t begin, int64_t end, int64_t width) {
  return std::vector<uint16_t>(rows.begin() + begin * width, rows.begin() + end * width);
}

void check_case(Lab& lab, const Case& c) {
  const Cache cache = fill_cache(lab, c);
  const Queries queries = make_queries(lab, c);
  const int64_t q_dim = int64_t{c.heads.num_heads} * c.heads.head_dim;
  std::vector<Chunk> whole;
  std::vector<double> want;
  for (size_t i = 0; i < c.totals.size(); ++i) {
    whole.push_back({static_cast<int32_t>(i), c.cached[i], c.totals[i]});
    for (int32_t token = c.cached[i]; token < c.totals[i]; ++token)
      reference(c, cache, queries, static_cast<int32_t>(i), token, want);
  }
  const std::vector<uint16_t> prefill = attend(lab, c, cache, queries, whole, false);
  std::vector<float> values;
  for (const uint16_t bits : prefill) values.push_back(value_of(c.type, bits));
  // Weights are rounded to the element type before they meet the values.
  const double absolute = (c.kv == KvType::kE4M3 ? 4.0 : 1.0) * half_unit(c.type);
  lab.close(label(c, "prefill"), values, want, absolute, 1.02 * half_unit(c.type));

  // The first request alone and in two chunks, and its last tokens one by one among the others.
  const Chunk first = whole.front();
  const int64_t count = first.end - first.begin;
  const int32_t middle = first.begin + static_cast<int32_t>(count * 2 / 5);
  std::vector<uint16_t> chunked = attend(lab, c, cache, queries, {{0, first.begin, middle}}, false);
  const std::vector<uint16_t> rest = attend(lab, c, cache, queries, {{0, middle, first.end}}, false);
  chunked.insert(chunked.end(), rest.begin(), rest.end());
  lab.same(label(c, "in two chunks"), chunked, slice(prefill, 0, count, q_dim));

  std::vector<Chunk> last;
  std::vector<uint16_t> expected;
  int64_t row = 0;
  for (const Chunk& chunk : whole) {
    row += chunk.end - chunk.begin;
    for (int32_t back = std::min(3, chunk.end - chunk.begin); back > 0; --back) {
      last.push_back({chunk.request, chunk.end - back, chunk.end - back + 1});
      const std::vector<uint16_t> of_prefill = slice(prefill, row - back, row - back + 1, q_dim);
      expected.insert(expected.end(), of_prefill.begin(), of_prefill.end());
    }
  }
  lab.same(label(c, "decode"), attend(lab, c, cache, queries, last, true), expected);
}

}  // namespace

void check_paged_attention(Lab& lab) {
  const ElementType bf16 = ElementType::kBF16;
  const ElementType f16 = ElementType::kF16;
  // Across a segment's end, with a cached prefix; a short request beside it.
  check_case(lab, {bf16, KvType::kBF16, {4, 2, 64}, 16, 0, {545, 9}, {500, 0}});
  check_case(lab, {f16, KvType::kF16, {2, 1, 128}, 8, 0, {70, 1, 33}, {0, 0, 30}});
  // Head sizes below what is compiled, groups that do not divide 16, blocks that are no power of two.
  check_case(lab, {bf16, KvType::kBF16, {3, 1, 24}, 5, 0, {90}, {7}});
  check_case(lab, {f16, KvType::kF16, {20, 1, 16}, 16, 0, {40, 3}, {0, 0}});
  // The window begins in one segment and ends in the next, and later inside one.
  check_case(lab, {bf16, KvType::kBF16, {2, 2, 40}, 16, 70, {560, 20}, {490, 0}});
  check_case(lab, {bf16, KvType::kE4M3, {4, 1, 64}, 16, 0, {530}, {500}});
  check_case(lab, {f16, KvType::kE4M3, {2, 2, 128}, 16, 17, {50}, {0}});
}

}  // namespace vllm_pd::cuda::checks
