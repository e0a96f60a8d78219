// embed, rms_norm, swiglu, convert, gather_rows: kernels whose rows have nothing to do with one another.
#include <cmath>
#include <cstring>

#include "cuda/check/lab.h"

namespace vllm_pd::cuda::checks {
namespace {

constexpr ElementType kTypes[] = {ElementType::kBF16, ElementType::kF16};

std::string label(const char* kernel, ElementType type, int64_t rows, int64_t dim) {
  return std::string(kernel) + " " + name_of(type) + " (" + std::to_string(rows) + ", " + std::to_string(dim) + ")";
}

std::vector<double> normed(const std::vector<float>& x, const std::vector<float>& weight, int64_t dim, float eps) {
  std::vector<double> out;
  for (size_t row = 0; row < x.size(); row += static_cast<size_t>(dim)) {
    double squares = 0;
    for (int64_t i = 0; i < dim; ++i) squares += static_cast<double>(x[row + i]) * x[row + i];
    const double factor = 1.0 / std::sqrt(squares / static_cast<double>(dim) + eps);
    for (int64_t i = 0; i < dim; ++i) out.push_back(x[row + i] * factor * weight[i]);
  }
  return out;
}

void check_rms_norm_of(Lab& lab, ElementType type, int64_t rows, int64_t dim) {
  Kernels kernels = lab.kernels(type, kv_type_of(type));
  std::vector<float> x = lab.floats(rows * dim, 3.0f);
  const Tensor delta = lab.tensor(type, rows * dim);
  const std::vector<float> weight = lab.floats(dim, 2.0f);
  const DeviceMemory x_memory = lab.upload(x);
  const DeviceMemory delta_memory = lab.upload(delta.bits);
  const DeviceMemory weight_memory = lab.upload(weight);
  const DeviceMemory out = lab.space(rows * dim * 2);
  const RmsNormArgs args{x_memory.as<float>(), delta_memory.as<void>(), weight_memory.as<float>(), out.as<void>(), dim, 1e-6f};
  kernels.rms_norm(args, rows, lab.stream().get());
  for (size_t i = 0; i < x.size(); ++i) x[i] += delta.values[i];
  lab.same(label("rms_norm: residual", type, rows, dim), lab.download<float>(x_memory, rows * dim), x);
  const auto all = lab.download<uint16_t>(out, rows * dim);
  std::vector<float> values;
  for (const uint16_t bits : all) values.push_back(value_of(type, bits));
  lab.close(label("rms_norm", type, rows, dim), values, normed(x, weight, dim, 1e-6f), 1e-6, 1.02 * half_unit(type));

  // The last row alone, without an addend: the same bits.
  const DeviceMemory alone = lab.space(dim * 2);
  RmsNormArgs last = args;
  last.x += (rows - 1) * dim;
  last.delta = nullptr;
  last.out = alone.as<void>();
  kernels.rms_norm(last, 1, lab.stream().get());
  lab.same(label("rms_norm: a row alone", type, rows, dim), lab.download<uint16_t>(alone, dim),
           std::vector<uint16_t>(all.end() - dim, all.end()));
}

void check_swiglu_of(Lab& lab, ElementType type, int64_t rows, int64_t dim) {
  const Tensor gate_up = lab.tensor(type, rows * 2 * dim, 8.0f);
  const DeviceMemory from = lab.upload(gate_up.bits);
  const DeviceMemory out = lab.space(rows * dim * 2);
  lab.kernels(type, kv_type_of(type)).swiglu({from.as<void>(), out.as<void>(), dim}, rows, lab.stream().get());
  std::vector<double> want;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < dim; ++i) {
      const double gate = gate_up.values[row * 2 * dim + i];
      want.push_back(gate / (1.0 + std::exp(-gate)) * gate_up.values[row * 2 * dim + dim + i]);
    }
  }
  lab.close(label("swiglu", type, rows, dim), lab.download_values(type, out, rows * dim), want, 1e-6,
            1.02 * half_unit(type));
}

/** What `bits` of e4m3 stand for, from its definition. */
double e4m3_value(int bits) {
  const int exponent = bits >> 3 & 15;
  const int fraction = bits & 7;
  const double magnitude = exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, exponent - 10);
  if (exponent == 15 && fraction == 7) return std::nan("");
  return bits & 0x80 ? -magnitude : magnitude;
}

/** The nearest e4m3 number; of two equally near the even one. */
int nearest_e4m3(float value) {
  int best = 0;
  for (int bits = 0; bits < 0x7f; ++bits) {
    const double now = std::fabs(e4m3_value(bits) - std::fabs(value));
    const double before = std::fabs(e4m3_value(best) - std::fabs(value));
    if (now < before || (now == before && bits % 2 == 0)) best = bits;
  }
  return best | (std::signbit(value) ? 0x80 : 0);
}

}  // namespace

void check_embed(Lab& lab) {
  constexpr int64_t kVocab = 37;
  constexpr int64_t kDim = 24;
  constexpr int64_t kRows = 11;
  for (const ElementType type : kTypes) {
    const Tensor table = lab.tensor(type, kVocab * kDim);
    std::vector<int32_t> ids;
    std::vector<float> want;
    for (int64_t row = 0; row < kRows; ++row) {
      ids.push_back(static_cast<int32_t>(row == 0 ? kVocab - 1 : lab.random.below(kVocab)));
      for (int64_t i = 0; i < kDim; ++i) want.push_back(table.values[ids.back() * kDim + i]);
    }
    const DeviceMemory table_memory = lab.upload(table.bits);
    const DeviceMemory ids_memory = lab.upload(ids);
    const DeviceMemory out = lab.space(kRows * kDim * 4);
    lab.kernels(type, kv_type_of(type))
        .embed({ids_memory.as<int32_t>(), table_memory.as<void>(), out.as<float>(), kDim}, kRows, lab.stream().get());
    lab.same(label("embed", type, kRows, kDim), lab.download<float>(out, kRows * kDim), want);
  }
}

void check_rms_norm(Lab& lab) {
  for (const ElementType type : kTypes) {
    check_rms_norm_of(lab, type, 1, 8);
    check_rms_norm_of(lab, type, 5, 136);
    check_rms_norm_of(lab, type, 3, 2568);
  }
}

void check_swiglu(Lab& lab) {
  for (const ElementType type : kTypes) {
    check_swiglu_of(lab, type, 1, 8);
    check_swiglu_of(lab, type, 3, 2136);
  }
}

void check_gather_rows(Lab& lab) {
  constexpr int64_t kDim = 300;
  const std::vector<float> x = lab.floats(9 * kDim);
  const std::vector<int32_t> rows = {8, 0, 3, 3};
  std::vector<float> want;
  for (const int32_t row : rows) want.insert(want.end(), x.begin() + row * kDim, x.begin() + (row + 1) * kDim);
  const DeviceMemory from = lab.upload(x);
  const DeviceMemory rows_memory = lab.upload(rows);
  const DeviceMemory out = lab.space(4 * kDim * 4);
  lab.kernels(ElementType::kBF16, KvType::kBF16)
      .gather_rows({from.as<float>(), rows_memory.as<int32_t>(), out.as<float>(), kDim}, 4, lab.stream().get());
  lab.same("gather_rows (4, 300)", lab.download<float>(out, 4 * kDim), want);
}

void check_convert(Lab& lab) {
  std::vector<float> values = lab.floats(1000, 500.0f);
  for (int i = -30; i < 12; ++i) {
    values.push_back(std::ldexp(1.0f, i));
    values.push_back(-1.5f * std::ldexp(1.0f, i));
    // Halfway between two e4m3 numbers.
    values.push_back(1.0625f * std::ldexp(1.0f, i));
    values.push_back(1.1875f * std::ldexp(1.0f, i));
  }
  const auto count = static_cast<int64_t>(values.size());
  Kernels kernels = lab.kernels(ElementType::kBF16, KvType::kBF16);
  const DeviceMemory from = lab.upload(values);
  const DeviceMemory narrow = lab.space(count * 2);
  const DeviceMemory back = lab.space(count * 4);
  const std::vector<double> exact(values.begin(), values.end());
  for (const ElementType type : kTypes) {
    const std::string name = name_of(type);
    kernels.convert({from.as<void>(), narrow.as<void>(), count}, "f32", name.c_str(), lab.stream().get());
    kernels.convert({narrow.as<void>(), back.as<void>(), count}, name.c_str(), "f32", lab.stream().get());
    lab.close("convert f32 to " + name + " and back", lab.download<float>(back, count), exact, 0x1p-25,
              half_unit(type));
  }
  std::vector<uint8_t> want;
  std::vector<double> decoded;
  for (const float value : values) {
    want.push_back(static_cast<uint8_t>(nearest_e4m3(value)));
    decoded.push_back(e4m3_value(want.back()));
  }
  kernels.convert({from.as<void>(), narrow.as<void>(), count}, "f32", "e4m3", lab.stream().get());
  kernels.convert({narrow.as<void>(), back.as<void>(), count}, "e4m3", "f32", lab.stream().get());
  lab.same("convert f32 to e4m3", lab.download<uint8_t>(narrow, count), want);
  lab.close("convert e4m3 to f32", lab.download<float>(back, count), decoded, 1e-30, 0.0);
}

}  // namespace vllm_pd::cuda::checks
