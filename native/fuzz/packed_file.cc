// Fuzzes files of packed weights: a file is this model's and whole, or it is not used; no matrix lies outside of it.
#include "packed_file.h"

#include <vector>

#include "fuzz/memory_file.h"
#include "fuzz/target.h"

using namespace vllm_pd;
using namespace vllm_pd::fuzz;

namespace {

constexpr int64_t kMaxFileBytes = 64 << 10;
// Where packed_file.cc keeps its fields.
constexpr size_t kNumBytesAt = 8;
constexpr size_t kKeyAt = 16;
constexpr size_t kChecksumAt = 256;
constexpr size_t kHeaderBytes = 264;

uint64_t fnv1a(const uint8_t* bytes, size_t num_bytes) {
  uint64_t hash = 14695981039346656037u;
  for (size_t i = 0; i < num_bytes; ++i) hash = (hash ^ bytes[i]) * 1099511628211u;
  return hash;
}

/** Inputs would hardly ever guess these. */
void complete(std::vector<uint8_t>& header, uint8_t what, const std::string& key, int64_t file_bytes) {
  if (what & 1) std::memcpy(header.data(), "vllmpdw1", 8);
  if (what & 2) std::memcpy(&header[kNumBytesAt], &file_bytes, sizeof(file_bytes));
  if (what & 4) std::strncpy(reinterpret_cast<char*>(&header[kKeyAt]), key.c_str(), kChecksumAt - kKeyAt);
  if (what & 8) {
    const uint64_t checksum = fnv1a(header.data(), kChecksumAt);
    std::memcpy(&header[kChecksumAt], &checksum, sizeof(checksum));
  }
}

/** Sizes as a model asks for them, small and absurd. */
void read_matrices(PackedReader& reader, Input& sizes) {
  const auto* const pages = static_cast<const SharedPages*>(reader.pages().get());
  for (int i = 0; i < 8; ++i) {
    const uint8_t shift = sizes.byte();
    const int64_t num_bytes = static_cast<int64_t>(sizes.next<uint16_t>()) << shift % 47;
    const uint8_t* const matrix = reader.next(num_bytes);
    if (matrix == nullptr) continue;
    promise(matrix >= pages->data() && num_bytes <= pages->num_bytes() - (matrix - pages->data()),
            "a matrix lies inside its file");
    if (num_bytes > 0) promise(matrix[0] + matrix[num_bytes - 1] >= 0, "its bytes can be read");
  }
}

}  // namespace

// | what of the header is made right | file's pages | length of the key | sizes (8 × 3) | key | file |
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t num_bytes) {
  Input input(data, num_bytes);
  const uint8_t what = input.byte();
  const int64_t file_bytes = input.next<uint16_t>() % kMaxFileBytes;
  const size_t key_bytes = input.byte();
  uint8_t sizes[24];
  input.take(sizes, sizeof(sizes));
  std::string key = input.text(key_bytes);
  key = key.c_str();
  std::vector<uint8_t> header(kHeaderBytes);
  input.take(header.data(), header.size());
  complete(header, what, key, file_bytes);
  MemoryFile file("packed");
  if (!file.resize(file_bytes)) return -1;
  const auto num_written = std::min<int64_t>(file_bytes, static_cast<int64_t>(header.size()));
  if (!file.write_at(0, header.data(), num_written)) return -1;
  const auto reader = PackedReader::open(file.path(), key);
  const bool can_be_named = key.size() < kChecksumAt - kKeyAt;
  if (what % 16 == 15 && file_bytes >= static_cast<int64_t>(kHeaderBytes) && can_be_named) {
    promise(reader != nullptr, "a whole file for this key is used");
  }
  if (!reader) return 0;
  Input size_input(sizes, sizeof(sizes));
  read_matrices(*reader, size_input);
  promise(PackedReader::open(file.path(), key + "'") == nullptr, "a file for another key is not used");
  return 0;
}
