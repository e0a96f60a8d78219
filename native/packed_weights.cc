// Packs a model's matrices.
#include "packed_weights.h"

#include "huge_floats.h"

namespace vllm_pd {
namespace {

void read_concatenated(const void* context, int64_t row, float* out) {
  for (const Tensor& part : *static_cast<const std::vector<Tensor>*>(context)) {
    if (row < part.num_rows) return part.read_row(row, out);
    row -= part.num_rows;
  }
}

}  // namespace

std::unique_ptr<PackedMatrix> PackedWeights::matrix(const std::vector<Tensor>& parts) {
  return pack(parts, options_.int8 ? WeightType::kInt8 : options_.type);
}

std::unique_ptr<PackedMatrix> PackedWeights::table(const std::vector<Tensor>& parts) {
  return pack(parts, options_.type);
}

std::unique_ptr<PackedMatrix> PackedWeights::pack(const std::vector<Tensor>& parts, WeightType type) {
  MatrixShape shape{0, parts.front().row_floats, type};
  for (const Tensor& part : parts) shape.n += part.num_rows;
  const auto memory = std::make_shared<HugeFloats>((ops_.packed_bytes(shape) + 3) / 4);
  auto* const bytes = reinterpret_cast<uint8_t*>(memory->data());
  ops_.pack(shape, read_concatenated, &parts, bytes);
  return ops_.open(shape, bytes, memory);
}

}  // namespace vllm_pd
