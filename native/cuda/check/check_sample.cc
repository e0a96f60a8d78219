// sample: against candidates that are sorted in float64.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "cuda/check/lab.h"

namespace vllm_pd::cuda::checks {
namespace {

/** What the kernel's generator gives, as a share in [0, 1): Philox 4x32-10. */
double share_of(uint64_t seed, uint64_t counter) {
  uint32_t c[4] = {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0};
  uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = uint64_t{0xD2511F53} * c[0];
    const uint64_t second = uint64_t{0xCD9E8D57} * c[2];
    const uint32_t next[4] = {static_cast<uint32_t>(second >> 32) ^ c[1] ^ key[0], static_cast<uint32_t>(second),
                              static_cast<uint32_t>(first >> 32) ^ c[3] ^ key[1], static_cast<uint32_t>(first)};
    std::copy(next, next + 4, c);
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return std::ldexp(static_cast<double>(c[1]), -32) + std::ldexp(static_cast<double>(c[0]), -64);
}

/** Whether `token` is what this row draws, up to rounding of the weights. */
bool is_drawn(const float* logits, int64_t vocab, const SamplingRow& row, int32_t token) {
  std::vector<int32_t> order(static_cast<size_t>(vocab));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (row.temperature < 1e-5f) return token == order[0];
  if (row.top_k > 0 && row.top_k < vocab) order.resize(static_cast<size_t>(row.top_k));
  const double max = logits[order[0]];
  const auto weight = [&](int32_t id) { return std::exp((logits[id] - max) / row.temperature); };
  double total = 0;
  for (const int32_t id : order) total += weight(id);
  double kept = 0;
  size_t count = 0;
  while (count < order.size() && (count == 0 || kept < (row.top_p - 1e-9) * total)) kept += weight(order[count++]);
  order.resize(count);
  std::sort(order.begin(), order.end());
  const double share = share_of(row.seed, row.counter);
  double passed = 0;
  for (const int32_t id : order) {
    const double before = passed / kept;
    passed += weight(id);
    if (id == token) return share > before - 1e-5 && share < passed / kept + 1e-5;
  }
  return false;
}

/** `steps` > 0: logits take only that many values, so that many are equal. */
void check_vocab(Lab& lab, int64_t vocab, int steps) {
  std::vector<SamplingRow> rows;
  for (const float temperature : {0.0f, 0.7f, 1.5f}) {
    for (const int32_t top_k : {0, 1, 7, 50}) {
      for (const float top_p : {1.0f, 0.9f, 0.2f, 1e-6f})
        rows.push_back({temperature, top_k, top_p, 0, lab.random.bits(), rows.size()});
    }
  }
  const auto count = static_cast<int64_t>(rows.size());
  std::vector<float> logits = lab.floats(count * vocab, 4.0f);
  for (float& logit : logits) {
    if (steps > 0) logit = std::round(logit / 4.0f * static_cast<float>(steps));
  }
  const DeviceMemory logits_memory = lab.upload(logits);
  const DeviceMemory rows_memory = lab.upload(rows);
  const DeviceMemory ids = lab.space(count * 4);
  lab.kernels(ElementType::kBF16, KvType::kBF16)
      .sample({logits_memory.as<float>(), rows_memory.as<SamplingRow>(), ids.as<int32_t>(), vocab}, count,
              lab.stream().get());
  const std::vector<int32_t> drawn = lab.download<int32_t>(ids, count);
  std::string wrong;
  for (int64_t i = 0; i < count; ++i) {
    const SamplingRow& row = rows[i];
    if (is_drawn(logits.data() + i * vocab, vocab, row, drawn[i])) continue;
    wrong += " row " + std::to_string(i) + " (temperature " + std::to_string(row.temperature) + ", top_k " +
             std::to_string(row.top_k) + ", top_p " + std::to_string(row.top_p) + ") drew " +
             std::to_string(drawn[i]) + ";";
  }
  lab.holds("sample of " + std::to_string(vocab) + (steps > 0 ? " with equal logits" : ""), wrong.empty(), wrong);
}

/** 2,000 draws from four tokens come as often as their weights say. */
void check_frequencies(Lab& lab) {
  constexpr int64_t kDraws = 2000;
  const double shares[4] = {0.1, 0.2, 0.3, 0.4};
  std::vector<float> logits;
  std::vector<SamplingRow> rows;
  for (int64_t i = 0; i < kDraws; ++i) {
    for (const double share : shares) logits.push_back(static_cast<float>(std::log(share)));
    rows.push_back({1.0f, 0, 1.0f, 0, 42, static_cast<uint64_t>(i)});
  }
  const DeviceMemory logits_memory = lab.upload(logits);
  const DeviceMemory rows_memory = lab.upload(rows);
  const DeviceMemory ids = lab.space(kDraws * 4);
  lab.kernels(ElementType::kBF16, KvType::kBF16)
      .sample({logits_memory.as<float>(), rows_memory.as<SamplingRow>(), ids.as<int32_t>(), 4}, kDraws,
              lab.stream().get());
  double chi_squared = 0;
  std::vector<double> counts(4);
  for (const int32_t id : lab.download<int32_t>(ids, kDraws)) ++counts.at(static_cast<size_t>(id));
  for (int i = 0; i < 4; ++i) {
    const double expected = shares[i] * kDraws;
    chi_squared += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  // Three degrees of freedom: above 16.3 once in a thousand.
  lab.holds("sample: frequencies", chi_squared < 16.3, "chi squared is " + std::to_string(chi_squared));
}

void check_not_finite(Lab& lab) {
  constexpr int64_t kVocab = 5;
  const float inf = INFINITY;
  const std::vector<float> logits = {-inf, -inf, -inf, -inf, -inf, NAN, -inf, 2.0f, -inf, NAN,
                                     1.0f, inf,  0.0f, 0.0f, 0.0f};
  const SamplingRow row{1.0f, 0, 1.0f, 0, 3, 4};
  const DeviceMemory logits_memory = lab.upload(logits);
  const DeviceMemory rows_memory = lab.upload(std::vector<SamplingRow>{row, row, row});
  const DeviceMemory ids = lab.space(3 * 4);
  lab.kernels(ElementType::kBF16, KvType::kBF16)
      .sample({logits_memory.as<float>(), rows_memory.as<SamplingRow>(), ids.as<int32_t>(), kVocab}, 3,
              lab.stream().get());
  lab.same("sample: logits that are not finite", lab.download<int32_t>(ids, 3), std::vector<int32_t>{-1, 2, -1});
}

}  // namespace

void check_sample(Lab& lab) {
  check_vocab(lab, 51, 0);
  check_vocab(lab, 1000, 0);
  check_vocab(lab, 333, 3);
  check_frequencies(lab);
  check_not_finite(lab);
}

}  // namespace vllm_pd::cuda::checks
