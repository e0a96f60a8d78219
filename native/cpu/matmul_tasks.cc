// Which thread multiplies what.
#include "cpu/matmul_tasks.h"

#include <algorithm>

namespace vllm_pd::cpu {
namespace {

/** Of rows that one matmul task goes through for each panel: they stay in the second-level cache. */
constexpr int64_t kTaskBytes = 384 * 1024;

}  // namespace

void MatmulTasks::run(const float* a, int64_t num_rows, const PanelMatrix& w, const float* init,
                      int64_t init_stride, float* out) {
  const Rows rows = convert_rows(a, num_rows, w);
  const auto kernel = w.type() == WeightType::kFloat32    ? kernels_.matmul_f32
                      : w.type() == WeightType::kBFloat16 ? kernels_.matmul_bf16
                                                          : kernels_.matmul_int8;
  const int64_t tile_rows =
      w.type() == WeightType::kFloat32 ? kernels_.f32_tile_rows : kernels_.narrow_tile_rows;
  const int64_t n = w.n();
  const int64_t panels = num_panels(n);
  const int64_t rows_a_task = std::max<int64_t>(tile_rows, kTaskBytes / rows.stride / tile_rows * tile_rows);
  const int64_t row_blocks = (num_rows + rows_a_task - 1) / rows_a_task;
  const int64_t wanted_tasks = 4 * threads_.count();
  const int64_t splits =
      std::clamp<int64_t>((wanted_tasks + row_blocks - 1) / std::max<int64_t>(row_blocks, 1), 1, panels);
  const int64_t panels_a_task = (panels + splits - 1) / splits;
  const int64_t column_blocks = (panels + panels_a_task - 1) / panels_a_task;
  threads_.parallel_for(row_blocks * column_blocks, [&](int64_t index, int) {
    const int64_t row = index / column_blocks * rows_a_task;
    const int64_t panel = index % column_blocks * panels_a_task;
    MatmulArgs args;
    args.a = rows.data + row * rows.stride;
    args.a_stride = rows.stride;
    args.num_rows = std::min(rows_a_task, num_rows - row);
    args.k = w.padded_k();
    args.panels = w.panels();
    args.panel_begin = panel;
    args.panel_end = std::min(panel + panels_a_task, panels);
    args.n = n;
    args.init = init ? init + row * init_stride : nullptr;
    args.init_stride = init_stride;
    args.out = out + row * n;
    args.row_scales = rows.scales ? rows.scales + row : nullptr;
    args.column_scales = w.scales();
    args.column_sums = w.sums();
    kernel(args);
  });
}

MatmulTasks::Rows MatmulTasks::convert_rows(const float* a, int64_t num_rows, const PanelMatrix& w) {
  const int64_t k = w.k();
  if (w.type() == WeightType::kFloat32) {
    return {reinterpret_cast<const uint8_t*>(a), k * static_cast<int64_t>(sizeof(float)), nullptr};
  }
  const bool int8 = w.type() == WeightType::kInt8;
  const int64_t row_bytes = w.padded_k() * (int8 ? kernels_.int8_row_element : kernels_.bf16_row_element);
  // A line more than needed: rows a power of two apart would take turns in few sets of the nearest cache.
  const int64_t stride = (row_bytes + 63) / 64 * 64 + 64;
  if (static_cast<int64_t>(rows_.size()) < num_rows * stride + 64) rows_.resize(num_rows * stride + 64);
  if (static_cast<int64_t>(row_scales_.size()) < num_rows) row_scales_.resize(num_rows);
  auto* const data =
      reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(rows_.data()) + 63) & ~uintptr_t{63});
  threads_.for_rows(num_rows, k, [&](int64_t row) {
    if (int8) {
      row_scales_[row] = kernels_.quantize_row(a + row * k, k, w.padded_k(), data + row * stride);
    } else {
      kernels_.round_row(a + row * k, k, w.padded_k(), data + row * stride);
    }
  });
  return {data, stride, row_scales_.data()};
}

}  // namespace vllm_pd::cpu
