// Splits one product over threads: blocks of rows, and within these runs of panels.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"
#include "cpu/op_threads.h"
#include "cpu/packed_matrix.h"
#include "float_buffer.h"

namespace vllm_pd::cpu {

/** Rows of activations as a matrix's kernel takes them. */
struct Rows {
  const uint8_t* data;
  int64_t num_rows;
  int64_t stride;  // bytes, as MatmulArgs::a_stride
  /** One a row, in front of int8 weights. */
  const float* scales;
};

/** What products are added to: null = zeros, else rows, `stride` floats apart (0 = one row for all). */
struct Addend {
  const float* rows;
  int64_t stride;
};

class MatmulTasks {
 public:
  MatmulTasks(const Kernels& kernels, OpThreads& threads) : kernels_(kernels), threads_(threads) {}

  /** `a` (num_rows, k), normed where asked, in the form that `w` is multiplied with. Until the next call. */
  Rows rows(const float* a, int64_t num_rows, const RmsNorm* norm, const PanelMatrix& w);

  /** out (num_rows, n) = rows · wᵀ + addend, which may be `out`. */
  void run(const Rows& rows, const PanelMatrix& w, const Addend& addend, float* out);

  /** silu(gate) * up of rows · gate_upᵀ + bias (may be null), in the form that `down` is multiplied with. Until the next call. */
  Rows gated_rows(const Rows& rows, const PanelMatrix& gate_up, const float* bias, const PanelMatrix& down);

 private:
  struct Gate;
  /** Where rows for a matrix lie, and how. */
  struct Place;

  Place place(FloatBuffer& buffer, int64_t num_rows, const PanelMatrix& w) const;
  Rows convert(FloatBuffer& buffer, const float* a, int64_t num_rows, const RmsNorm* norm, const PanelMatrix& w);
  void multiply(const Rows& rows, const PanelMatrix& w, const Addend& addend, const Gate& gate, float* out);

  const Kernels& kernels_;
  OpThreads& threads_;
  // Kept for the memory.
  FloatBuffer rows_;
  FloatBuffer gated_rows_;
  FloatBuffer row_scales_;
  FloatBuffer gate_up_;
  FloatBuffer gated_;
};

}  // namespace vllm_pd::cpu
