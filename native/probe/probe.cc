// Which probe is meant by a kind and its sizes.
#include "probe/probe.h"

#include "error.h"
#include "probe/machine_limits.h"
#include "probe/single_ops.h"

namespace vllm_pd {

std::unique_ptr<Probe> make_probe(const std::string& kind, const std::vector<int64_t>& s) {
  const auto is = [&](const char* name, size_t num_sizes) { return kind == name && s.size() == num_sizes; };
  const int num_threads = s.empty() ? 0 : static_cast<int>(s[0]);
  const auto type = [&](size_t index) {
    if (s[index] < 0 || s[index] > 2)
      throw Error("INVALID_ARGUMENT", "There is no weight type " + std::to_string(s[index]) + ".");
    return static_cast<WeightType>(s[index]);
  };
  if (is("fma", 3)) return make_fma_probe(num_threads, s[1], type(2));
  if (is("read", 2)) return make_read_probe(num_threads, s[1]);
  if (is("socket", 2)) return make_socket_probe(num_threads, s[1]);
  if (is("copy", 3)) return make_copy_probe(num_threads, s[1], s[2]);
  if (is("matmul", 5)) {
    return make_matmul_probe(num_threads, s[1], MatrixShape{s[3], s[2], type(4)});
  }
  if (is("attention", 10) || is("attention_reads", 10)) {
    const AttentionSizes sizes{
        s[1], s[2], s[3], s[4], {s[5], s[6], s[7], 0}, s[8], s[9] == 1 ? KvDtype::kBF16 : KvDtype::kF32};
    return kind == "attention" ? make_attention_probe(num_threads, sizes) : make_attention_reads_probe(num_threads, sizes);
  }
  throw Error("INVALID_ARGUMENT",
              "There is no probe '" + kind + "' of " + std::to_string(s.size()) + " sizes.");
}

}  // namespace vllm_pd
