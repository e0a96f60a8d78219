// Single ops, and what the machine could do at most, for `vllm-pd bench kernels`. The engine uses none of it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace vllm_pd {

/** A piece of work with everything that it needs, and threads of its own that sleep between rounds. */
class Probe {
 public:
  virtual ~Probe() = default;
  /** One round, on the calling thread and the probe's own. */
  virtual void run() = 0;
};

// clang-format off
/**
 * `kind` and its `sizes`; a weight type is 0 = float32, 1 = bfloat16, 2 = int8:
 *   fma        num_threads, num_fmas, weight_type         multiply-adds in registers, all threads together
 *   read       num_threads, num_bytes                     reads one buffer
 *   copy       num_threads, num_bytes, num_places         memcpy from one buffer to another, round after round in the next place
 *   socket     num_threads, num_bytes                     streams over that many loopback connections at once
 *   matmul     num_threads, num_rows, k, n, weight_type   Ops::matmul
 *   attention  num_threads, num_requests, num_tokens, num_context_tokens, num_layers, num_heads, num_kv_heads,
 *              head_dim, block_size, dtype (KvDtype)      Ops::paged_attention of `num_tokens` behind a context,
 *                                                         each request, layer after layer
 *   attention_reads  likewise                             K and V are read as they are for that, and nothing is computed
 * Throws INVALID_ARGUMENT for another kind or number of sizes, and when memory does not suffice.
 */
// clang-format on
std::unique_ptr<Probe> make_probe(const std::string& kind, const std::vector<int64_t>& sizes);

}  // namespace vllm_pd
