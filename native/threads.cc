// The module's own threads.
#include "threads.h"

#if defined(__linux__)
#include <sched.h>
#endif

#include <chrono>

namespace vllm_pd {
namespace {

/**
 * A forward pass is some tens of loops with a few microseconds between them, and putting a thread to sleep
 * and waking it costs more than that. So a thread looks for this long before it sleeps; between forward
 * passes it sleeps.
 */
constexpr auto kLookBeforeSleep = std::chrono::microseconds(20);

template <typename Ready>
bool look_for(Ready&& ready) {
  const auto deadline = std::chrono::steady_clock::now() + kLookBeforeSleep;
  do {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return false;
}

}  // namespace

void pin_to_own_processor(int index, int num_threads) {
#if defined(__linux__)
  cpu_set_t allowed;
  if (num_threads < 2 || sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  if (CPU_COUNT(&allowed) != num_threads) return;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || index-- != 0) continue;
    cpu_set_t own;
    CPU_ZERO(&own);
    CPU_SET(cpu, &own);
    sched_setaffinity(0, sizeof(own), &own);
    return;
  }
#endif
}

JobThread::JobThread() : thread_([this] { run(); }) {}

JobThread::~JobThread() {
  stop();
  thread_.join();
}

void JobThread::submit(std::function<void()> job) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  changed_.notify_one();
}

void JobThread::stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
}

void JobThread::run() {
  for (;;) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
    if (jobs_.empty()) break;
    std::function<void()> job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    job();
  }
  finished_.store(true, std::memory_order_release);
}

ThreadPool::ThreadPool(int num_threads) {
  for (int worker = 1; worker < num_threads; ++worker) {
    workers_.emplace_back([this, worker, num_threads] {
      pin_to_own_processor(worker, num_threads);
      work(worker);
    });
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    epoch_.fetch_add(1, std::memory_order_release);
  }
  opened_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::take_indices(const Loop& loop, int64_t count, int thread) {
  for (int64_t index = next_.fetch_add(1); index < count; index = next_.fetch_add(1)) {
    loop.call(loop.context, index, thread);
  }
}

void ThreadPool::rouse() {
  {
    // They find nothing open, and look for the next loop for a while.
    std::lock_guard<std::mutex> lock(mutex_);
    epoch_.fetch_add(1, std::memory_order_release);
  }
  opened_.notify_all();
}

void ThreadPool::run(int64_t count, Loop loop) {
  if (workers_.empty() || count <= 1) {
    for (int64_t index = 0; index < count; ++index) loop.call(loop.context, index, 0);
    return;
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    loop_ = loop;
    count_ = count;
    next_.store(0, std::memory_order_relaxed);
    open_ = true;
    epoch_.fetch_add(1, std::memory_order_release);
  }
  opened_.notify_all();
  take_indices(loop, count, 0);
  std::unique_lock<std::mutex> lock(mutex_);
  // Closed before waiting: a worker that was not given a core in time is not waited for.
  open_ = false;
  if (num_inside_.load(std::memory_order_acquire) == 0) return;
  lock.unlock();
  if (look_for([this] { return num_inside_.load(std::memory_order_acquire) == 0; })) return;
  lock.lock();
  left_.wait(lock, [this] { return num_inside_.load(std::memory_order_acquire) == 0; });
}

void ThreadPool::work(int worker) {
  uint64_t seen = 0;
  for (;;) {
    look_for([&] { return epoch_.load(std::memory_order_acquire) != seen; });
    std::unique_lock<std::mutex> lock(mutex_);
    opened_.wait(lock, [&] { return epoch_.load(std::memory_order_relaxed) != seen; });
    seen = epoch_.load(std::memory_order_relaxed);
    if (stopping_) return;
    if (!open_) continue;
    num_inside_.fetch_add(1, std::memory_order_relaxed);
    const Loop loop = loop_;
    const int64_t count = count_;
    lock.unlock();
    take_indices(loop, count, worker);
    lock.lock();
    // The caller may be looking at it without the mutex; everything this worker wrote is released with it.
    if (num_inside_.fetch_sub(1, std::memory_order_release) == 1) left_.notify_one();
  }
}

}  // namespace vllm_pd
