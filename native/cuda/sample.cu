// sample: draws one token a row: the largest logit, or by temperature, top-k and top-p. Grid (num_rows),
// kSampleThreads threads. Weights are whole numbers, so that sums are the same in whatever order they are formed; they
// are those of src/worker/sampler.ts, which makes the random numbers as well, so that both draw the same token.
#include "cuda/args.h"
#include "cuda/sample_threads.h"
#include "cuda/vectors.h"

namespace vllm_pd::cuda {

constexpr int kBins = 256;
/** Weight of the likeliest token. What comes to less than one part in 2^34 of it is never drawn. */
constexpr double kUnit = 17179869184.0;

struct SampleScratch {
  uint64_t bins[kBins];
  uint64_t thread_values[kSampleThreads];
  uint64_t warp_sums[32];
  uint32_t key;
  uint64_t above;
  int32_t token_id;
};
static_assert(sizeof(SampleScratch) <= kSampleSharedBytes, "what the launch asks for");

/** Orders floats as whole numbers; NaN comes lowest, and both zeros are one. */
VLLM_PD_DEVICE uint32_t ordered(float x) {
  const uint32_t bits = as_bits(x + 0.0f);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0;
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/** One row's logits; what may not be drawn is minus infinity. */
struct Logits {
  const float* row;
  const uint32_t* suppressed;
  const int32_t* forbidden;
  int num_forbidden;

  VLLM_PD_DEVICE float operator[](int64_t i) const {
    bool hidden = suppressed != nullptr && (suppressed[i / 32] >> (i % 32) & 1u);
    for (int j = 0; j < num_forbidden; ++j) hidden = hidden || forbidden[j] == i;
    return hidden ? negative_infinity() : row[i];
  }
};

/** One row, and what may be drawn of it: tokens whose key lies above `key`, and the first `ties` equal to it. */
struct Candidates {
  Logits logits;
  int64_t vocab_size;
  float max;
  double temperature;
  uint32_t key;
  uint64_t ties;

  VLLM_PD_DEVICE uint64_t weight(float logit) const {
    const double above = static_cast<double>(logit) - static_cast<double>(max);
    return static_cast<uint64_t>(exponential(above / temperature) * kUnit);
  }
};

VLLM_PD_DEVICE float logit_of_key(uint32_t key) { return as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key); }

/**
 * The largest key for which all tokens of that key or above come to `target`, 8 bits a pass; `above` is what those
 * above it come to. A token counts 1, or its weight.
 */
VLLM_PD_DEVICE uint32_t select_key(const Candidates& from, bool weighted, uint64_t target, uint64_t* above,
                                   SampleScratch* scratch) {
  uint32_t prefix = 0;
  uint64_t before = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < kBins; i += kSampleThreads) scratch->bins[i] = 0;
    barrier();
    const auto count = [&](uint32_t key, uint64_t value) {
      if (shift < 24 && key >> (shift + 8) != prefix >> (shift + 8)) return;
      atomic_add(&scratch->bins[key >> shift & 0xff], value);
    };
    for (int64_t i = threadIdx.x; i < from.vocab_size; i += kSampleThreads) {
      const uint32_t key = ordered(from.logits[i]);
      if (key > from.key) count(key, weighted ? from.weight(from.logits[i]) : 1);
    }
    if (threadIdx.x == 0 && from.ties > 0) {
      count(from.key, weighted ? from.ties * from.weight(logit_of_key(from.key)) : from.ties);
    }
    barrier();
    if (threadIdx.x == 0) {
      int bin = kBins - 1;
      while (bin > 0 && before + scratch->bins[bin] < target) before += scratch->bins[bin--];
      scratch->key = prefix | static_cast<uint32_t>(bin) << shift;
      scratch->above = before;
    }
    barrier();
    prefix = scratch->key;
    before = scratch->above;
    barrier();
  }
  *above = before;
  return prefix;
}

/** Exclusive sums over threads, in order. */
VLLM_PD_DEVICE uint64_t sum_before(uint64_t value, SampleScratch* scratch) {
  scratch->thread_values[threadIdx.x] = value;
  barrier();
  if (threadIdx.x == 0) {
    uint64_t total = 0;
    for (int i = 0; i < kSampleThreads; ++i) {
      const uint64_t own = scratch->thread_values[i];
      scratch->thread_values[i] = total;
      total += own;
    }
  }
  barrier();
  const uint64_t before = scratch->thread_values[threadIdx.x];
  barrier();
  return before;
}

VLLM_PD_DEVICE uint64_t total_weight(const Candidates& from, SampleScratch* scratch) {
  uint64_t sum = 0;
  for (int64_t i = threadIdx.x; i < from.vocab_size; i += kSampleThreads) {
    if (ordered(from.logits[i]) > from.key) sum += from.weight(from.logits[i]);
  }
  const uint64_t ties = from.ties > 0 ? from.ties * from.weight(logit_of_key(from.key)) : 0;
  return block_sum(sum, scratch->warp_sums) + ties;
}

/** Keeps the `k` largest, of equal ones the first. */
VLLM_PD_DEVICE void keep_largest(Candidates& from, int32_t k, SampleScratch* scratch) {
  uint64_t above = 0;
  const uint32_t key = select_key(from, false, k, &above, scratch);
  // There are no more than that.
  if (key <= from.key) return;
  from.key = key;
  from.ties = k - above;
}

/** Keeps the fewest of the largest whose share of all weight reaches `p`; at least one. */
VLLM_PD_DEVICE void keep_nucleus(Candidates& from, double p, SampleScratch* scratch) {
  const double wanted = p * static_cast<double>(total_weight(from, scratch));
  uint64_t target = static_cast<uint64_t>(wanted);
  if (static_cast<double>(target) < wanted || target == 0) ++target;
  uint64_t above = 0;
  const uint32_t key = select_key(from, true, target, &above, scratch);
  const uint64_t each = from.weight(logit_of_key(key));
  const uint64_t ties = each > 0 ? (target - above + each - 1) / each : 0;
  from.ties = key == from.key && ties > from.ties ? from.ties : ties;
  from.key = key;
}

/** The token at which the weights, summed in the order of ids, pass a random number below their total. */
VLLM_PD_DEVICE void draw(const Candidates& from, const SamplingRow& row, SampleScratch* scratch) {
  const int64_t share = (from.vocab_size + kSampleThreads - 1) / kSampleThreads;
  const int64_t begin = threadIdx.x * share;
  const int64_t end = begin + share < from.vocab_size ? begin + share : from.vocab_size;
  uint64_t own_ties = 0;
  for (int64_t i = begin; i < end; ++i) own_ties += ordered(from.logits[i]) == from.key;
  const uint64_t ties_before = sum_before(own_ties, scratch);
  const auto for_kept = [&](auto visit) {
    uint64_t ties = ties_before;
    for (int64_t i = begin; i < end; ++i) {
      const uint32_t key = ordered(from.logits[i]);
      const bool kept = key > from.key || (key == from.key && ties < from.ties);
      ties += key == from.key;
      if (kept) visit(i, from.weight(from.logits[i]));
    }
  };
  uint64_t own = 0;
  for_kept([&](int64_t, uint64_t weight) { own += weight; });
  uint64_t passed = sum_before(own, scratch);
  const uint64_t total = block_sum(own, scratch->warp_sums);
  uint64_t at = static_cast<uint64_t>(row.share * static_cast<double>(total));
  // The product may be rounded up.
  if (at >= total) at = total - 1;
  if (at < passed || at >= passed + own) return;
  bool found = false;
  for_kept([&](int64_t i, uint64_t weight) {
    passed += weight;
    if (found || at >= passed) return;
    found = true;
    scratch->token_id = static_cast<int32_t>(i);
  });
}

/** Of the largest logits the first; NaN is never it. All threads get it. */
VLLM_PD_DEVICE int64_t argmax(const Logits& logits, int64_t vocab_size, SampleScratch* scratch) {
  // Key first, then the lowest id: the largest of these 64-bit numbers.
  uint64_t best = 0;
  for (int64_t i = threadIdx.x; i < vocab_size; i += kSampleThreads) {
    const uint64_t mine = static_cast<uint64_t>(ordered(logits[i])) << 32 | (0xffffffffu - static_cast<uint32_t>(i));
    best = mine > best ? mine : best;
  }
  scratch->thread_values[threadIdx.x] = best;
  barrier();
  for (int half = kSampleThreads / 2; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half) {
      const uint64_t other = scratch->thread_values[threadIdx.x + half];
      if (other > scratch->thread_values[threadIdx.x]) scratch->thread_values[threadIdx.x] = other;
    }
    barrier();
  }
  best = scratch->thread_values[0];
  barrier();
  return 0xffffffffu - static_cast<uint32_t>(best);
}

VLLM_PD_KERNEL(sample, SampleArgs, kSampleThreads) {
  SampleScratch* const scratch = shared_memory<SampleScratch>();
  const SamplingRow& row = args.rows[blockIdx.x];
  Logits logits{args.logits + row.logits_row * args.vocab_size, args.suppressed, row.forbidden, row.num_forbidden};
  int64_t best = argmax(logits, args.vocab_size, scratch);
  if (logits.num_forbidden > 0 && !(logits[best] > negative_infinity())) {
    logits.num_forbidden = 0;
    best = argmax(logits, args.vocab_size, scratch);
  }
  const float max = logits[best];
  const bool finite = (as_bits(max) & 0x7f800000u) != 0x7f800000u;
  if (threadIdx.x == 0) scratch->token_id = finite ? static_cast<int32_t>(best) : -1;
  barrier();
  if (finite && row.temperature >= 1e-5) {
    Candidates from{logits, args.vocab_size, max, row.temperature, ordered(negative_infinity()), 0};
    if (row.top_k > 0 && row.top_k < args.vocab_size) keep_largest(from, row.top_k, scratch);
    if (row.top_p < 1.0) keep_nucleus(from, row.top_p, scratch);
    draw(from, row, scratch);
    barrier();
  }
  if (threadIdx.x == 0) args.token_ids[blockIdx.x] = scratch->token_id;
}

}  // namespace vllm_pd::cuda
