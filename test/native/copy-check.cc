// Compares every way of copying with memcpy, for lengths and places that begin and end within lines and pages, and looks
// whether anything else is written. Prints the first that differs and ends with 1. Built by copy-check.test.ts.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <vector>

#include "copy_choice.h"

using namespace vllm_pd;

namespace {

constexpr size_t kRoom = 256;
constexpr uint8_t kUntouched = 0xaa;

bool check(Copy copy, size_t num_bytes, size_t to_offset, size_t from_offset) {
  std::vector<uint8_t> from(num_bytes + 2 * kRoom);
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<uint8_t>((i * 2654435761u) >> 13);
  std::vector<uint8_t> to(num_bytes + 2 * kRoom, kUntouched);
  copy(to.data() + to_offset, from.data() + from_offset, num_bytes, from.data());
  end_copies();
  std::vector<uint8_t> expected(to.size(), kUntouched);
  std::memcpy(expected.data() + to_offset, from.data() + from_offset, num_bytes);
  return to == expected;
}

}  // namespace

int main() {
  find_long_copy(2);
  const std::vector<Copy>& copies = long_copies();
  if (std::find(copies.begin(), copies.end(), long_copy()) == copies.end()) {
    std::fprintf(stderr, "the chosen way is none of them\n");
    return 1;
  }
  for (size_t way = 0; way < copies.size(); ++way) {
    for (const size_t num_bytes : {0, 1, 63, 64, 65, 255, 256, 4095, 4096, 4160, 16383, 16384, 20480, 65536, 70001}) {
      for (const size_t to_offset : {0, 1, 48, 64}) {
        for (const size_t from_offset : {0, 4, 63}) {
          if (check(copies[way], num_bytes, to_offset, from_offset)) continue;
          std::fprintf(stderr, "way %zu: %zu bytes from %zu to %zu\n", way, num_bytes, from_offset, to_offset);
          return 1;
        }
      }
    }
  }
  std::printf("%zu ways\n", copies.size());
  return 0;
}
