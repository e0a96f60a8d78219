// A product and paged attention, each with everything that it needs.
#include "probe/single_ops.h"

#include "cpu/attention_tasks.h"
#include "cpu/cpu_ops.h"
#include "cpu/isa.h"
#include "cpu/op_threads.h"
#include "float_buffer.h"
#include "huge_floats.h"
#include "probe/fill.h"

namespace vllm_pd {
namespace {

class MatmulProbe : public Probe {
 public:
  MatmulProbe(int num_threads, int64_t num_rows, const MatrixShape& shape)
      : ops_(cpu::make_ops(num_threads)),
        num_rows_(num_rows),
        a_(num_rows * shape.k),
        out_(num_rows * shape.n) {
    const auto row = [](const void* context, int64_t index, float* out) {
      fill(out, *static_cast<const int64_t*>(context), static_cast<uint32_t>(index));
    };
    const auto packed = std::make_shared<HugeFloats>((ops_->packed_bytes(shape) + 3) / 4);
    auto* const bytes = reinterpret_cast<uint8_t*>(packed->data());
    ops_->pack(shape, row, &shape.k, bytes);
    weights_ = ops_->open(shape, bytes, packed);
    fill(a_.data(), num_rows * shape.k, 3);
  }

  void run() override { ops_->matmul(a_.data(), num_rows_, nullptr, *weights_, nullptr, out_.data()); }

 private:
  std::unique_ptr<Ops> ops_;
  int64_t num_rows_;
  std::unique_ptr<PackedMatrix> weights_;
  HugeFloats a_;    // (num_rows, k)
  HugeFloats out_;  // (num_rows, n)
};

/** Attention's kernels, but they read K and V and compute nothing. */
cpu::Kernels reading_kernels() {
  cpu::Kernels kernels = cpu::chosen_kernels();
  kernels.attention = [](const cpu::AttentionArgs& args) {
    const cpu::KeyRange spans = cpu::spans_of(cpu::keys_of(args));
    for (int64_t span = spans.begin; span < spans.end; ++span) cpu::chosen_kernels().attention_span_reads(args, span, args.out);
  };
  kernels.attention_span = kernels.attention_span_reads;
  kernels.attention_join = [](const cpu::AttentionArgs&, const float*, int64_t) {};
  return kernels;
}

class AttentionProbe : public Probe {
 public:
  AttentionProbe(const cpu::Kernels& kernels, int num_threads, const AttentionSizes& sizes)
      : kernels_(kernels),
        threads_(num_threads),
        attention_(kernels_, threads_),
        shape_(sizes.shape),
        cache_({sizes.num_requests * sizes.blocks_a_request(), sizes.num_layers, sizes.shape.num_kv_heads,
                sizes.block_size, sizes.shape.head_dim, sizes.dtype}) {
    batch_.cu_seqlens_q.push_back(0);
    batch_.cu_blocks.push_back(0);
    for (int64_t request = 0; request < sizes.num_requests; ++request) {
      for (int64_t token = 0; token < sizes.num_tokens; ++token) {
        batch_.token_ids.push_back(0);
        batch_.positions.push_back(static_cast<int32_t>(sizes.num_context_tokens + token));
      }
      for (int64_t block = 0; block < sizes.blocks_a_request(); ++block) {
        batch_.block_tables.push_back(static_cast<int32_t>(batch_.block_tables.size()));
      }
      batch_.cu_seqlens_q.push_back(static_cast<int32_t>(batch_.token_ids.size()));
      batch_.cu_blocks.push_back(static_cast<int32_t>(batch_.block_tables.size()));
    }
    const int64_t num_tokens = batch_.num_tokens();
    fill(qkv_.sized(num_tokens * shape_.qkv_dim()), num_tokens * shape_.qkv_dim(), 1);
    out_.sized(num_tokens * shape_.q_dim());
    const KvLayout& layout = cache_.layout();
    const int64_t count = layout.num_blocks * layout.block_bytes() / layout.element_bytes();
    if (layout.dtype == KvDtype::kF32) {
      fill(reinterpret_cast<float*>(cache_.region().block(0)), count, 2);
    } else {
      fill_halves(reinterpret_cast<uint16_t*>(cache_.region().block(0)), count);
    }
  }

  void run() override {
    for (int64_t layer = 0; layer < cache_.layout().num_layers; ++layer) {
      attention_.run({qkv_.data(), shape_, batch_, cache_.region(), layer, out_.data()});
    }
  }

 private:
  cpu::Kernels kernels_;
  cpu::OpThreads threads_;
  cpu::AttentionTasks attention_;
  AttentionShape shape_;
  KvCache cache_;
  Batch batch_;
  FloatBuffer qkv_;  // (num_tokens, q_dim + 2 kv_dim)
  FloatBuffer out_;  // (num_tokens, q_dim)
};

}  // namespace

std::unique_ptr<Probe> make_matmul_probe(int num_threads, int64_t num_rows, const MatrixShape& shape) {
  return std::make_unique<MatmulProbe>(num_threads, num_rows, shape);
}

std::unique_ptr<Probe> make_attention_probe(int num_threads, const AttentionSizes& sizes) {
  return std::make_unique<AttentionProbe>(cpu::chosen_kernels(), num_threads, sizes);
}

std::unique_ptr<Probe> make_attention_reads_probe(int num_threads, const AttentionSizes& sizes) {
  return std::make_unique<AttentionProbe>(reading_kernels(), num_threads, sizes);
}

}  // namespace vllm_pd
