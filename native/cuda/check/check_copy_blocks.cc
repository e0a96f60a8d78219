// copy_blocks and captured graphs: what moves, moves whole, and nothing else changes.
#include <cstring>

#include "cuda/check/lab.h"

namespace vllm_pd::cuda::checks {
namespace {

std::vector<uint8_t> random_bytes(Lab& lab, int64_t count) {
  std::vector<uint8_t> bytes(static_cast<size_t>(count));
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(lab.random.bits());
  return bytes;
}

void check_copy_of(Lab& lab, int64_t block_bytes, int64_t num_blocks, int64_t pool_blocks) {
  Kernels kernels = lab.kernels(ElementType::kBF16, KvType::kBF16);
  const std::string what = "copy_blocks " + std::to_string(num_blocks) + " of " + std::to_string(block_bytes) + " bytes";
  const std::vector<uint8_t> from = random_bytes(lab, pool_blocks * block_bytes);
  const std::vector<uint8_t> to = random_bytes(lab, pool_blocks * block_bytes);
  std::vector<int32_t> from_ids = lab.random.shuffled(pool_blocks);
  std::vector<int32_t> to_ids = lab.random.shuffled(pool_blocks);
  from_ids.resize(static_cast<size_t>(num_blocks));
  to_ids.resize(static_cast<size_t>(num_blocks));
  const DeviceMemory from_memory = lab.upload(from);
  const DeviceMemory to_memory = lab.upload(to);
  const DeviceMemory from_ids_memory = lab.upload(from_ids);
  const DeviceMemory to_ids_memory = lab.upload(to_ids);
  const auto block = [&](const std::vector<uint8_t>& pool, int32_t id) { return pool.data() + id * block_bytes; };

  std::vector<uint8_t> want = to;
  std::vector<uint8_t> gathered(static_cast<size_t>(num_blocks * block_bytes));
  for (int64_t i = 0; i < num_blocks; ++i) {
    std::memcpy(want.data() + to_ids[i] * block_bytes, block(from, from_ids[i]), block_bytes);
    std::memcpy(gathered.data() + i * block_bytes, block(from, from_ids[i]), block_bytes);
  }
  kernels.copy_blocks({from_memory.as<void>(), to_memory.as<void>(), from_ids_memory.as<int32_t>(),
                       to_ids_memory.as<int32_t>(), num_blocks, block_bytes},
                      lab.stream().get());
  lab.same(what + ", pool to pool", lab.download<uint8_t>(to_memory, pool_blocks * block_bytes), want);

  const PinnedMemory staged(lab.device(), num_blocks * block_bytes);
  kernels.copy_blocks({from_memory.as<void>(), staged.data(), from_ids_memory.as<int32_t>(), nullptr, num_blocks,
                       block_bytes},
                      lab.stream().get());
  lab.stream().synchronize();
  lab.same(what + ", gathered to the host",
           std::vector<uint8_t>(staged.data(), staged.data() + num_blocks * block_bytes), gathered);

  const DeviceMemory again = lab.upload(to);
  kernels.copy_blocks({staged.data(), again.as<void>(), nullptr, to_ids_memory.as<int32_t>(), num_blocks, block_bytes},
                      lab.stream().get());
  lab.same(what + ", scattered from the host", lab.download<uint8_t>(again, pool_blocks * block_bytes), want);
}

}  // namespace

void check_copy_blocks(Lab& lab) {
  check_copy_of(lab, 16, 1, 2);
  check_copy_of(lab, 48, 5, 9);
  check_copy_of(lab, 16400, 7, 11);
  check_copy_of(lab, 65536, 3, 4);
}

/** Captured work runs when it is launched, again with what its memory then holds. */
void check_graph(Lab& lab) {
  Kernels kernels = lab.kernels(ElementType::kBF16, KvType::kBF16);
  const DeviceMemory from = lab.upload(std::vector<float>{1, 2, 3, 4});
  const DeviceMemory to = lab.upload(std::vector<float>{0, 0, 0, 0});
  const DeviceMemory rows = lab.upload(std::vector<int32_t>{3, 1});
  const auto gather = [&] {
    kernels.gather_rows({from.as<float>(), rows.as<int32_t>(), to.as<float>(), 1}, 2, lab.stream().get());
  };
  const Graph graph(lab.device(), lab.stream(), gather);
  lab.same("graph: nothing runs while it is captured", lab.download<float>(to, 2), std::vector<float>{0, 0});
  graph.launch(lab.stream());
  lab.same("graph: launched", lab.download<float>(to, 2), std::vector<float>{4, 2});
  const std::vector<int32_t> others = {0, 2};
  lab.stream().to_device(rows.address(), others.data(), 8);
  graph.launch(lab.stream());
  lab.same("graph: launched again", lab.download<float>(to, 2), std::vector<float>{1, 3});
}

}  // namespace vllm_pd::cuda::checks
