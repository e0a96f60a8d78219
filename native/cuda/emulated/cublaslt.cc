// Tests only: a libcublasLt.so for the emulated driver, as much of it as we call and as strict as we know it to be.
// Products of many rows are summed in two halves: as with the real one, a row's bits depend on how many others there
// are. It has no algorithm for an odd number of output columns.
#include <cstdint>

#include "cuda/element.h"
#include "cuda/emulated/driver.h"

using namespace vllm_pd::cuda;

namespace {

enum Status { kSuccess = 0, kInvalidValue = 7, kNotSupported = 15 };

constexpr int kCompute32F = 68;
constexpr int kFloat32 = 0;
constexpr int kFloat16 = 2;
constexpr int kBFloat16 = 14;
constexpr int kTransA = 3;
constexpr int kMaxWorkspaceBytes = 1;
constexpr int32_t kTransposed = 1;
constexpr uint64_t kManyRows = 4;

struct Desc {
  bool transposes_a;
};
struct Layout {
  int type;
  uint64_t rows;
  uint64_t columns;
  int64_t leading_dimension;
};
struct Preference {
  uint64_t max_workspace_bytes;
};
struct HeuristicResult {
  uint64_t algorithm[8];
  size_t workspace_bytes;
  int state;
  float waves;
  int reserved[4];
};

constexpr uint64_t kAlgorithm = 0x1dea;
constexpr size_t kNeededWorkspace = 1024;

float load(const Layout& layout, const void* matrix, uint64_t row, uint64_t column) {
  const uint64_t at = column * static_cast<uint64_t>(layout.leading_dimension) + row;
  switch (layout.type) {
    case kFloat32: return static_cast<const float*>(matrix)[at];
    case kFloat16: return to_float(static_cast<const F16*>(matrix)[at]);
    default: return to_float(static_cast<const BF16*>(matrix)[at]);
  }
}

void store(const Layout& layout, void* matrix, uint64_t row, uint64_t column, float value) {
  const uint64_t at = column * static_cast<uint64_t>(layout.leading_dimension) + row;
  switch (layout.type) {
    case kFloat32: static_cast<float*>(matrix)[at] = value; break;
    case kFloat16: static_cast<F16*>(matrix)[at].bits = round_to(F16{}, value); break;
    default: static_cast<BF16*>(matrix)[at].bits = round_to(BF16{}, value);
  }
}

/** Whether the shapes of d = aᵀ · b fit, and the types are ones that go together. */
bool fits(const Desc& desc, const Layout& a, const Layout& b, const Layout& d) {
  const bool types = a.type == b.type && a.type != kFloat32 && (d.type == a.type || d.type == kFloat32);
  const bool shapes = a.rows == b.rows && a.columns == d.rows && b.columns == d.columns;
  return desc.transposes_a && types && shapes;
}

/** The real one is promised such addresses unless it is told otherwise. */
bool aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; }

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default"))) Status

EXPORT cublasLtCreate(int** handle) { return *handle = new int(1), kSuccess; }
EXPORT cublasLtDestroy(int* handle) { return delete handle, kSuccess; }
EXPORT cublasLtMatmulDescCreate(Desc** desc, int compute_type, int scale_type) {
  if (compute_type != kCompute32F || scale_type != kFloat32) return kNotSupported;
  return *desc = new Desc{false}, kSuccess;
}
EXPORT cublasLtMatmulDescSetAttribute(Desc* desc, int attribute, const void* value, size_t bytes) {
  if (attribute != kTransA || bytes != sizeof(int32_t)) return kInvalidValue;
  return desc->transposes_a = *static_cast<const int32_t*>(value) == kTransposed, kSuccess;
}
EXPORT cublasLtMatmulDescDestroy(Desc* desc) { return delete desc, kSuccess; }
EXPORT cublasLtMatrixLayoutCreate(Layout** layout, int type, uint64_t rows, uint64_t columns, int64_t leading_dimension) {
  if (type != kFloat32 && type != kFloat16 && type != kBFloat16) return kNotSupported;
  if (leading_dimension < static_cast<int64_t>(rows)) return kInvalidValue;
  return *layout = new Layout{type, rows, columns, leading_dimension}, kSuccess;
}
EXPORT cublasLtMatrixLayoutDestroy(Layout* layout) { return delete layout, kSuccess; }
EXPORT cublasLtMatmulPreferenceCreate(Preference** preference) { return *preference = new Preference{0}, kSuccess; }
EXPORT cublasLtMatmulPreferenceSetAttribute(Preference* preference, int attribute, const void* value, size_t bytes) {
  if (attribute != kMaxWorkspaceBytes || bytes != sizeof(uint64_t)) return kInvalidValue;
  return preference->max_workspace_bytes = *static_cast<const uint64_t*>(value), kSuccess;
}
EXPORT cublasLtMatmulPreferenceDestroy(Preference* preference) { return delete preference, kSuccess; }
EXPORT cublasLtMatmulAlgoGetHeuristic(int* handle, Desc* desc, Layout* a, Layout* b, Layout* c, Layout* d,
                                      Preference* preference, int wanted, HeuristicResult* results, int* found) {
  *found = 0;
  if (!handle || wanted < 1 || c->type != d->type || !fits(*desc, *a, *b, *d)) return kInvalidValue;
  if (d->rows % 2 == 1 || preference->max_workspace_bytes < kNeededWorkspace) return kNotSupported;
  results[0] = {{kAlgorithm}, kNeededWorkspace, kSuccess, 1, {}};
  return *found = 1, kSuccess;
}
EXPORT cublasLtMatmul(int* handle, Desc* desc, const float* alpha, const void* a, Layout* a_layout, const void* b,
                      Layout* b_layout, const float* beta, const void* c, Layout* c_layout, void* d, Layout* d_layout,
                      const uint64_t* algorithm, void* workspace, size_t workspace_bytes, CUstream stream) {
  const bool known = handle && algorithm[0] == kAlgorithm && workspace && workspace_bytes >= kNeededWorkspace;
  if (!known || c != d || c_layout->type != d_layout->type) return kInvalidValue;
  if (!fits(*desc, *a_layout, *b_layout, *d_layout)) return kInvalidValue;
  for (const void* address : {a, b, c}) {
    if (!aligned(address)) return kInvalidValue;
  }
  // A captured product outlives the caller's scalars and layouts.
  emulated::submit(stream, [=, alpha = *alpha, beta = *beta, of_a = *a_layout, of_b = *b_layout, of_d = *d_layout] {
    const uint64_t k = of_a.rows;
    const uint64_t cut = of_b.columns > kManyRows ? k / 2 : k;
    for (uint64_t column = 0; column < of_d.columns; ++column) {
      for (uint64_t row = 0; row < of_d.rows; ++row) {
        float halves[2] = {0, 0};
        for (uint64_t i = 0; i < k; ++i)
          halves[i >= cut] += load(of_a, a, i, row) * load(of_b, b, i, column);
        // With 0 the old value is not read: it may be anything.
        const float old = beta == 0 ? 0 : beta * load(of_d, d, row, column);
        store(of_d, d, row, column, alpha * (halves[0] + halves[1]) + old);
      }
    }
  });
  return kSuccess;
}
