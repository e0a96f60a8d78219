// Matrix products through cuBLASLt where its library is found at run time: faster than matmul.cu for many rows, but
// free to split sums by the number of rows, so not batch-invariant.
#pragma once

#include <memory>
#include <string>

#include "cuda/launch.h"

namespace vllm_pd::cuda {

/** Empty where the library can be loaded (VLLM_PD_LIBCUBLASLT, or libcublasLt.so.13, .12, .11), else a sentence. */
std::string why_no_cublaslt();

/** Products on one device; plans are kept by shape. Calls from one thread at a time. */
class CublasLt {
 public:
  /** Throws NOT_SUPPORTED with why_no_cublaslt(), INTERNAL where the library does not start. */
  CublasLt(std::shared_ptr<Device> device, ElementType element);
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  /** As Kernels::matmul. False, with nothing done, where there is a bias or no algorithm for the shape. */
  bool matmul(const MatmulArgs& args, CUstream stream);

 private:
  struct Plans;
  std::shared_ptr<Device> device_;
  std::unique_ptr<Plans> plans_;
};

}  // namespace vllm_pd::cuda
