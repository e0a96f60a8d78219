// What one environment (a Node process, or a worker thread of it) has running natively.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "data_channel.h"
#include "threads.h"

namespace vllm_pd::addon {

/** Native threads of this environment; all are joined before its code may be unloaded. */
struct Instance {
  std::vector<std::shared_ptr<JobThread>> threads;
  std::shared_ptr<JobThread> transfers;
  /** Used by jobs on `transfers`, which hold it until the last of them has ended, and here while there are none. */
  std::shared_ptr<ThreadPool> transfer_pool;
  /** Reads that are queued or run on `transfers`. */
  std::shared_ptr<std::atomic<int>> num_reads = std::make_shared<std::atomic<int>>(0);
  /** What goes on in the background for its own sake ends. */
  std::shared_ptr<std::atomic<bool>> closing = std::make_shared<std::atomic<bool>>(false);

  /** Their receiving is ended before its threads are waited for. */
  std::vector<std::weak_ptr<DataLanes>> lanes;

  ~Instance() {
    *closing = true;
    for (const auto& weak : lanes) {
      if (const auto open = weak.lock()) open->shut_down();
    }
    for (const auto& thread : threads) thread->stop();
  }

  std::shared_ptr<JobThread> new_thread() {
    const auto done = [](const std::shared_ptr<JobThread>& thread) { return thread->finished(); };
    threads.erase(std::remove_if(threads.begin(), threads.end(), done), threads.end());
    threads.push_back(std::make_shared<JobThread>());
    return threads.back();
  }
};

}  // namespace vllm_pd::addon
