// The tensor cores' instructions, and how fragments of a matrix lie in a warp's registers (PTX ISA, mma.m16n8k16).
//
// With g = lane / 4 and t = lane % 4, two elements a register:
//   A (16 × 16): a0 (g, 2t), a1 (g + 8, 2t), a2 (g, 2t + 8), a3 (g + 8, 2t + 8), each with the column behind it
//   B (16 × 8):  b0 (2t, g), b1 (2t + 8, g), each with the row below it
//   C (16 × 8):  c0 c1 (g, 2t), c2 c3 (g + 8, 2t)
#pragma once

#include "cuda/dialect.h"
#include "cuda/element.h"

namespace vllm_pd::cuda {

/** Elements of 16 bytes of a row. */
constexpr int kChunk = 8;

/**
 * Element offset of chunk `chunk` of row `row` in shared memory, rows of `row_chunks` chunks (a multiple of 8,
 * or 4): eight rows' chunks of one column fall into different banks.
 */
VLLM_PD_DEVICE int swizzled(int row, int chunk, int row_chunks) {
  const int turn = row_chunks >= 8 ? row & 7 : row >> 1 & 3;
  return (row * row_chunks + (chunk ^ turn)) * kChunk;
}

#if defined(__CUDACC__)

VLLM_PD_DEVICE uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

/** c (16 × 8) += a (16 × 16) · b (16 × 8) */
template <typename T>
VLLM_PD_DEVICE void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <>
VLLM_PD_DEVICE void multiply_add<BF16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
VLLM_PD_DEVICE void multiply_add<F16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/**
 * Four 8 × 8 matrices: lane l names row l % 8 of matrix l / 8 (16 bytes in shared memory) and receives of each
 * matrix elements (g, 2t) and (g, 2t + 1).
 */
VLLM_PD_DEVICE void load_matrices(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
/** The same, each matrix transposed: elements (2t, g) and (2t + 1, g). */
VLLM_PD_DEVICE void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

/** Starts a copy of `num_bytes` (0 to 16) to 16 bytes of shared memory; the rest becomes zeros. */
VLLM_PD_DEVICE void copy_async(void* shared, const void* global, int num_bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(shared_address(shared)), "l"(global), "r"(num_bytes)
               : "memory");
}
/** Closes a group of this thread's copies. */
VLLM_PD_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/** Until at most `kGroups` of this thread's groups are under way. */
template <int kGroups>
VLLM_PD_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

#else

template <typename T>
float half_of(uint32_t word, int half) {
  return to_float(T{static_cast<uint16_t>(word >> (16 * half))});
}

template <typename T>
void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
  const auto* all = emulated::exchange(mine, 6);
  const int g = static_cast<int>(threadIdx.x % 32) / 4;
  const int t = static_cast<int>(threadIdx.x % 32) % 4;
  for (int i = 0; i < 4; ++i) {
    const int row_half = i / 2;
    const int column = 2 * t + i % 2;
    float sum = 0.0f;
    for (int k = 0; k < 16; ++k) {
      const int pair = k % 8 / 2;
      const float x = half_of<T>(all[g * 4 + pair][row_half + 2 * (k / 8)], k % 2);
      sum += x * half_of<T>(all[column * 4 + pair][4 + k / 8], k % 2);
    }
    c[i] += sum;
  }
}

inline void load_matrices(uint32_t (&r)[4], const void* row) {
  uint32_t words[4];
  std::memcpy(words, row, sizeof words);
  const auto* all = emulated::exchange(words, 4);
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int i = 0; i < 4; ++i) r[i] = all[i * 8 + lane / 4][lane % 4];
}
inline void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  uint32_t words[4];
  std::memcpy(words, row, sizeof words);
  const auto* all = emulated::exchange(words, 4);
  const int g = static_cast<int>(threadIdx.x % 32) / 4;
  const int t = static_cast<int>(threadIdx.x % 32) % 4;
  const auto element = [&](int matrix, int at_row) {
    return all[matrix * 8 + at_row][g / 2] >> (16 * (g % 2)) & 0xffff;
  };
  for (int i = 0; i < 4; ++i) r[i] = element(i, 2 * t) | element(i, 2 * t + 1) << 16;
}

inline void copy_async(void* shared, const void* global, int num_bytes) {
  emulated::copy_later(shared, global, num_bytes);
}
inline void commit_copies() { emulated::commit_copies(); }
template <int kGroups>
void wait_copies() {
  emulated::wait_copies(kGroups);
}

#endif

}  // namespace vllm_pd::cuda
