// The ops on a CPU: rows and tiles over threads, each with the kernels of the instruction set.
#include "cpu/cpu_ops.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "cpu/attention_tasks.h"
#include "cpu/isa.h"
#include "cpu/kernels.h"
#include "cpu/matmul_tasks.h"
#include "cpu/op_threads.h"
#include "cpu/packed_matrix.h"

namespace vllm_pd::cpu {
namespace {

const PanelMatrix& panels_of(const PackedMatrix& matrix) { return static_cast<const PanelMatrix&>(matrix); }

class CpuOps : public Ops {
 public:
  explicit CpuOps(int num_threads)
      : kernels_(chosen_kernels()),
        threads_(num_threads),
        products_(kernels_, threads_),
        attention_(kernels_, threads_) {}

  std::string packed_layout() const override { return kPackedLayout; }

  int64_t packed_bytes(const MatrixShape& shape) const override { return cpu::packed_bytes(shape); }

  void pack(const MatrixShape& shape, RowSource source, const void* context, uint8_t* out) override {
    threads_.parallel_for(num_panels(shape.n), [&](int64_t panel, int thread) {
      pack_panel(shape, panel, source, context, threads_.scratch(thread, shape.k), out);
    });
  }

  std::unique_ptr<PackedMatrix> open(const MatrixShape& shape, const uint8_t* packed,
                                     std::shared_ptr<const void> owner) override {
    return std::make_unique<PanelMatrix>(shape, packed, std::move(owner));
  }

  void embed(const int32_t* ids, int64_t num_rows, const PackedMatrix& table, float* out) override {
    const PanelMatrix& panels = panels_of(table);
    threads_.for_rows(num_rows, table.k(),
                      [&](int64_t row, int) { panels.read_row(ids[row], out + row * table.k()); });
  }

  void matmul(const float* a, int64_t num_rows, const RmsNorm* norm, const PackedMatrix& w, const float* bias,
              float* out) override {
    const PanelMatrix& panels = panels_of(w);
    products_.run(products_.rows(a, num_rows, norm, panels), panels, {bias, 0}, out);
  }

  void matmul_add(const float* a, int64_t num_rows, const PackedMatrix& w, float* out) override {
    const PanelMatrix& panels = panels_of(w);
    products_.run(products_.rows(a, num_rows, nullptr, panels), panels, {out, w.n()}, out);
  }

  void rotate_and_cache(float* qkv, const AttentionShape& shape, const RotaryArgs& rotary, const Batch& batch,
                        const KvRegion& pool, int64_t layer) override {
    const int64_t head_dim = shape.head_dim;
    const int64_t half = rotary.rotary_dim / 2;
    const int64_t num_requests = batch.num_requests();
    const auto rotate = [&](float* head, const float* norm, int64_t token) {
      if (norm) kernels_.rms_norm(head, head_dim, norm, rotary.norm_eps, head);
      if (rotary.cos) {
        kernels_.rotate(head, rotary.rotary_dim, rotary.cos + token * half, rotary.sin + token * half);
      }
    };
    threads_.for_rows(batch.num_tokens(), shape.qkv_dim(), [&](int64_t token, int) {
      float* const q = qkv + token * shape.qkv_dim();
      float* const k = q + shape.q_dim();
      const float* const v = k + shape.kv_dim();
      for (int64_t head = 0; head < shape.num_heads; ++head)
        rotate(q + head * head_dim, rotary.q_norm, token);
      for (int64_t head = 0; head < shape.num_kv_heads; ++head)
        rotate(k + head * head_dim, rotary.k_norm, token);
      const auto& cu = batch.cu_seqlens_q;
      const int64_t request = std::upper_bound(cu.begin(), cu.begin() + num_requests, token) - cu.begin() - 1;
      const int64_t block_size = pool.layout.block_size;
      const int64_t position = batch.positions[token];
      const int64_t block_id = batch.block_tables[batch.cu_blocks[request] + position / block_size];
      uint8_t* const keys = pool.block(block_id) + layer * 2 * pool.layout.kv_bytes();
      uint8_t* const values = keys + pool.layout.kv_bytes();
      const int64_t row_bytes = head_dim * pool.layout.element_bytes();
      for (int64_t head = 0; head < shape.num_kv_heads; ++head) {
        const int64_t slot = (head * block_size + position % block_size) * row_bytes;
        cache_row(k + head * head_dim, head_dim, pool.layout.dtype, keys + slot);
        cache_row(v + head * head_dim, head_dim, pool.layout.dtype, values + slot);
      }
    });
  }

  void paged_attention(const float* qkv, const AttentionShape& shape, const Batch& batch,
                       const KvRegion& pool, int64_t layer, float* out) override {
    attention_.run({qkv, shape, batch, pool, layer, out});
  }

  void feed_forward(float* x, int64_t num_rows, const FeedForward& layer) override {
    const PanelMatrix& gate_up = panels_of(*layer.gate_up);
    const PanelMatrix& down = panels_of(*layer.down);
    const Rows normed = products_.rows(x, num_rows, &layer.norm, gate_up);
    products_.run(products_.gated_rows(normed, gate_up, layer.gate_up_bias, down), down, {x, down.n()}, x);
  }

 private:
  void cache_row(const float* x, int64_t count, KvDtype dtype, uint8_t* out) const {
    if (dtype == KvDtype::kBF16) {
      kernels_.round_to_bfloat16(x, count, reinterpret_cast<uint16_t*>(out));
    } else {
      std::memcpy(out, x, count * sizeof(float));
    }
  }

  const Kernels& kernels_;
  OpThreads threads_;
  MatmulTasks products_;
  AttentionTasks attention_;
};

}  // namespace

std::unique_ptr<Ops> make_ops(int num_threads) { return std::make_unique<CpuOps>(num_threads); }

}  // namespace vllm_pd::cpu
