// KV pools and block ids as arguments.
#pragma once

#include <napi.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "kv_cache.h"

namespace vllm_pd::addon {

struct PoolHandle {
  std::shared_ptr<KvCache> cache;
};

/** Six whole numbers in the order of KvLayout. */
KvLayout to_layout(const Napi::Value& value);

/** Throws INVALID_ARGUMENT for a pool that is closed. */
std::shared_ptr<KvCache> open_cache(const Napi::Value& value);

/** Throws INVALID_ARGUMENT unless all of them are blocks of such a pool. */
void check_block_ids(const KvLayout& layout, const std::vector<int32_t>& block_ids);

}  // namespace vllm_pd::addon
