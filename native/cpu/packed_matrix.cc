// Packing weights, and reading single rows back.
#include "cpu/packed_matrix.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "bfloat16.h"
#include "cpu/kernels.h"

namespace vllm_pd::cpu {
namespace {

/** Bytes of a step: four for each column. */
constexpr int64_t kStepBytes = 4 * kPanel;

/** Consecutive k of one column in one step. */
int64_t step_k(WeightType type) {
  switch (type) {
    case WeightType::kFloat32:
      return 1;
    case WeightType::kBFloat16:
      return 2;
    case WeightType::kInt8:
      return 4;
  }
  __builtin_unreachable();
}

float* scales_at(const MatrixShape& shape, uint8_t* packed) {
  return reinterpret_cast<float*>(packed + num_panels(shape.n) * panel_bytes(shape));
}

int32_t* sums_at(const MatrixShape& shape, uint8_t* packed) {
  return reinterpret_cast<int32_t*>(scales_at(shape, packed) + num_panels(shape.n) * kPanel);
}

/** Column c of a panel whose first bytes for that column are at `out`. */
void write_float32(const float* row, int64_t k, uint8_t* out) {
  for (int64_t i = 0; i < k; ++i) std::memcpy(out + i * kStepBytes, row + i, sizeof(float));
}

void write_bfloat16(const float* row, int64_t k, uint8_t* out) {
  for (int64_t i = 0; i < k; ++i) {
    const uint16_t bits = to_bfloat16(row[i]);
    std::memcpy(out + i / 2 * kStepBytes + i % 2 * 2, &bits, sizeof(bits));
  }
}

void write_int8(const float* row, int64_t k, uint8_t* out, float* scale, int32_t* sum) {
  float largest = 0.0f;
  for (int64_t i = 0; i < k; ++i) largest = std::max(largest, std::fabs(row[i]));
  const float factor = largest > 0.0f ? 127.0f / largest : 0.0f;
  *scale = largest / 127.0f;
  *sum = 0;
  for (int64_t i = 0; i < k; ++i) {
    const auto weight = static_cast<int8_t>(std::lrintf(row[i] * factor));
    *sum += weight;
    out[i / 4 * kStepBytes + i % 4] = static_cast<uint8_t>(weight);
  }
}

}  // namespace

int64_t padded_k(const MatrixShape& shape) {
  // A tile has 16 steps.
  const int64_t multiple = shape.type == WeightType::kFloat32 ? 1 : 16 * step_k(shape.type);
  return (shape.k + multiple - 1) / multiple * multiple;
}

int64_t num_panels(int64_t n) { return (n + kPanel - 1) / kPanel; }

int64_t panel_bytes(const MatrixShape& shape) { return padded_k(shape) / step_k(shape.type) * kStepBytes; }

int64_t packed_bytes(const MatrixShape& shape) {
  const int64_t of_a_column = shape.type == WeightType::kInt8 ? sizeof(float) + sizeof(int32_t) : 0;
  return num_panels(shape.n) * (panel_bytes(shape) + kPanel * of_a_column);
}

void pack_panel(const MatrixShape& shape, int64_t panel, RowSource source, const void* context, float* row,
                uint8_t* packed) {
  uint8_t* const out = packed + panel * panel_bytes(shape);
  std::memset(out, 0, panel_bytes(shape));
  for (int64_t c = 0; c < kPanel; ++c) {
    const int64_t n = panel * kPanel + c;
    if (n < shape.n) {
      source(context, n, row);
    } else {
      std::fill_n(row, shape.k, 0.0f);
    }
    uint8_t* const column = out + 4 * c;
    if (shape.type == WeightType::kFloat32) write_float32(row, shape.k, column);
    if (shape.type == WeightType::kBFloat16) write_bfloat16(row, shape.k, column);
    if (shape.type == WeightType::kInt8) {
      write_int8(row, shape.k, column, scales_at(shape, packed) + n, sums_at(shape, packed) + n);
    }
  }
}

PanelMatrix::PanelMatrix(const MatrixShape& shape, const uint8_t* packed, std::shared_ptr<const void> owner)
    : PackedMatrix(shape), owner_(std::move(owner)), packed_(packed), padded_k_(cpu::padded_k(shape)) {
  if (shape.type != WeightType::kInt8) return;
  scales_ = scales_at(shape, const_cast<uint8_t*>(packed));
  sums_ = sums_at(shape, const_cast<uint8_t*>(packed));
}

void PanelMatrix::read_row(int64_t n, float* out) const {
  const uint8_t* const column =
      packed_ + n / kPanel * panel_bytes({this->n(), k(), type()}) + 4 * (n % kPanel);
  switch (type()) {
    case WeightType::kFloat32:
      for (int64_t i = 0; i < k(); ++i) std::memcpy(out + i, column + i * kStepBytes, sizeof(float));
      return;
    case WeightType::kBFloat16:
      for (int64_t i = 0; i < k(); ++i) {
        uint16_t bits;
        std::memcpy(&bits, column + i / 2 * kStepBytes + i % 2 * 2, sizeof(bits));
        out[i] = from_bfloat16(bits);
      }
      return;
    case WeightType::kInt8:
      for (int64_t i = 0; i < k(); ++i) {
        const auto weight = static_cast<int8_t>(column[i / 4 * kStepBytes + i % 4]);
        out[i] = static_cast<float>(weight) * scales_[n];
      }
      return;
  }
}

}  // namespace vllm_pd::cpu
