// Tile shapes of matmul, by the number of rows.
#pragma once

#include <cstdint>

namespace vllm_pd::cuda {

/** A block of threads computes (kRows, kColumns), each warp kRowFragments * 16 rows of kColumnTiles * 8 columns. */
template <int kRowWarpsOf, int kColumnWarpsOf, int kRowFragmentsOf, int kColumnTilesOf, int kStepOf, int kStagesOf>
struct MatmulTiles {
  static constexpr int kColumnWarps = kColumnWarpsOf;
  static constexpr int kRowFragments = kRowFragmentsOf;
  static constexpr int kColumnTiles = kColumnTilesOf;
  static constexpr int kRows = kRowWarpsOf * kRowFragments * 16;
  static constexpr int kColumns = kColumnWarps * kColumnTiles * 8;
  static constexpr int kThreads = kRowWarpsOf * kColumnWarps * 32;
  /** Elements of k that one stage brings. */
  static constexpr int kStep = kStepOf;
  static constexpr int kStages = kStagesOf;
  static constexpr int64_t kSharedBytes = int64_t{2} * (kRows + kColumns) * kStep * kStages;
};

/** Up to 16 rows: narrow tiles, so that every multiprocessor reads a part of the weights. (16, 32) */
using FewRows = MatmulTiles<1, 2, 1, 2, 128, 4>;
/** Up to 64 rows. (64, 32) */
using SomeRows = MatmulTiles<2, 2, 2, 2, 128, 3>;
/** Prefill. (128, 128) */
using ManyRows = MatmulTiles<2, 4, 4, 4, 32, 4>;

}  // namespace vllm_pd::cuda
