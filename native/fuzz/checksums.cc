// Fuzzes checksums and hashes: the chip's instructions and plain C++ give the same bits, however the bytes are cut and lie.
#include <vector>

#include "block_hash.h"
#include "crc32c.h"
#include "fuzz/target.h"
#include "sha256.h"

using namespace vllm_pd;
using namespace vllm_pd::fuzz;

namespace {

constexpr size_t kMaxBlocks = 8;

void check_crc(const uint8_t* bytes, size_t num_bytes, size_t cut) {
  const uint32_t whole = crc32c(0, bytes, num_bytes);
  promise(whole == crc32c_portable(0, bytes, num_bytes), "both CRCs are the same");
  cut = std::min(cut, num_bytes);
  promise(whole == crc32c(crc32c(0, bytes, cut), bytes + cut, num_bytes - cut), "a CRC in two pieces is that of the whole");
}

void check_sha(const uint8_t* bytes, size_t num_bytes) {
  std::vector<uint8_t> message(sha256_padded_bytes(num_bytes));
  if (num_bytes > 0) std::memcpy(message.data(), bytes, num_bytes);
  std::vector<uint8_t> again = message;
  uint8_t digests[2][kSha256Bytes];
  sha256_in_place(message.data(), num_bytes, digests[0]);
  sha256_in_place_portable(again.data(), num_bytes, digests[1]);
  promise(std::memcmp(digests[0], digests[1], kSha256Bytes) == 0, "both SHA-256 are the same");
}

void check_names(Input& input) {
  const size_t block_size = input.byte() % 32 + 1;
  const size_t num_blocks = input.byte() % kMaxBlocks + 1;
  uint8_t parent[kSha256Bytes];
  input.take(parent, sizeof(parent));
  std::vector<uint32_t> token_ids(num_blocks * block_size);
  input.take(token_ids.data(), token_ids.size() * sizeof(uint32_t));
  std::vector<char> names[2];
  for (const bool portable : {false, true}) {
    names[portable].resize(num_blocks * 2 * kSha256Bytes);
    hash_blocks(parent, token_ids.data(), num_blocks, block_size, portable, names[portable].data());
  }
  promise(names[0] == names[1], "both names of a block are the same");
}

}  // namespace

// | where the bytes begin | where they are cut | bytes |
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t num_bytes) {
  Input input(data, num_bytes);
  const size_t misaligned = input.byte() % 16;
  const size_t cut = input.byte();
  std::vector<uint8_t> bytes(misaligned + input.num_left());
  if (input.num_left() > 0) std::memcpy(&bytes[misaligned], input.data(), input.num_left());
  check_crc(bytes.data() + misaligned, input.num_left(), cut);
  check_sha(bytes.data() + misaligned, input.num_left());
  check_names(input);
  return 0;
}
