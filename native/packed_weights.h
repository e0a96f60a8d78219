// A model's matrices in their backend's packed form: packed when loaded.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "ops.h"
#include "weights.h"

namespace vllm_pd {

/** What weights are kept as. */
struct WeightOptions {
  /** Of everything that is not quantised. */
  WeightType type = WeightType::kFloat32;
  /** What is multiplied with becomes int8; a table that is only looked up does not. */
  bool int8 = false;
};

/** Hands out the matrices in the order in which they are asked for. */
class PackedWeights {
 public:
  PackedWeights(Ops& ops, const WeightOptions& options) : ops_(ops), options_(options) {}

  /** Tensors of equal row length, one below the other, to be multiplied with. */
  std::unique_ptr<PackedMatrix> matrix(const std::vector<Tensor>& parts);

  /** Likewise, to look up rows in. */
  std::unique_ptr<PackedMatrix> table(const std::vector<Tensor>& parts);

  /** All matrices have been asked for. */
  void finish() {}

 private:
  std::unique_ptr<PackedMatrix> pack(const std::vector<Tensor>& parts, WeightType type);

  Ops& ops_;
  WeightOptions options_;
};

}  // namespace vllm_pd
