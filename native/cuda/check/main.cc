// cuda_check: every kernel against a reference in higher precision, on the device or the emulated driver.
//   cuda_check [--seed N] [--alter] [--list] [kernel …]
// One line of JSON a comparison; exit code 1 if one fails, 77 (with the reason) where no device can be used.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cuda/check/lab.h"
#include "error.h"

namespace {

using namespace vllm_pd::cuda;

struct Named {
  const char* name;
  checks::Check check;
};

constexpr Named kChecks[] = {
    {"embed", checks::check_embed},
    {"rms_norm", checks::check_rms_norm},
    {"swiglu", checks::check_swiglu},
    {"convert", checks::check_convert},
    {"gather_rows", checks::check_gather_rows},
    {"rotate_and_cache", checks::check_rotate_and_cache},
    {"matmul", checks::check_matmul},
    {"paged_attention", checks::check_paged_attention},
    {"sample", checks::check_sample},
    {"copy_blocks", checks::check_copy_blocks},
    {"graph", checks::check_graph},
};

int run(const std::vector<const Named*>& wanted, uint64_t seed, bool alter) {
  checks::Lab lab(seed);
  lab.alter = alter;
  for (const Named* named : wanted) named->check(lab);
  return lab.num_failed() > 0 ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  uint64_t seed = 1;
  bool alter = false;
  bool list = false;
  std::vector<const Named*> wanted;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
      seed = std::strtoull(argv[++i], nullptr, 10);
    } else if (std::strcmp(argv[i], "--alter") == 0) {
      alter = true;
    } else if (std::strcmp(argv[i], "--list") == 0) {
      list = true;
    } else {
      const size_t before = wanted.size();
      for (const Named& named : kChecks) {
        if (std::strcmp(named.name, argv[i]) == 0) wanted.push_back(&named);
      }
      if (wanted.size() == before) {
        std::fprintf(stderr, "Expected a kernel of --list but received '%s'.\n", argv[i]);
        return 2;
      }
    }
  }
  if (list) {
    for (const Named& named : kChecks) std::puts(named.name);
    return 0;
  }
  if (wanted.empty()) {
    for (const Named& named : kChecks) wanted.push_back(&named);
  }
  const CudaFacts facts = cuda_facts();
  if (!facts.why_not.empty()) {
    std::fprintf(stderr, "skipped: %s\n", facts.why_not.c_str());
    return 77;
  }
  try {
    return run(wanted, seed, alter);
  } catch (const vllm_pd::Error& error) {
    std::fprintf(stderr, "%s: %s\n", error.code(), error.what());
    return 1;
  }
}
