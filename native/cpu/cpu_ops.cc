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
                      [&](int64_t row) { panels.read_row(ids[row], out + row * table.k()); });
  }

  void rms_norm(const float* x, int64_t num_rows, int64_t dim, const float* weight, float eps,
                float* out) override {
    threads_.for_rows(num_rows, dim, [&](int64_t row) {
      kernels_.rms_norm(x + row * dim, dim, weight, eps, out + row * dim);
    });
  }

  void matmul(const float* a, int64_t num_rows, const PackedMatrix& w, const float* bias,
              float* out) override {
    products_.run(a, num_rows, panels_of(w), bias, 0, out);
  }

  void matmul_add(const float* a, int64_t num_rows, const PackedMatrix& w, float* out) override {
    products_.run(a, num_rows, panels_of(w), out, w.n(), out);
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
    threads_.for_rows(batch.num_tokens(), shape.qkv_dim(), [&](int64_t token) {
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

  void swiglu(const float* gate_up, int64_t num_rows, int64_t dim, float* out) override {
    threads_.for_rows(num_rows, 2 * dim, [&](int64_t row) {
      const float* const gate = gate_up + row * 2 * dim;
      kernels_.swiglu(gate, gate + dim, dim, out + row * dim);
    });
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
