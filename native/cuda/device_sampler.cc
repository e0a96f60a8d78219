// Rows of a step's draws to the device, token ids back.
#include "cuda/device_sampler.h"

#include <algorithm>
#include <cstring>

#include "error.h"

namespace vllm_pd::cuda {
namespace {

SamplingRow row_of(const Draw& draw) {
  if (draw.forbidden.size() > kMaxForbidden) {
    throw Error("INVALID_ARGUMENT", "Expected at most " + std::to_string(kMaxForbidden) +
                                        " forbidden tokens a draw but received " +
                                        std::to_string(draw.forbidden.size()) + ".");
  }
  SamplingRow row{draw.temperature, draw.top_p, draw.share, draw.top_k, draw.row, 0, {}};
  row.num_forbidden = static_cast<int32_t>(draw.forbidden.size());
  std::copy(draw.forbidden.begin(), draw.forbidden.end(), row.forbidden);
  return row;
}

}  // namespace

DeviceSampler::DeviceSampler(std::shared_ptr<Device> device, int64_t vocab_size, const std::vector<int32_t>& suppressed)
    : device_(std::move(device)), vocab_size_(vocab_size) {
  if (suppressed.empty()) return;
  std::vector<uint32_t> bits((vocab_size + 31) / 32);
  for (const int32_t id : suppressed)
    if (id >= 0 && id < vocab_size) bits[id / 32] |= 1u << (id % 32);
  const auto num_bytes = static_cast<int64_t>(bits.size() * sizeof(uint32_t));
  suppressed_ = DeviceMemory(device_, num_bytes);
  const Stream stream(device_);
  stream.to_device(suppressed_.address(), bits.data(), num_bytes);
  stream.synchronize();
}

void DeviceSampler::draw(Kernels& kernels, const float* logits, const std::vector<Draw>& draws, const Stream& stream) {
  num_drawn_ = draws.size();
  if (draws.empty()) return;
  std::vector<SamplingRow> rows;
  for (const Draw& draw : draws) rows.push_back(row_of(draw));
  const auto rows_bytes = static_cast<int64_t>(rows.size() * sizeof(SamplingRow));
  const auto ids_bytes = static_cast<int64_t>(rows.size() * sizeof(int32_t));
  if (rows_.num_bytes() < rows_bytes) {
    rows_ = DeviceMemory(device_, 2 * rows_bytes);
    token_ids_ = DeviceMemory(device_, 2 * ids_bytes);
    host_rows_ = std::make_unique<PinnedMemory>(device_, 2 * rows_bytes);
    host_token_ids_ = std::make_unique<PinnedMemory>(device_, 2 * ids_bytes);
  }
  std::memcpy(host_rows_->data(), rows.data(), static_cast<size_t>(rows_bytes));
  stream.to_device(rows_.address(), host_rows_->data(), rows_bytes);
  kernels.sample({logits, rows_.as<SamplingRow>(),
                  suppressed_.num_bytes() == 0 ? nullptr : suppressed_.as<uint32_t>(), token_ids_.as<int32_t>(),
                  vocab_size_},
                 static_cast<int64_t>(rows.size()), stream.get());
  stream.to_host(host_token_ids_->data(), token_ids_.address(), ids_bytes);
}

void DeviceSampler::copy_to(int32_t* token_ids) const {
  if (num_drawn_ > 0) std::memcpy(token_ids, host_token_ids_->data(), num_drawn_ * sizeof(int32_t));
}

}  // namespace vllm_pd::cuda
