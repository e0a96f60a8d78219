// matmul: all three tile shapes, all outputs, and that a row's bits do not depend on the others.
#include "cuda/check/lab.h"

namespace vllm_pd::cuda::checks {
namespace {

struct Shape {
  int64_t rows;
  int64_t n;
  int64_t k;
};

std::vector<double> product(const Tensor& a, const Tensor& w, const Shape& shape, const std::vector<float>& bias,
                            const std::vector<float>& before) {
  std::vector<double> out;
  for (int64_t row = 0; row < shape.rows; ++row) {
    for (int64_t column = 0; column < shape.n; ++column) {
      double sum = (bias.empty() ? 0.0 : bias[column]) + (before.empty() ? 0.0 : before[row * shape.n + column]);
      for (int64_t i = 0; i < shape.k; ++i)
        sum += static_cast<double>(a.values[row * shape.k + i]) * w.values[column * shape.k + i];
      out.push_back(sum);
    }
  }
  return out;
}

void check_shape_of(Lab& lab, ElementType type, const Shape& shape) {
  Kernels kernels = lab.kernels(type, kv_type_of(type));
  const Tensor a = lab.tensor(type, shape.rows * shape.k);
  const Tensor w = lab.tensor(type, shape.n * shape.k);
  const std::vector<float> bias = lab.floats(shape.n);
  const DeviceMemory a_memory = lab.upload(a.bits);
  const DeviceMemory w_memory = lab.upload(w.bits);
  const DeviceMemory bias_memory = lab.upload(bias);
  const int64_t count = shape.rows * shape.n;
  const std::string what = std::string("matmul ") + name_of(type) + " (" + std::to_string(shape.rows) + ", " +
                           std::to_string(shape.k) + ") x (" + std::to_string(shape.n) + ")";
  // Rounding of sums in float32, in whatever order a tensor core forms sixteen of them.
  const double sum_error = 1e-6 * static_cast<double>(shape.k);

  const DeviceMemory narrow = lab.space(count * 2);
  kernels.matmul({a_memory.as<void>(), w_memory.as<void>(), bias_memory.as<float>(), narrow.as<void>(), shape.rows,
                  shape.n, shape.k, MatmulOutput::kElements},
                 lab.stream().get());
  lab.close(what + " + bias", lab.download_values(type, narrow, count), product(a, w, shape, bias, {}), sum_error,
            1.01 * half_unit(type));

  const DeviceMemory wide = lab.space(count * 4);
  MatmulArgs args{a_memory.as<void>(), w_memory.as<void>(), nullptr, wide.as<void>(), shape.rows, shape.n, shape.k,
                  MatmulOutput::kFloats};
  kernels.matmul(args, lab.stream().get());
  const std::vector<float> floats = lab.download<float>(wide, count);
  lab.close(what + " in float32", floats, product(a, w, shape, {}, {}), sum_error, 1e-6);

  args.output = MatmulOutput::kAdd;
  kernels.matmul(args, lab.stream().get());
  lab.close(what + " added", lab.download<float>(wide, count), product(a, w, shape, {}, floats), sum_error, 1e-6);
}

/** One row among 1, 16, 17, 64, 65 and 130: every tile shape, every place in a tile. */
void check_batch_invariance(Lab& lab, ElementType type) {
  constexpr int64_t kN = 72;
  constexpr int64_t kK = 264;
  constexpr int64_t kMost = 130;
  Kernels kernels = lab.kernels(type, kv_type_of(type));
  const Tensor w = lab.tensor(type, kN * kK);
  const Tensor a = lab.tensor(type, kMost * kK);
  const DeviceMemory w_memory = lab.upload(w.bits);
  std::vector<float> expected;
  for (const int64_t rows : {int64_t{1}, int64_t{16}, int64_t{17}, int64_t{64}, int64_t{65}, kMost}) {
    // The row that is compared stands last, the others before it.
    const std::vector<uint16_t> bits(a.bits.end() - rows * kK, a.bits.end());
    const DeviceMemory a_memory = lab.upload(bits);
    const DeviceMemory out = lab.space(rows * kN * 4);
    kernels.matmul({a_memory.as<void>(), w_memory.as<void>(), nullptr, out.as<void>(), rows, kN, kK,
                    MatmulOutput::kFloats},
                   lab.stream().get());
    const std::vector<float> all = lab.download<float>(out, rows * kN);
    const std::vector<float> last(all.end() - kN, all.end());
    if (expected.empty()) expected = last;
    lab.same(std::string("matmul ") + name_of(type) + ": a row among " + std::to_string(rows), last, expected);
  }
}

}  // namespace

void check_matmul(Lab& lab) {
  for (const ElementType type : {ElementType::kBF16, ElementType::kF16}) {
    for (const Shape& shape : {Shape{1, 33, 8}, Shape{5, 64, 136}, Shape{16, 31, 512}, Shape{40, 65, 72},
                               Shape{129, 130, 104}}) {
      check_shape_of(lab, type, shape);
    }
    check_batch_invariance(lab, type);
  }
}

}  // namespace vllm_pd::cuda::checks
