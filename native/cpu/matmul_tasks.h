// Splits one product over threads: blocks of rows, and within these runs of panels.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"
#include "cpu/op_threads.h"
#include "cpu/packed_matrix.h"
#include "float_buffer.h"

namespace vllm_pd::cpu {

class MatmulTasks {
 public:
  MatmulTasks(const Kernels& kernels, OpThreads& threads) : kernels_(kernels), threads_(threads) {}

  /**
   * out (num_rows, n) = a (num_rows, k) times w, plus `init`: null = nothing, else rows of n floats,
   * `init_stride` apart (0 = one row for all). `init` may be `out`.
   */
  void run(const float* a, int64_t num_rows, const PanelMatrix& w, const float* init, int64_t init_stride,
           float* out);

 private:
  /** Rows of activations as a matrix's kernel takes them. */
  struct Rows {
    const uint8_t* data;
    int64_t stride;  // bytes
    const float* scales;
  };

  Rows convert_rows(const float* a, int64_t num_rows, const PanelMatrix& w);

  const Kernels& kernels_;
  OpThreads& threads_;
  // Converted rows of one call; kept for the memory.
  FloatBuffer rows_;
  FloatBuffer row_scales_;
};

}  // namespace vllm_pd::cpu
