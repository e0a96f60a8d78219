// Looks at the CPU, and at VLLM_PD_ISA.
#include "cpu/isa.h"

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "error.h"

#if defined(VLLM_PD_X86)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace vllm_pd::cpu {

extern const Kernels kernels_portable;
#if defined(VLLM_PD_X86)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
extern const Kernels kernels_avx512_vnni;
extern const Kernels kernels_avx512_bf16;
extern const Kernels kernels_amx;
#if defined(VLLM_PD_EMULATED)
extern const Kernels kernels_emulated_avx512;
extern const Kernels kernels_emulated_avx512_vnni;
extern const Kernels kernels_emulated_avx512_bf16;
extern const Kernels kernels_emulated_amx;
#endif
#endif

namespace {

#if defined(VLLM_PD_X86)
/** The CPU has AMX for bf16 and int8, and the system lets this process use its tiles. */
bool has_amx() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  constexpr unsigned kTile = 1u << 24;
  constexpr unsigned kInt8 = 1u << 25;
  constexpr unsigned kBf16 = 1u << 22;
  if ((edx & kTile) == 0 || (edx & kInt8) == 0 || (edx & kBf16) == 0) return false;
  constexpr long kArchReqXcompPerm = 0x1023;
  constexpr long kXfeatureTileData = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureTileData) == 0;
}
#endif

/** Best first. */
std::vector<const Kernels*> available_kernels() {
  std::vector<const Kernels*> available;
#if defined(VLLM_PD_X86)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
  const bool bf16 = vnni && __builtin_cpu_supports("avx512bf16");
  // vdpbf16ps does twice the work of an FMA in the same time on AMD (Zen 4 and 5); on Intel it takes four
  // times as long and loses to widening, so there it is only used when asked for.
  const bool fast_bf16 = bf16 && !__builtin_cpu_is("intel");
  if (bf16 && has_amx()) available.push_back(&kernels_amx);
  if (fast_bf16) available.push_back(&kernels_avx512_bf16);
  if (vnni) available.push_back(&kernels_avx512_vnni);
  if (bf16 && !fast_bf16) available.push_back(&kernels_avx512_bf16);
  if (avx512) available.push_back(&kernels_avx512);
  if (avx2) available.push_back(&kernels_avx2);
#endif
  available.push_back(&kernels_portable);
#if defined(VLLM_PD_EMULATED)
  if (avx2) {
    for (const Kernels* kernels : {&kernels_emulated_avx512, &kernels_emulated_avx512_vnni, &kernels_emulated_avx512_bf16,
                                   &kernels_emulated_amx}) {
      available.push_back(kernels);
    }
  }
#endif
  return available;
}

}  // namespace

const Kernels& chosen_kernels() {
  const std::vector<const Kernels*> available = available_kernels();
  const char* wanted = std::getenv("VLLM_PD_ISA");
  if (wanted == nullptr || *wanted == '\0') return *available.front();
  std::string names;
  for (const Kernels* kernels : available) {
    if (std::strcmp(kernels->isa, wanted) == 0) return *kernels;
    names += (names.empty() ? "" : ", ") + std::string(kernels->isa);
  }
  throw Error("INVALID_ARGUMENT", "Expected VLLM_PD_ISA to be one of those this CPU has (" + names +
                                      ") but received '" + wanted + "'.");
}

WeightType default_weight_type() {
  const std::string isa = chosen_kernels().isa;
  return isa == "portable" || isa == "avx2" ? WeightType::kFloat32 : WeightType::kBFloat16;
}

}  // namespace vllm_pd::cpu
