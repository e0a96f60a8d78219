// sample: against candidates that are sorted in float64.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "cuda/check/lab.h"

namespace vllm_pd::cuda::checks {
namespace {

/** What one row draws, by sorting. `hidden` tokens are never drawn. */
int32_t expected(const float* logits, int64_t vocab, const SamplingRow& row, const std::vector<bool>& hidden) {
  std::vector<int32_t> order;
  for (int32_t id = 0; id < vocab; ++id)
    if (!hidden[id] && logits[id] > -INFINITY) order.push_back(id);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (row.temperature < 1e-5) return order[0];
  if (row.top_k > 0) order.resize(std::min(order.size(), static_cast<size_t>(row.top_k)));
  const double max = logits[order[0]];
  const auto weight = [&](int32_t id) { return std::floor(std::exp((logits[id] - max) / row.temperature) * 0x1p34); };
  double total = 0;
  for (const int32_t id : order) total += weight(id);
  double kept = 0;
  size_t count = 0;
  while (count < order.size() && (count == 0 || kept < row.top_p * total)) kept += weight(order[count++]);
  order.resize(count);
  std::sort(order.begin(), order.end());
  double left = std::min(kept - 1, std::floor(row.share * kept));
  for (const int32_t id : order) {
    left -= weight(id);
    if (left < 0) return id;
  }
  return -1;
}

/** One draw a row; `suppressed` may be empty. */
std::vector<int32_t> draw(Lab& lab, const std::vector<float>& logits, const std::vector<SamplingRow>& rows,
                          int64_t vocab, const std::vector<uint32_t>& suppressed = {}) {
  const auto count = static_cast<int64_t>(rows.size());
  const DeviceMemory logits_memory = lab.upload(logits);
  const DeviceMemory rows_memory = lab.upload(rows);
  const DeviceMemory suppressed_memory = lab.upload(suppressed);
  const DeviceMemory ids = lab.space(count * 4);
  lab.kernels(ElementType::kBF16, KvType::kBF16)
      .sample({logits_memory.as<float>(), rows_memory.as<SamplingRow>(),
               suppressed.empty() ? nullptr : suppressed_memory.as<uint32_t>(), ids.as<int32_t>(), vocab},
              count, lab.stream().get());
  return lab.download<int32_t>(ids, count);
}

SamplingRow row_of(double temperature, int32_t top_k, double top_p, double share, int32_t logits_row) {
  return {temperature, top_p, share, top_k, logits_row, 0, {}};
}

/** `steps` > 0: logits take only that many values, so that many are equal. `masked`: of every three tokens one is
 * suppressed, and rows forbid some themselves. */
void check_vocab(Lab& lab, int64_t vocab, int steps, bool masked) {
  std::vector<SamplingRow> rows;
  for (const double temperature : {0.0, 0.7, 1.5}) {
    for (const int32_t top_k : {0, 1, 7, 50}) {
      for (const double top_p : {1.0, 0.9, 0.2, 1e-6}) {
        const double share = static_cast<double>(lab.random.bits() >> 11) * 0x1p-53;
        rows.push_back(row_of(temperature, top_k, top_p, share, static_cast<int32_t>(rows.size())));
        if (!masked) continue;
        for (int32_t& id : rows.back().forbidden) id = static_cast<int32_t>(lab.random.below(vocab));
        rows.back().num_forbidden = static_cast<int32_t>(lab.random.below(kMaxForbidden + 1));
      }
    }
  }
  // Rows need not be those of the logits.
  std::reverse(rows.begin(), rows.end());
  std::vector<float> logits = lab.floats(static_cast<int64_t>(rows.size()) * vocab, 4.0f);
  for (float& logit : logits) {
    if (steps > 0) logit = std::round(logit / 4.0f * static_cast<float>(steps));
  }
  std::vector<uint32_t> suppressed;
  if (masked) suppressed.assign((vocab + 31) / 32, 0x49249249u);
  std::vector<int32_t> want;
  for (const SamplingRow& row : rows) {
    std::vector<bool> hidden(vocab);
    for (int64_t id = 0; masked && id < vocab; ++id) hidden[id] = suppressed[id / 32] >> (id % 32) & 1;
    for (int32_t i = 0; i < row.num_forbidden; ++i) hidden[row.forbidden[i]] = true;
    want.push_back(expected(logits.data() + row.logits_row * vocab, vocab, row, hidden));
  }
  lab.same("sample of " + std::to_string(vocab) + (steps > 0 ? " with equal logits" : "") + (masked ? ", masked" : ""),
           draw(lab, logits, rows, vocab, suppressed), want);
}

/** 2,000 draws from four tokens come as often as their weights say. */
void check_frequencies(Lab& lab) {
  constexpr int64_t kDraws = 2000;
  const double shares[4] = {0.1, 0.2, 0.3, 0.4};
  std::vector<float> logits;
  for (const double share : shares) logits.push_back(static_cast<float>(std::log(share)));
  std::vector<SamplingRow> rows;
  for (int64_t i = 0; i < kDraws; ++i) rows.push_back(row_of(1, 0, 1, (static_cast<double>(i) + 0.5) / kDraws, 0));
  std::vector<int32_t> counts(4);
  for (const int32_t id : draw(lab, logits, rows, 4)) ++counts.at(static_cast<size_t>(id));
  lab.same("sample: frequencies", counts, std::vector<int32_t>{200, 400, 600, 800});
}

/** Infinite, absent and forbidden logits: what cannot be drawn is -1, what alone is left is drawn though forbidden. */
void check_not_finite(Lab& lab) {
  constexpr int64_t kVocab = 5;
  const float inf = INFINITY;
  const std::vector<float> logits = {-inf, -inf, -inf, -inf, -inf, NAN, -inf, 2.0f, -inf, NAN,
                                     1.0f, inf,  0.0f, 0.0f, 0.0f};
  std::vector<SamplingRow> rows;
  for (const int32_t row : {0, 1, 2, 1, 1}) rows.push_back(row_of(1, 3, 0.9, 0.5, row));
  rows[3].num_forbidden = 1;
  rows[3].forbidden[0] = 2;
  rows[4].temperature = 0;
  lab.same("sample: logits that are not finite", draw(lab, logits, rows, kVocab), std::vector<int32_t>{-1, 2, -1, 2, 2});
}

}  // namespace

void check_sample(Lab& lab) {
  check_vocab(lab, 51, 0, false);
  check_vocab(lab, 1000, 0, false);
  check_vocab(lab, 333, 3, false);
  check_vocab(lab, 70, 4, true);
  check_vocab(lab, 500, 0, true);
  check_frequencies(lab);
  check_not_finite(lab);
}

}  // namespace vllm_pd::cuda::checks
