// Which thread multiplies what.
#include "cpu/matmul_tasks.h"

#include <algorithm>

namespace vllm_pd::cpu {
namespace {

constexpr int64_t kLineBytes = 64;
constexpr int64_t kFloatBytes = sizeof(float);
/** Products above this many bytes would push out of the second-level cache what is multiplied. */
constexpr int64_t kMaxCachedProduct = 1024 * 1024;

bool is_line_aligned(const void* at) { return reinterpret_cast<uintptr_t>(at) % kLineBytes == 0; }

}  // namespace

/** What becomes of products that are gates and what they gate; size 0: they are neither. */
struct MatmulTasks::Gate {
  int64_t size = 0;
  uint8_t* rows = nullptr;
  int64_t stride = 0;
};

struct MatmulTasks::Place {
  uint8_t* data;
  int64_t stride;
  int64_t piece_stride;
  int64_t block;

  uint8_t* row(int64_t index) const { return data + index / block * block * stride + index % block * kRowPiece; }
};

MatmulTasks::Place MatmulTasks::place(FloatBuffer& buffer, int64_t num_rows, const PanelMatrix& w) const {
  const bool is_narrow = w.type() != WeightType::kFloat32;
  const int64_t element = w.type() == WeightType::kInt8       ? kernels_.int8_row_element
                          : w.type() == WeightType::kBFloat16 ? kernels_.bf16_row_element
                                                              : kFloatBytes;
  const int64_t block = is_narrow ? kernels_.row_block : 1;
  const int64_t row_bytes = (w.padded_k() * element + kLineBytes - 1) / kLineBytes * kLineBytes;
  // Row by row, a line more than needed: rows a power of two apart would take turns in few sets of the nearest cache.
  const int64_t stride = row_bytes + (block == 1 ? kLineBytes : 0);
  const int64_t num_bytes = (num_rows + block - 1) / block * block * stride;
  return {reinterpret_cast<uint8_t*>(buffer.sized(num_bytes / kFloatBytes)), stride, block * kRowPiece, block};
}

Rows MatmulTasks::rows(const float* a, int64_t num_rows, const RmsNorm* norm, const PanelMatrix& w) {
  return convert(rows_, a, num_rows, norm, w);
}

Rows MatmulTasks::convert(FloatBuffer& buffer, const float* a, int64_t num_rows, const RmsNorm* norm,
                          const PanelMatrix& w) {
  const int64_t k = w.k();
  if (w.type() == WeightType::kFloat32 && norm == nullptr) {
    return {reinterpret_cast<const uint8_t*>(a), num_rows, k * kFloatBytes, nullptr};
  }
  const Place to = place(buffer, num_rows, w);
  float* const scales = row_scales_.sized(num_rows);
  threads_.for_rows(num_rows, k, [&](int64_t row, int thread) {
    const float* from = a + row * k;
    if (norm) {
      float* const normed = w.type() == WeightType::kFloat32 ? reinterpret_cast<float*>(to.row(row))
                                                             : threads_.scratch(thread, k);
      kernels_.rms_norm(from, k, norm->weight, norm->eps, normed);
      from = normed;
    }
    if (w.type() == WeightType::kInt8) {
      scales[row] = kernels_.quantize_row(from, k, w.padded_k(), to.piece_stride, to.row(row));
    } else if (w.type() == WeightType::kBFloat16) {
      kernels_.round_row(from, k, w.padded_k(), to.piece_stride, to.row(row));
    }
  });
  return {to.data, num_rows, to.stride, scales};
}

Rows MatmulTasks::gated_rows(const Rows& rows, const PanelMatrix& gate_up, const float* bias, const PanelMatrix& down) {
  const int64_t size = down.k();
  const bool is_fused = kernels_.gates && gate_up.type() != WeightType::kFloat32;
  if (is_fused && down.type() == WeightType::kBFloat16) {
    const Place to = place(gated_rows_, rows.num_rows, down);
    multiply(rows, gate_up, {bias, 0}, {size, to.data, to.stride}, nullptr);
    return {to.data, rows.num_rows, to.stride, nullptr};
  }
  float* const gated = gated_.sized(rows.num_rows * size);
  if (is_fused) {
    multiply(rows, gate_up, {bias, 0}, {size}, gated);
  } else {
    float* const products = gate_up_.sized(rows.num_rows * gate_up.n());
    multiply(rows, gate_up, {bias, 0}, {}, products);
    threads_.for_rows(rows.num_rows, gate_up.n(), [&](int64_t row, int) {
      kernels_.swiglu(products + row * gate_up.n(), size, gated + row * size);
    });
  }
  return convert(gated_rows_, gated, rows.num_rows, nullptr, down);
}

void MatmulTasks::run(const Rows& rows, const PanelMatrix& w, const Addend& addend, float* out) {
  multiply(rows, w, addend, {}, out);
}

void MatmulTasks::multiply(const Rows& rows, const PanelMatrix& w, const Addend& addend, const Gate& gate,
                           float* out) {
  const auto kernel = w.type() == WeightType::kFloat32    ? kernels_.matmul_f32
                      : w.type() == WeightType::kBFloat16 ? kernels_.matmul_bf16
                                                          : kernels_.matmul_int8;
  const int64_t tile_rows =
      w.type() == WeightType::kFloat32 ? kernels_.f32_tile_rows : kernels_.narrow_tile_rows;
  const int64_t n = w.n();
  const int64_t panels = num_panels(n);
  const int64_t rows_a_task = std::max<int64_t>(tile_rows, kernels_.task_bytes / rows.stride / tile_rows * tile_rows);
  const int64_t row_blocks = (rows.num_rows + rows_a_task - 1) / rows_a_task;
  const int64_t wanted_tasks = 4 * threads_.count();
  const int64_t splits =
      std::clamp<int64_t>((wanted_tasks + row_blocks - 1) / std::max<int64_t>(row_blocks, 1), 1, panels);
  const int64_t panels_a_task = (panels + splits - 1) / splits;
  const int64_t column_blocks = (panels + panels_a_task - 1) / panels_a_task;
  const int64_t out_size = gate.size > 0 ? gate.size : n;
  const int64_t out_bytes = out_size * kFloatBytes;
  const bool stream = addend.rows != out && rows.num_rows * out_bytes > kMaxCachedProduct &&
                      out_bytes % kLineBytes == 0 && is_line_aligned(out);
  threads_.parallel_for(row_blocks * column_blocks, [&](int64_t index, int thread) {
    const int64_t row = index / column_blocks * rows_a_task;
    const int64_t panel = index % column_blocks * panels_a_task;
    MatmulArgs args;
    args.a = rows.data + row * rows.stride;
    args.a_stride = rows.stride;
    args.num_rows = std::min(rows_a_task, rows.num_rows - row);
    args.k = w.padded_k();
    args.panels = w.panels();
    args.panel_begin = panel;
    args.panel_end = std::min(panel + panels_a_task, panels);
    args.n = n;
    args.init = addend.rows ? addend.rows + row * addend.stride : nullptr;
    args.init_stride = addend.stride;
    args.out = out ? out + row * out_size : nullptr;
    args.stream = stream;
    args.scratch = threads_.scratch(thread, matmul_scratch_floats(args.num_rows));
    args.gated_size = gate.size;
    args.gated_rows = gate.rows ? gate.rows + row * gate.stride : nullptr;
    args.gated_stride = gate.stride;
    args.row_scales = rows.scales ? rows.scales + row : nullptr;
    args.column_scales = w.scales();
    args.column_sums = w.sums();
    kernel(args);
  });
}

}  // namespace vllm_pd::cpu
