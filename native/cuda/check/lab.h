// What every kernel's check uses: a device with a stream, seeded random tensors in the kernels' own types, and
// comparisons that print the first differing values.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cuda/device_memory.h"
#include "cuda/element.h"
#include "cuda/launch.h"
#include "cuda/stream.h"

namespace vllm_pd::cuda::checks {

/** SplitMix64. */
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits();
  /** In [-1, 1). */
  float value();
  int64_t below(int64_t limit);
  /** A permutation of [0, count). */
  std::vector<int32_t> shuffled(int64_t count);

 private:
  uint64_t state_;
};

/** Bits of a 16-bit tensor and the values that they stand for. */
struct Tensor {
  std::vector<uint16_t> bits;
  std::vector<float> values;
};

class Lab {
 public:
  explicit Lab(uint64_t seed);

  Random random;
  const std::shared_ptr<Device>& device() const { return device_; }
  const Stream& stream() const { return stream_; }
  Kernels kernels(ElementType element, KvType kv) const { return {device_, element, kv}; }

  Tensor tensor(ElementType type, int64_t count, float scale = 1.0f);
  std::vector<float> floats(int64_t count, float scale = 1.0f);

  template <typename T>
  DeviceMemory upload(const std::vector<T>& values) const {
    return upload_bytes(values.data(), static_cast<int64_t>(values.size() * sizeof(T)));
  }
  /** Filled with NaN. */
  DeviceMemory space(int64_t num_bytes) const;
  template <typename T>
  std::vector<T> download(const DeviceMemory& memory, int64_t count) const {
    std::vector<T> values(static_cast<size_t>(count));
    download_bytes(values.data(), memory, count * static_cast<int64_t>(sizeof(T)));
    return values;
  }
  /** 16-bit elements as floats. */
  std::vector<float> download_values(ElementType type, const DeviceMemory& memory, int64_t count) const;

  /** Every |got - want| is to be at most absolute + relative * |want|. */
  void close(const std::string& what, const std::vector<float>& got, const std::vector<double>& want, double absolute,
             double relative);
  template <typename T>
  void same(const std::string& what, const std::vector<T>& got, const std::vector<T>& want) {
    same_bytes(what, got.data(), got.size() * sizeof(T), want.data(), want.size() * sizeof(T), sizeof(T));
  }
  void holds(const std::string& what, bool ok, const std::string& otherwise);

  int num_failed() const { return num_failed_; }
  /** Alters one expected value of each comparison, which has to be noticed. */
  bool alter = false;

 private:
  DeviceMemory upload_bytes(const void* data, int64_t num_bytes) const;
  void download_bytes(void* data, const DeviceMemory& memory, int64_t num_bytes) const;
  void same_bytes(const std::string& what, const void* got, size_t got_bytes, const void* want, size_t want_bytes,
                  size_t element_bytes);
  /** One line of JSON; `bits` is a hash of the results. */
  void report(const std::string& what, bool ok, const std::string& detail, uint64_t bits);

  std::shared_ptr<Device> device_;
  Stream stream_;
  int num_failed_ = 0;
};

inline const char* name_of(ElementType type) { return type == ElementType::kBF16 ? "bf16" : "f16"; }
inline const char* name_of(KvType type) {
  return type == KvType::kE4M3 ? "e4m3" : type == KvType::kBF16 ? "bf16" : "f16";
}
inline KvType kv_type_of(ElementType type) { return type == ElementType::kBF16 ? KvType::kBF16 : KvType::kF16; }
inline float value_of(ElementType type, uint16_t bits) {
  return type == ElementType::kBF16 ? to_float(BF16{bits}) : to_float(F16{bits});
}
inline uint16_t bits_of(ElementType type, float value) {
  return type == ElementType::kBF16 ? from_float<BF16>(value).bits : from_float<F16>(value).bits;
}
/** Half a unit in the last place of a number in [1, 2). */
inline double half_unit(ElementType type) { return type == ElementType::kBF16 ? 1.0 / 256 : 1.0 / 2048; }

using Check = void (*)(Lab&);

void check_embed(Lab& lab);
void check_rms_norm(Lab& lab);
void check_swiglu(Lab& lab);
void check_convert(Lab& lab);
void check_gather_rows(Lab& lab);
void check_rotate_and_cache(Lab& lab);
void check_matmul(Lab& lab);
void check_paged_attention(Lab& lab);
void check_sample(Lab& lab);
void check_copy_blocks(Lab& lab);
void check_graph(Lab& lab);

}  // namespace vllm_pd::cuda::checks
