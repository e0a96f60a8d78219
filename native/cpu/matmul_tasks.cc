// Which thread multiplies what.
#include "cpu/matmul_tasks.h"

#include <algorithm>

namespace vllm_pd::cpu {
namespace {

constexpr int64_t kLineBytes = 64;
/** Products above this many bytes would push out of the second-level cache what is multiplied. */
constexpr int64_t kMaxCachedProduct = 1024 * 1024;

bool is_line_aligned(const void* at) { return reinterpret_cast<uintptr_t>(at) % kLineBytes == 0; }

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
  const int64_t rows_a_task = std::max<int64_t>(tile_rows, kernels_.task_bytes / rows.stride / tile_rows * tile_rows);
  const int64_t row_blocks = (num_rows + rows_a_task - 1) / rows_a_task;
  const int64_t wanted_tasks = 4 * threads_.count();
  const int64_t splits =
      std::clamp<int64_t>((wanted_tasks + row_blocks - 1) / std::max<int64_t>(row_blocks, 1), 1, panels);
  const int64_t panels_a_task = (panels + splits - 1) / splits;
  const int64_t column_blocks = (panels + panels_a_task - 1) / panels_a_task;
  const int64_t row_bytes = n * static_cast<int64_t>(sizeof(float));
  const bool stream = init != out && num_rows * row_bytes > kMaxCachedProduct && row_bytes % kLineBytes == 0 &&
                      is_line_aligned(out);
  threads_.parallel_for(row_blocks * column_blocks, [&](int64_t index, int thread) {
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
    args.stream = stream;
    args.scratch = threads_.scratch(thread, matmul_scratch_floats(args.num_rows));
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
  const int64_t block = kernels_.row_block;
  // Row by row, a line more than needed: rows a power of two apart would take turns in few sets of the nearest cache.
  const int64_t stride =
      (row_bytes + kLineBytes - 1) / kLineBytes * kLineBytes + (block == 1 ? kLineBytes : 0);
  const int64_t num_bytes = (num_rows + block - 1) / block * block * stride;
  auto* const data = reinterpret_cast<uint8_t*>(rows_.sized(num_bytes / static_cast<int64_t>(sizeof(float))));
  float* const scales = row_scales_.sized(num_rows);
  const int64_t piece_stride = block * kRowPiece;
  threads_.for_rows(num_rows, k, [&](int64_t row) {
    uint8_t* const to = data + row / block * block * stride + row % block * kRowPiece;
    if (int8) {
      scales[row] = kernels_.quantize_row(a + row * k, k, w.padded_k(), piece_stride, to);
    } else {
      kernels_.round_row(a + row * k, k, w.padded_k(), piece_stride, to);
    }
  });
  return {data, stride, scales};
}

}  // namespace vllm_pd::cpu
