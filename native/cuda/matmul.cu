// matmul: a · wᵀ on the tensor cores, for where cuBLASLt is absent or batch invariance is asked for. Every sum
// runs over k in steps of 16 in ascending order, whatever the tile: the shapes below differ in speed, not in bits.
// Grid (columns / tile columns, rows / tile rows).
#include "cuda/args.h"
#include "cuda/matmul_tiles.h"
#include "cuda/vectors.h"

namespace vllm_pd::cuda {

/** Begins to bring rows [first, first + kRows), columns [k, k + kStep) of (num_rows, args.k) to shared memory. */
template <typename T, int kRows, int kStep, int kThreads>
VLLM_PD_DEVICE void load_operand(const T* from, int64_t first, int64_t num_rows, int64_t k, int64_t row_length,
                                 T* shared) {
  constexpr int kRowChunks = kStep / kChunk;
  static_assert(kRows * kRowChunks % kThreads == 0, "every thread copies as much");
#pragma unroll
  for (int i = 0; i < kRows * kRowChunks / kThreads; ++i) {
    const int at = static_cast<int>(threadIdx.x) + i * kThreads;
    const int row = at / kRowChunks;
    const int chunk = at % kRowChunks;
    const int64_t column = k + chunk * kChunk;
    const bool present = first + row < num_rows && column < row_length;
    copy_async(shared + swizzled(row, chunk, kRowChunks), present ? from + (first + row) * row_length + column : from,
               present ? 16 : 0);
  }
}

template <typename T>
VLLM_PD_DEVICE void store_product(const MatmulArgs& args, int64_t row, int64_t column, float value) {
  if (row >= args.num_rows || column >= args.n) return;
  if (args.bias != nullptr) value += args.bias[column];
  const int64_t at = row * args.n + column;
  if (args.output == MatmulOutput::kElements) {
    static_cast<T*>(args.out)[at] = from_float<T>(value);
  } else if (args.output == MatmulOutput::kFloats) {
    static_cast<float*>(args.out)[at] = value;
  } else {
    static_cast<float*>(args.out)[at] += value;
  }
}

/** The warp's part of one step: (kTileRows, kTileColumns) += a · wᵀ over kStep. */
template <typename T, typename Tiles>
VLLM_PD_DEVICE void multiply_step(const T* a, const T* w, int first_row, int first_column,
                                  float (&sums)[Tiles::kRowFragments][Tiles::kColumnTiles][4]) {
  constexpr int kRowChunks = Tiles::kStep / kChunk;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 0; step < Tiles::kStep / 16; ++step) {
    uint32_t left[Tiles::kRowFragments][4];
#pragma unroll
    for (int f = 0; f < Tiles::kRowFragments; ++f) {
      load_matrices(left[f], a + swizzled(first_row + 16 * f + lane % 16, 2 * step + lane / 16, kRowChunks));
    }
#pragma unroll
    for (int pair = 0; pair < Tiles::kColumnTiles / 2; ++pair) {
      uint32_t right[4];
      const int column = first_column + 16 * pair + lane % 8 + lane / 16 * 8;
      load_matrices(right, w + swizzled(column, 2 * step + lane / 8 % 2, kRowChunks));
#pragma unroll
      for (int f = 0; f < Tiles::kRowFragments; ++f) {
        multiply_add<T>(sums[f][2 * pair], left[f], right[0], right[1]);
        multiply_add<T>(sums[f][2 * pair + 1], left[f], right[2], right[3]);
      }
    }
  }
}

template <typename T, typename Tiles>
VLLM_PD_DEVICE void matmul(const MatmulArgs& args) {
  constexpr int kStageElements = (Tiles::kRows + Tiles::kColumns) * Tiles::kStep;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  const int first_row = warp / Tiles::kColumnWarps * Tiles::kRowFragments * 16;
  const int first_column = warp % Tiles::kColumnWarps * Tiles::kColumnTiles * 8;
  const int64_t block_row = static_cast<int64_t>(blockIdx.y) * Tiles::kRows;
  const int64_t block_column = static_cast<int64_t>(blockIdx.x) * Tiles::kColumns;
  const int num_steps = static_cast<int>((args.k + Tiles::kStep - 1) / Tiles::kStep);
  T* const stages = shared_memory<T>();
  const auto load = [&](int step) {
    if (step < num_steps) {
      T* const a = stages + step % Tiles::kStages * kStageElements;
      const int64_t k = static_cast<int64_t>(step) * Tiles::kStep;
      load_operand<T, Tiles::kRows, Tiles::kStep, Tiles::kThreads>(static_cast<const T*>(args.a), block_row,
                                                                   args.num_rows, k, args.k, a);
      load_operand<T, Tiles::kColumns, Tiles::kStep, Tiles::kThreads>(
          static_cast<const T*>(args.w), block_column, args.n, k, args.k, a + Tiles::kRows * Tiles::kStep);
    }
    commit_copies();
  };
  float sums[Tiles::kRowFragments][Tiles::kColumnTiles][4] = {};
  for (int i = 0; i < Tiles::kStages - 1; ++i) load(i);
  for (int step = 0; step < num_steps; ++step) {
    wait_copies<Tiles::kStages - 2>();
    // Everybody's part has come, and nobody reads any more what is overwritten next.
    barrier();
    load(step + Tiles::kStages - 1);
    const T* const a = stages + step % Tiles::kStages * kStageElements;
    multiply_step<T, Tiles>(a, a + Tiles::kRows * Tiles::kStep, first_row, first_column, sums);
  }
#pragma unroll
  for (int f = 0; f < Tiles::kRowFragments; ++f) {
#pragma unroll
    for (int i = 0; i < Tiles::kColumnTiles; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        store_product<T>(args, block_row + first_row + 16 * f + lane / 4 + j / 2 * 8,
                         block_column + first_column + 8 * i + 2 * (lane % 4) + j % 2, sums[f][i][j]);
      }
    }
  }
}

VLLM_PD_KERNEL(matmul_few_bf16, MatmulArgs, FewRows::kThreads) { matmul<BF16, FewRows>(args); }
VLLM_PD_KERNEL(matmul_some_bf16, MatmulArgs, SomeRows::kThreads) { matmul<BF16, SomeRows>(args); }
VLLM_PD_KERNEL(matmul_many_bf16, MatmulArgs, ManyRows::kThreads) { matmul<BF16, ManyRows>(args); }
VLLM_PD_KERNEL(matmul_few_f16, MatmulArgs, FewRows::kThreads) { matmul<F16, FewRows>(args); }
VLLM_PD_KERNEL(matmul_some_f16, MatmulArgs, SomeRows::kThreads) { matmul<F16, SomeRows>(args); }
VLLM_PD_KERNEL(matmul_many_f16, MatmulArgs, ManyRows::kThreads) { matmul<F16, ManyRows>(args); }

}  // namespace vllm_pd::cuda
