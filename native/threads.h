// The module's own threads: one that runs jobs in order, and a pool that splits one job's loops.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace vllm_pd {

/** Runs jobs one after the other on a thread of its own. */
class JobThread {
 public:
  JobThread();
  /** Runs what is queued, then joins. */
  ~JobThread();
  JobThread(const JobThread&) = delete;
  JobThread& operator=(const JobThread&) = delete;

  void submit(std::function<void()> job);
  /** The thread ends once its queue is empty; does not wait for it. */
  void stop();
  /** True when the thread has nothing left to run and joining it takes no time. */
  bool finished() const { return finished_.load(std::memory_order_acquire); }

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;
  bool stopping_ = false;
  std::atomic<bool> finished_{false};
  std::thread thread_;
};

/**
 * Pins the calling thread, the `index`-th of `num_threads` that work together, to a processor of its own, if this process
 * may use just as many; fewer threads stay where the system puts them, for others like them would get the same ones.
 * Some systems wake a thread beside the one that wakes it, and take some milliseconds to part them: as long as a prefill.
 */
void pin_to_own_processor(int index, int num_threads);

/** Threads that split loops. The caller of `parallel_for` is one of them; the others sleep between calls. */
class ThreadPool {
 public:
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  /** Gets sleeping threads up, for a loop that is about to come. From any thread. */
  void rouse();

  /** Calls `body(index, thread)` once for every index in [0, count), in any order; `thread` < num_threads().
   * One caller. */
  template <typename Body>
  void parallel_for(int64_t count, Body&& body) {
    using Plain = std::remove_reference_t<Body>;
    run(count,
        {const_cast<void*>(static_cast<const void*>(&body)),
         [](void* context, int64_t index, int thread) { (*static_cast<Plain*>(context))(index, thread); }});
  }

 private:
  struct Loop {
    void* context;
    void (*call)(void* context, int64_t index, int thread);
  };

  void run(int64_t count, Loop loop);
  void work(int worker);
  void take_indices(const Loop& loop, int64_t count, int thread);

  std::mutex mutex_;
  std::condition_variable opened_;
  std::condition_variable left_;
  // Written under the mutex; the two atomics are also looked at without it, for a moment, before sleeping.
  std::atomic<uint64_t> epoch_{0};
  std::atomic<int> num_inside_{0};
  bool open_ = false;
  bool stopping_ = false;
  Loop loop_{};
  int64_t count_ = 0;
  alignas(64) std::atomic<int64_t> next_{0};
  std::vector<std::thread> workers_;
};

}  // namespace vllm_pd
