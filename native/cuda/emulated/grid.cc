// Fibers that stand for the threads of one block, and what they wait for.
#include "cuda/emulated/grid.h"

#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <vector>

namespace vllm_pd::cuda::emulated {
namespace {

constexpr size_t kStackBytes = 64 * 1024;
constexpr size_t kMaxSharedBytes = 227 * 1024;

struct Copy {
  void* to;
  const void* from;
  int num_bytes;
};

/** Passed when all have arrived; counts how often. */
struct Gate {
  uint32_t arrived = 0;
  uint64_t passed = 0;
};

struct Warp {
  Gate gate;
  uint32_t words[2][kLanes][kExchangeWords];
};

struct Fiber {
  Position position;
  std::unique_ptr<uint8_t[]> stack = std::make_unique<uint8_t[]>(kStackBytes);
  ucontext_t start;
  jmp_buf resume;
  bool started = false;
  bool done = false;
  const Gate* waits_at = nullptr;
  uint64_t waits_beyond = 0;
  uint32_t num_exchanges = 0;
  std::vector<Copy> copies;
  std::deque<std::vector<Copy>> groups;
};

struct Block {
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Warp> warps;
  Gate gate;
  uint32_t num_threads = 0;
  const Kernel* kernel = nullptr;
  const void* args = nullptr;
  alignas(128) uint8_t shared[kMaxSharedBytes];
};

Block block_state;
Fiber* running = nullptr;
jmp_buf scheduler;
ucontext_t scheduler_context;
const Kernel* kernels = nullptr;

[[noreturn]] void hang(const char* why) {
  const Index3& at = running->position.block;
  std::fprintf(stderr, "Emulated kernel %s, block (%u, %u, %u), thread %u: %s.\n", block_state.kernel->name,
               at.x, at.y, at.z, running->position.thread.x, why);
  std::abort();
}

void yield() {
  if (_setjmp(running->resume) == 0) _longjmp(scheduler, 1);
}

void wait_at(Gate& gate, uint32_t num_threads) {
  if (++gate.arrived == num_threads) {
    gate.arrived = 0;
    ++gate.passed;
    return;
  }
  running->waits_at = &gate;
  running->waits_beyond = gate.passed;
  yield();
  running->waits_at = nullptr;
}

Warp& warp_of(const Fiber& fiber) { return block_state.warps[fiber.position.thread.x / kLanes]; }

void fiber_main() {
  block_state.kernel->body(block_state.args);
  running->done = true;
  _longjmp(scheduler, 1);
}

void resume(Fiber& fiber) {
  running = &fiber;
  if (_setjmp(scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.resume, 1);
  fiber.started = true;
  swapcontext(&scheduler_context, &fiber.start);
}

void prepare(Fiber& fiber) {
  fiber.started = false;
  fiber.done = false;
  fiber.waits_at = nullptr;
  fiber.num_exchanges = 0;
  fiber.copies.clear();
  fiber.groups.clear();
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = fiber.stack.get();
  fiber.start.uc_stack.ss_size = kStackBytes;
  fiber.start.uc_link = nullptr;
  makecontext(&fiber.start, fiber_main, 0);
}

std::vector<uint32_t> order_of(uint32_t count, uint32_t schedule) {
  std::vector<uint32_t> order(count);
  for (uint32_t i = 0; i < count; ++i) order[i] = schedule == 1 ? count - 1 - i : i;
  uint64_t state = schedule;
  for (uint32_t i = count; schedule > 1 && i > 1; --i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    std::swap(order[i - 1], order[(state >> 33) % i]);
  }
  return order;
}

void run_block(const std::vector<uint32_t>& order) {
  std::memset(block_state.shared, 0xff, sizeof block_state.shared);
  block_state.gate = Gate{};
  block_state.warps.assign((block_state.num_threads + kLanes - 1) / kLanes, Warp{});
  for (uint32_t i : order) prepare(*block_state.fibers[i]);
  uint32_t alive = block_state.num_threads;
  while (alive > 0) {
    bool moved = false;
    for (uint32_t i : order) {
      Fiber& fiber = *block_state.fibers[i];
      if (fiber.done || (fiber.waits_at && fiber.waits_at->passed == fiber.waits_beyond)) continue;
      resume(fiber);
      moved = true;
      if (fiber.done) --alive;
    }
    if (!moved) hang("waits at a barrier or shuffle that other threads never reach");
  }
}

}  // namespace

const Position& position() { return running->position; }
uint8_t* shared_bytes() { return block_state.shared; }
void block_barrier() { wait_at(block_state.gate, block_state.num_threads); }
void warp_barrier() { wait_at(warp_of(*running).gate, kLanes); }

const uint32_t (*exchange(const uint32_t* words, int num_words))[kExchangeWords] {
  Warp& warp = warp_of(*running);
  auto& slots = warp.words[running->num_exchanges++ % 2];
  std::memcpy(slots[running->position.thread.x % kLanes], words, num_words * sizeof(uint32_t));
  warp_barrier();
  return slots;
}

void copy_later(void* shared, const void* global, int num_bytes) {
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0 || (num_bytes > 0 && reinterpret_cast<uintptr_t>(global) % 16 != 0))
    hang("copies asynchronously from or to an address that is not a multiple of 16");
  std::memset(shared, 0xff, 16);
  running->copies.push_back({shared, global, num_bytes});
}

void commit_copies() {
  running->groups.push_back(std::move(running->copies));
  running->copies.clear();
}

void wait_copies(int groups_under_way) {
  while (static_cast<int>(running->groups.size()) > groups_under_way) {
    for (const Copy& copy : running->groups.front()) {
      std::memset(copy.to, 0, 16);
      if (copy.num_bytes > 0) std::memcpy(copy.to, copy.from, copy.num_bytes);
    }
    running->groups.pop_front();
  }
}

Registration::Registration(Kernel* kernel) {
  kernel->next = kernels;
  kernels = kernel;
}

const Kernel* find_kernel(const char* name) {
  const Kernel* kernel = kernels;
  while (kernel && std::strcmp(kernel->name, name) != 0) kernel = kernel->next;
  return kernel;
}

void run_grid(const Kernel& kernel, const void* args, Index3 grid, Index3 block, size_t, uint32_t schedule) {
  block_state.kernel = &kernel;
  block_state.args = args;
  block_state.num_threads = block.x;
  while (block_state.fibers.size() < block.x) block_state.fibers.push_back(std::make_unique<Fiber>());
  const std::vector<uint32_t> order = order_of(block.x, schedule);
  for (uint32_t z = 0; z < grid.z; ++z) {
    for (uint32_t y = 0; y < grid.y; ++y) {
      for (uint32_t x = 0; x < grid.x; ++x) {
        for (uint32_t i = 0; i < block.x; ++i)
          block_state.fibers[i]->position = {{i, 0, 0}, {x, y, z}, block, grid};
        run_block(order);
      }
    }
  }
}

}  // namespace vllm_pd::cuda::emulated
