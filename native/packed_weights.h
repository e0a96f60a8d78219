// A model's matrices in their backend's packed form: mapped from a file where there is one, else packed, and
// kept in one where that can be done.
#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "ops.h"
#include "packed_file.h"
#include "weights.h"

namespace vllm_pd {

/** What weights are kept as, and where. */
struct WeightOptions {
  /** Of everything that is not quantised. */
  WeightType type = WeightType::kFloat32;
  /** What is multiplied with becomes int8; a table that is only looked up does not. */
  bool int8 = false;
  /** Places for the packed file, best first; none = memory. */
  std::vector<std::string> cache_paths;
  /** Names the model's weights and what they are kept as. */
  std::string cache_key;
};

/** How a model came by its packed weights. */
enum class WeightSource { kMapped, kWritten, kMemory };

/** The disk has no room for the file, or its contents are not this model's; whoever loads begins again
 * without one. */
class CacheUnusable : public std::exception {};

/** Rows that this process has packed since it began, by all models: what somebody who waits for one may look at. */
int64_t num_packed_rows();

/** Hands out the matrices in the order in which they are asked for. */
class PackedWeights {
 public:
  PackedWeights(Ops& ops, const WeightOptions& options);

  /** Tensors of equal row length, one below the other, to be multiplied with. Throws CacheUnusable. */
  std::unique_ptr<PackedMatrix> matrix(const std::vector<Tensor>& parts);

  /** Gates and what they gate, in the order of GatedRows. */
  std::unique_ptr<PackedMatrix> gated(const Tensor& gate, const Tensor& up);

  /** Tensors as for `matrix`, to look up rows in. */
  std::unique_ptr<PackedMatrix> table(const std::vector<Tensor>& parts);

  /** All matrices have been asked for. Throws CacheUnusable. */
  WeightSource finish();

 private:
  WeightType multiplied_type() const { return options_.int8 ? WeightType::kInt8 : options_.type; }
  std::unique_ptr<PackedMatrix> load(const MatrixShape& shape, RowSource source, const void* context);

  Ops& ops_;
  WeightOptions options_;
  std::unique_ptr<PackedReader> reader_;
  std::unique_ptr<PackedWriter> writer_;
};

}  // namespace vllm_pd
