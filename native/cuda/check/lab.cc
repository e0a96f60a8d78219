// Tensors to and from the device, and what is printed of a comparison.
#include "cuda/check/lab.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <utility>

namespace vllm_pd::cuda::checks {
namespace {

uint64_t hash_of(const void* data, size_t num_bytes) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (size_t i = 0; i < num_bytes; ++i) hash = (hash ^ static_cast<const uint8_t*>(data)[i]) * 0x100000001b3u;
  return hash;
}

std::string hex(const uint8_t* bytes, size_t count) {
  std::string text;
  char digits[3];
  for (size_t i = count; i-- > 0;) {
    std::snprintf(digits, sizeof digits, "%02x", bytes[i]);
    text += digits;
  }
  return text;
}

std::string show(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%.9g", value);
  return text;
}

constexpr int kShown = 4;

}  // namespace

uint64_t Random::bits() {
  uint64_t z = state_ += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

float Random::value() { return static_cast<float>(bits() >> 40) * 0x1p-23f - 1.0f; }

int64_t Random::below(int64_t limit) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(limit)); }

std::vector<int32_t> Random::shuffled(int64_t count) {
  std::vector<int32_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  for (int64_t i = count; i > 1; --i) std::swap(order[static_cast<size_t>(i - 1)], order[static_cast<size_t>(below(i))]);
  return order;
}

Lab::Lab(uint64_t seed) : random(seed), device_(std::make_shared<Device>(0)), stream_(device_) {}

Tensor Lab::tensor(ElementType type, int64_t count, float scale) {
  Tensor tensor;
  for (int64_t i = 0; i < count; ++i) {
    tensor.bits.push_back(bits_of(type, random.value() * scale));
    tensor.values.push_back(value_of(type, tensor.bits.back()));
  }
  return tensor;
}

std::vector<float> Lab::floats(int64_t count, float scale) {
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) values.push_back(random.value() * scale);
  return values;
}

DeviceMemory Lab::upload_bytes(const void* data, int64_t num_bytes) const {
  DeviceMemory memory(device_, num_bytes);
  stream_.to_device(memory.address(), data, num_bytes);
  stream_.synchronize();
  return memory;
}

DeviceMemory Lab::space(int64_t num_bytes) const {
  DeviceMemory memory(device_, num_bytes);
  stream_.fill(memory.address(), 0xff, num_bytes);
  return memory;
}

void Lab::download_bytes(void* data, const DeviceMemory& memory, int64_t num_bytes) const {
  stream_.to_host(data, memory.address(), num_bytes);
  stream_.synchronize();
}

std::vector<float> Lab::download_values(ElementType type, const DeviceMemory& memory, int64_t count) const {
  std::vector<float> values;
  for (const uint16_t bits : download<uint16_t>(memory, count)) values.push_back(value_of(type, bits));
  return values;
}

void Lab::close(const std::string& what, const std::vector<float>& got, const std::vector<double>& want,
                double absolute, double relative) {
  std::string detail;
  int differing = got.size() == want.size() ? 0 : 1;
  double worst = 0;
  for (size_t i = 0; i < got.size() && i < want.size(); ++i) {
    const double wanted = want[i] + (alter && i == got.size() / 2 ? 1.0 : 0.0);
    const double error = std::fabs(got[i] - wanted) / (absolute + relative * std::fabs(wanted));
    if (error > worst) worst = error;
    if (error <= 1.0) continue;
    if (++differing <= kShown)
      detail += " [" + std::to_string(i) + "] " + show(got[i]) + " instead of " + show(wanted) + ";";
  }
  if (differing > 0) detail = std::to_string(differing) + " of " + std::to_string(want.size()) + " differ:" + detail;
  report(what, differing == 0, differing ? detail : show(worst) + " of what is allowed",
         hash_of(got.data(), got.size() * sizeof(float)));
}

void Lab::same_bytes(const std::string& what, const void* got, size_t got_bytes, const void* want, size_t want_bytes,
                     size_t element_bytes) {
  const auto* a = static_cast<const uint8_t*>(got);
  std::vector<uint8_t> b(static_cast<const uint8_t*>(want), static_cast<const uint8_t*>(want) + want_bytes);
  if (alter && !b.empty()) b[b.size() / 2] ^= 1;
  std::string detail;
  int differing = got_bytes == want_bytes ? 0 : 1;
  for (size_t i = 0; i + element_bytes <= got_bytes && i + element_bytes <= want_bytes; i += element_bytes) {
    if (std::memcmp(a + i, b.data() + i, element_bytes) == 0) continue;
    if (++differing <= kShown)
      detail += " [" + std::to_string(i / element_bytes) + "] 0x" + hex(a + i, element_bytes) + " instead of 0x" +
                hex(b.data() + i, element_bytes) + ";";
  }
  if (differing > 0) detail = std::to_string(differing) + " differ:" + detail;
  report(what, differing == 0, differing ? detail : "equal bits", hash_of(got, got_bytes));
}

void Lab::holds(const std::string& what, bool ok, const std::string& otherwise) {
  const bool altered = ok != alter;
  report(what, altered, altered ? "holds" : otherwise, 0);
}

void Lab::report(const std::string& what, bool ok, const std::string& detail, uint64_t bits) {
  if (!ok) ++num_failed_;
  std::printf("{\"check\":\"%s\",\"ok\":%s,\"detail\":\"%s\",\"bits\":\"%016llx\"}\n", what.c_str(),
              ok ? "true" : "false", detail.c_str(), static_cast<unsigned long long>(bits));
  std::fflush(stdout);
}

}  // namespace vllm_pd::cuda::checks
