// What every backend asks of a batch.
#include "model.h"

#include "error.h"

namespace vllm_pd {
namespace {

[[noreturn]] void reject(const std::string& what, const std::string& expected, int64_t received) {
  throw Error("INVALID_ARGUMENT",
              "Expected " + what + " to be " + expected + " but received " + std::to_string(received) + ".");
}

/** A prefix sum from 0 to `total`, never falling. */
void check_prefix_sums(const std::string& name, const std::vector<int32_t>& sums, size_t num_requests,
                       int64_t total) {
  if (sums.size() != num_requests + 1) {
    reject("the length of " + name, std::to_string(num_requests + 1), static_cast<int64_t>(sums.size()));
  }
  if (sums.front() != 0) reject(name + "[0]", "0", sums.front());
  for (size_t i = 1; i < sums.size(); ++i) {
    if (sums[i] < sums[i - 1])
      reject(name + "[" + std::to_string(i) + "]", "at least its predecessor", sums[i]);
  }
  if (sums.back() != total) reject("the last of " + name, std::to_string(total), sums.back());
}

void check_range(const std::string& name, const std::vector<int32_t>& values, int64_t end) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] < 0 || values[i] >= end) {
      reject(name + "[" + std::to_string(i) + "]", "from 0 to " + std::to_string(end - 1), values[i]);
    }
  }
}

}  // namespace

void Model::forward_and_sample(const KvRegion&, const Batch&, const Sampling&, int32_t*, float*) {
  throw Error("NOT_SUPPORTED", "Tokens are drawn by the model itself on a GPU only.");
}

void check_sampling(const Batch& batch, const Sampling& sampling) {
  const auto num_rows = static_cast<int64_t>(batch.logits_indices.size());
  check_range("logitsRows", sampling.logits_rows, num_rows);
  for (const Draw& draw : sampling.draws) check_range("rows of draws", {draw.row}, num_rows);
}

void check_batch(const ModelConfig& config, const KvLayout& layout, const Batch& batch) {
  const AttentionShape& shape = config.attention;
  if (layout.num_layers != config.num_layers || layout.num_kv_heads != shape.num_kv_heads ||
      layout.head_dim != shape.head_dim) {
    throw Error("INVALID_ARGUMENT", "Expected a KV pool for " + std::to_string(config.num_layers) +
                                        " layers, " + std::to_string(shape.num_kv_heads) +
                                        " KV heads, head size " + std::to_string(shape.head_dim) +
                                        " but received " + layout.to_string() + ".");
  }
  const int64_t num_tokens = batch.num_tokens();
  if (batch.cu_seqlens_q.empty()) reject("the length of cuSeqlensQ", "at least 1", 0);
  const size_t num_requests = batch.cu_seqlens_q.size() - 1;
  check_prefix_sums("cuSeqlensQ", batch.cu_seqlens_q, num_requests, num_tokens);
  check_prefix_sums("cuBlocks", batch.cu_blocks, num_requests,
                    static_cast<int64_t>(batch.block_tables.size()));
  if (batch.positions.size() != batch.token_ids.size()) {
    reject("the length of positions", std::to_string(num_tokens),
           static_cast<int64_t>(batch.positions.size()));
  }
  check_range("tokenIds", batch.token_ids, config.vocab_size);
  check_range("blockTables", batch.block_tables, layout.num_blocks);
  check_range("logitsIndices", batch.logits_indices, num_tokens);
  for (size_t request = 0; request < num_requests; ++request) {
    const int64_t num_slots = (batch.cu_blocks[request + 1] - batch.cu_blocks[request]) * layout.block_size;
    for (int64_t token = batch.cu_seqlens_q[request]; token < batch.cu_seqlens_q[request + 1]; ++token) {
      if (batch.positions[token] >= 0 && batch.positions[token] < num_slots) continue;
      reject("positions[" + std::to_string(token) + "] of request " + std::to_string(request),
             "within the " + std::to_string(num_slots) + " slots of its block table", batch.positions[token]);
    }
  }
}

}  // namespace vllm_pd
