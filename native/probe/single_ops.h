// Single ops of the CPU backend on made-up values.
#pragma once

#include <cstdint>
#include <memory>

#include "kv_cache.h"
#include "ops.h"
#include "probe/probe.h"

namespace vllm_pd {

/** Requests with contexts in blocks of their own, `num_tokens` queries each. */
struct AttentionSizes {
  int64_t num_requests;
  int64_t num_tokens;
  int64_t num_context_tokens;
  int64_t num_layers;
  AttentionShape shape;
  int64_t block_size;
  KvDtype dtype;

  int64_t blocks_a_request() const { return (num_context_tokens + num_tokens + block_size - 1) / block_size; }
};

/** (num_rows, k) times packed weights (n, k). */
std::unique_ptr<Probe> make_matmul_probe(int num_threads, int64_t num_rows, const MatrixShape& shape);
std::unique_ptr<Probe> make_attention_probe(int num_threads, const AttentionSizes& sizes);
/** Reads K and V in attention's order and computes nothing: what that order allows. */
std::unique_ptr<Probe> make_attention_reads_probe(int num_threads, const AttentionSizes& sizes);

}  // namespace vllm_pd
