// Ways of copying, tried out: which is the fastest differs from chip to chip, by as much as two thirds.
#include "copy_choice.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>

#include "huge_floats.h"
#include "threads.h"

#if defined(VLLM_PD_X86)
#include <immintrin.h>
#endif

namespace vllm_pd {
namespace {

constexpr int64_t kBytes = 1 << 20;
constexpr int64_t kPieceBytes = 128 << 10;
/** So that some are disturbed by nobody. */
constexpr int kNumRounds = 6;
/** Less than this gain is chance. */
constexpr double kFaster = 0.9;

std::atomic<Copy> chosen{nullptr};

#if defined(VLLM_PD_X86)

/** Out of all caches, as blocks are that another process wrote, or that hold something of long ago. */
__attribute__((target("clflushopt"))) void forget(const uint8_t* data, int64_t num_bytes) {
  for (int64_t at = 0; at < num_bytes; at += 64) _mm_clflushopt(const_cast<uint8_t*>(data + at));
  _mm_sfence();
}

bool can_forget() { return __builtin_cpu_supports("clflushopt"); }

#else

void forget(const uint8_t*, int64_t) {}

bool can_forget() { return false; }

#endif

double seconds_of(ThreadPool& threads, Copy copy, uint8_t* to, const uint8_t* from) {
  forget(from, kBytes);
  forget(to, kBytes);
  threads.rouse();
  const auto begin = std::chrono::steady_clock::now();
  threads.parallel_for(kBytes / kPieceBytes, [&](int64_t index, int) {
    copy(to + index * kPieceBytes, from + index * kPieceBytes, kPieceBytes, nullptr);
    end_copies();
  });
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

Copy fastest(int num_threads) {
  const std::vector<Copy>& copies = long_copies();
  HugeFloats floats(2 * kBytes / static_cast<int64_t>(sizeof(float)));
  auto* const from = reinterpret_cast<uint8_t*>(floats.data());
  std::fill_n(from, 2 * kBytes, uint8_t{1});
  ThreadPool threads(num_threads);
  std::vector<double> seconds(copies.size(), 1);
  // In turns, so that what else the machine does hits all alike.
  for (int round = 0; round < kNumRounds; ++round) {
    for (size_t i = 0; i < copies.size(); ++i)
      seconds[i] = std::min(seconds[i], seconds_of(threads, copies[i], from + kBytes, from));
  }
  const size_t best = std::min_element(seconds.begin(), seconds.end()) - seconds.begin();
  return copies[seconds[best] < kFaster * seconds[0] ? best : 0];
}

}  // namespace

Copy long_copy() {
  const Copy copy = chosen.load(std::memory_order_relaxed);
  return copy != nullptr ? copy : long_copies().front();
}

void find_long_copy(int num_threads) {
  static std::once_flag found;
  if (!can_forget()) return;
  std::call_once(found, [=] { chosen.store(fastest(num_threads), std::memory_order_relaxed); });
}

}  // namespace vllm_pd
