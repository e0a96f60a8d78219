// The part of cuBLASLt's ABI that we use (cublasLt.h's own names and values), looked up at run time.
#include "cuda/cublaslt.h"

#include <dlfcn.h>

#include <cstdlib>
#include <map>
#include <tuple>

#include "cuda/device_memory.h"
#include "error.h"

namespace vllm_pd::cuda {
namespace {

using Status = int;
using Handle = struct cublasLtContext*;
using MatmulDesc = struct cublasLtMatmulDescStruct*;
using MatrixLayout = struct cublasLtMatrixLayoutStruct*;
using Preference = struct cublasLtMatmulPreferenceStruct*;

struct Algorithm {
  uint64_t data[8];
};
struct HeuristicResult {
  Algorithm algorithm;
  size_t workspace_bytes;
  Status state;
  float waves;
  int reserved[4];
};

constexpr Status CUBLAS_STATUS_SUCCESS = 0;
constexpr int CUBLAS_COMPUTE_32F = 68;
constexpr int CUDA_R_32F = 0;
constexpr int CUDA_R_16F = 2;
constexpr int CUDA_R_16BF = 14;
constexpr int CUBLASLT_MATMUL_DESC_TRANSA = 3;
constexpr int CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES = 1;
constexpr int32_t CUBLAS_OP_T = 1;
constexpr size_t kWorkspaceBytes = size_t{32} << 20;

#define VLLM_PD_CUBLASLT_FUNCTIONS(X)                                                                        \
  X(cublasLtCreate, (Handle * handle))                                                                       \
  X(cublasLtDestroy, (Handle handle))                                                                        \
  X(cublasLtMatmulDescCreate, (MatmulDesc * desc, int compute_type, int scale_type))                         \
  X(cublasLtMatmulDescSetAttribute, (MatmulDesc desc, int attribute, const void* value, size_t bytes))       \
  X(cublasLtMatmulDescDestroy, (MatmulDesc desc))                                                            \
  X(cublasLtMatrixLayoutCreate,                                                                              \
    (MatrixLayout * layout, int type, uint64_t rows, uint64_t columns, int64_t leading_dimension))           \
  X(cublasLtMatrixLayoutDestroy, (MatrixLayout layout))                                                      \
  X(cublasLtMatmulPreferenceCreate, (Preference * preference))                                               \
  X(cublasLtMatmulPreferenceSetAttribute,                                                                    \
    (Preference preference, int attribute, const void* value, size_t bytes))                                 \
  X(cublasLtMatmulPreferenceDestroy, (Preference preference))                                                \
  X(cublasLtMatmulAlgoGetHeuristic,                                                                          \
    (Handle handle, MatmulDesc desc, MatrixLayout a, MatrixLayout b, MatrixLayout c, MatrixLayout d,         \
     Preference preference, int wanted, HeuristicResult* results, int* found))                               \
  X(cublasLtMatmul,                                                                                          \
    (Handle handle, MatmulDesc desc, const void* alpha, const void* a, MatrixLayout a_layout, const void* b, \
     MatrixLayout b_layout, const void* beta, const void* c, MatrixLayout c_layout, void* d,                 \
     MatrixLayout d_layout, const Algorithm* algorithm, void* workspace, size_t workspace_bytes, CUstream stream))

struct Library {
#define VLLM_PD_DECLARE(name, parameters) Status(*name) parameters = nullptr;
  VLLM_PD_CUBLASLT_FUNCTIONS(VLLM_PD_DECLARE)
#undef VLLM_PD_DECLARE
  std::string why_not;

  Library() {
    void* library = nullptr;
    const char* wanted = std::getenv("VLLM_PD_LIBCUBLASLT");
    if (wanted && *wanted) {
      library = dlopen(wanted, RTLD_NOW | RTLD_LOCAL);
    } else {
      for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.11", "libcublasLt.so"}) {
        if (!library) library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
      }
    }
    if (!library) {
      const char* const reason = dlerror();
      why_not = std::string("There is no cuBLASLt: ") + (reason ? reason : "not found") + ".";
      return;
    }
#define VLLM_PD_LOOK_UP(name, parameters)                                \
  name = reinterpret_cast<decltype(name)>(dlsym(library, #name));        \
  if (name == nullptr) why_not = std::string("cuBLASLt has no ") + #name + ".";
    VLLM_PD_CUBLASLT_FUNCTIONS(VLLM_PD_LOOK_UP)
#undef VLLM_PD_LOOK_UP
  }
};

const Library& library() {
  static const Library loaded;
  return loaded;
}

void check_status(Status status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error("INTERNAL",
              std::string("cuBLASLt could not ") + what + ": its status is " + std::to_string(status) + ".");
}

/** One shape's layouts and the algorithm chosen for it. */
struct Plan {
  MatmulDesc desc = nullptr;
  MatrixLayout w = nullptr;
  MatrixLayout a = nullptr;
  MatrixLayout out = nullptr;
  bool found = false;
  HeuristicResult best;

  Plan(Handle handle, const MatmulArgs& args, int element_type) {
    const Library& lt = library();
    const auto rows = static_cast<uint64_t>(args.num_rows);
    const auto n = static_cast<uint64_t>(args.n);
    const auto k = static_cast<uint64_t>(args.k);
    const int out_type = args.output == MatmulOutput::kElements ? element_type : CUDA_R_32F;
    check_status(lt.cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describe a product");
    check_status(lt.cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &CUBLAS_OP_T, sizeof CUBLAS_OP_T),
                 "describe a product");
    // It counts columns first: our rows are its columns, and outᵀ = w · aᵀ.
    check_status(lt.cublasLtMatrixLayoutCreate(&w, element_type, k, n, args.k), "describe a matrix");
    check_status(lt.cublasLtMatrixLayoutCreate(&a, element_type, k, rows, args.k), "describe a matrix");
    check_status(lt.cublasLtMatrixLayoutCreate(&out, out_type, n, rows, args.n), "describe a matrix");
    Preference preference = nullptr;
    check_status(lt.cublasLtMatmulPreferenceCreate(&preference), "state a preference");
    lt.cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspaceBytes,
                                            sizeof kWorkspaceBytes);
    int count = 0;
    const Status status =
        lt.cublasLtMatmulAlgoGetHeuristic(handle, desc, w, a, out, out, preference, 1, &best, &count);
    lt.cublasLtMatmulPreferenceDestroy(preference);
    found = status == CUBLAS_STATUS_SUCCESS && count > 0;
  }
  ~Plan() {
    const Library& lt = library();
    if (out) lt.cublasLtMatrixLayoutDestroy(out);
    if (a) lt.cublasLtMatrixLayoutDestroy(a);
    if (w) lt.cublasLtMatrixLayoutDestroy(w);
    if (desc) lt.cublasLtMatmulDescDestroy(desc);
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
};

}  // namespace

struct CublasLt::Plans {
  using Key = std::tuple<int64_t, int64_t, int64_t, MatmulOutput>;
  Handle handle = nullptr;
  int element_type = CUDA_R_16BF;
  DeviceMemory workspace;
  std::map<Key, Plan> plans;

  ~Plans() {
    plans.clear();
    if (handle) library().cublasLtDestroy(handle);
  }
};

std::string why_no_cublaslt() { return library().why_not; }

CublasLt::CublasLt(std::shared_ptr<Device> device, ElementType element)
    : device_(std::move(device)), plans_(std::make_unique<Plans>()) {
  if (!library().why_not.empty()) throw Error("NOT_SUPPORTED", library().why_not);
  device_->bind();
  check_status(library().cublasLtCreate(&plans_->handle), "start");
  plans_->element_type = element == ElementType::kBF16 ? CUDA_R_16BF : CUDA_R_16F;
  plans_->workspace = DeviceMemory(device_, kWorkspaceBytes);
}

CublasLt::~CublasLt() {
  device_->bind();
  plans_.reset();
}

bool CublasLt::matmul(const MatmulArgs& args, CUstream stream) {
  if (args.bias != nullptr) return false;
  const Plans::Key key{args.num_rows, args.n, args.k, args.output};
  auto found = plans_->plans.find(key);
  if (found == plans_->plans.end())
    found = plans_->plans.try_emplace(key, plans_->handle, args, plans_->element_type).first;
  const Plan& plan = found->second;
  if (!plan.found) return false;
  const float alpha = 1.0f;
  const float beta = args.output == MatmulOutput::kAdd ? 1.0f : 0.0f;
  check_status(library().cublasLtMatmul(plans_->handle, plan.desc, &alpha, args.w, plan.w, args.a, plan.a, &beta,
                                        args.out, plan.out, args.out, plan.out, &plan.best.algorithm,
                                        plans_->workspace.as<void>(), kWorkspaceBytes, stream),
               "multiply");
  return true;
}

}  // namespace vllm_pd::cuda
