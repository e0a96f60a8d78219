// How the CPU backend lays out weights: panels of kPanel columns, in steps of 128 bytes. One step holds as
// many consecutive k of each column as fill four bytes: 1 float32, 2 bfloat16 or 4 int8. That is what
// vdpbf16ps, vpdpbusd and AMX tiles take, and the other instruction sets read it as well, so all share one
// packed form.
#pragma once

#include <cstdint>
#include <memory>

#include "ops.h"

namespace vllm_pd::cpu {

/** Changes when the bytes that `pack_panel` writes do, or the order of rows in which a model asks for them. */
constexpr const char* kPackedLayout = "cpu-panel32-2";

/** k, with zeros up to whole AMX tiles for the narrow types. */
int64_t padded_k(const MatrixShape& shape);

int64_t num_panels(int64_t n);

/** Bytes of one panel, and of one row's worth of weights in it. */
int64_t panel_bytes(const MatrixShape& shape);

/** Panels, then for int8 (num_panels * kPanel) float32 scales and as many int32 sums of the weights. */
int64_t packed_bytes(const MatrixShape& shape);

/** Packs panel `panel`; `row` has room for k floats. */
void pack_panel(const MatrixShape& shape, int64_t panel, RowSource source, const void* context, float* row,
                uint8_t* packed);

class PanelMatrix : public PackedMatrix {
 public:
  PanelMatrix(const MatrixShape& shape, const uint8_t* packed, std::shared_ptr<const void> owner);

  int64_t padded_k() const { return padded_k_; }
  const uint8_t* panels() const { return packed_; }
  /** Null unless int8. */
  const float* scales() const { return scales_; }
  const int32_t* sums() const { return sums_; }

  /** Row `n` of the matrix, as near as it was kept: (k) floats. */
  void read_row(int64_t n, float* out) const;

 private:
  std::shared_ptr<const void> owner_;
  const uint8_t* packed_;
  int64_t padded_k_;
  const float* scales_ = nullptr;
  const int32_t* sums_ = nullptr;
};

}  // namespace vllm_pd::cpu
