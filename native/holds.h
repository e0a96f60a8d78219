// Which blocks peers may read right now, and until when: told by the scheduler, asked by whoever serves a read.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace vllm_pd {

/** From any thread. */
class Holds {
 public:
  /** Until `end` or for so long, whichever comes first. What was granted under the id before is over. */
  void grant(const std::string& id, std::vector<int32_t> block_ids, std::chrono::milliseconds time);
  void end(const std::string& id);
  /** Whether the hold stands and all of these blocks are under it. */
  bool cover(const std::string& id, const std::vector<int32_t>& block_ids) const;

 private:
  struct Hold {
    /** In order. */
    std::vector<int32_t> block_ids;
    std::chrono::steady_clock::time_point deadline;
  };

  mutable std::mutex mutex_;
  std::map<std::string, Hold> holds_;
};

}  // namespace vllm_pd
