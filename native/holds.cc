// Holds by id.
#include "holds.h"

#include <algorithm>
#include <utility>

namespace vllm_pd {

void Holds::grant(const std::string& id, std::vector<int32_t> block_ids, std::chrono::milliseconds time) {
  std::sort(block_ids.begin(), block_ids.end());
  const std::lock_guard<std::mutex> lock(mutex_);
  holds_[id] = {std::move(block_ids), std::chrono::steady_clock::now() + time};
}

void Holds::end(const std::string& id) {
  const std::lock_guard<std::mutex> lock(mutex_);
  holds_.erase(id);
}

bool Holds::cover(const std::string& id, const std::vector<int32_t>& block_ids) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = holds_.find(id);
  if (found == holds_.end() || found->second.deadline <= std::chrono::steady_clock::now()) return false;
  const std::vector<int32_t>& held = found->second.block_ids;
  return std::all_of(block_ids.begin(), block_ids.end(),
                     [&](int32_t block) { return std::binary_search(held.begin(), held.end(), block); });
}

}  // namespace vllm_pd
