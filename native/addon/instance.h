// What one environment (a Node process, or a worker thread of it) has running natively.
#pragma once

#include <memory>
#include <vector>

#include "data_channel.h"
#include "threads.h"

namespace vllm_pd::addon {

/** Native threads of this environment; all are joined before its code may be unloaded. */
struct Instance {
  std::vector<std::shared_ptr<JobThread>> threads;
  std::shared_ptr<JobThread> transfers;
  /** Used by jobs on `transfers` only, which hold it until the last of them has ended. */
  std::shared_ptr<ThreadPool> transfer_pool;

  /** Their receiving is ended before its threads are waited for. */
  std::vector<std::weak_ptr<DataLanes>> lanes;

  ~Instance() {
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
