// Fuzzes where tensors are said to lie: one that is not inside its file is refused, any other can be read whole.
#include "weights.h"

#include <vector>

#include "fuzz/memory_file.h"
#include "fuzz/target.h"

using namespace vllm_pd;
using namespace vllm_pd::fuzz;

namespace {

/** Several pages, so that what is cut off is in the last of them. */
constexpr int64_t kMaxFileBytes = 20'000;

bool fits(const TensorLocation& location, int64_t file_bytes) {
  __int128 count = 1;
  for (const int64_t size : location.shape) {
    if (size < 0 || count * size > INT64_MAX) return false;
    count *= size;
  }
  const __int128 num_bytes = count * (location.dtype == Dtype::kF32 ? 4 : 2);
  const __int128 end = static_cast<__int128>(location.offset) + location.length;
  return num_bytes == location.length && location.offset >= 0 && end <= file_bytes;
}

/** Small ones, and any. */
int64_t size_of(Input& input) {
  const uint8_t how = input.byte();
  return how < 250 ? how : input.next<int64_t>();
}

TensorLocation next_location(Input& input, int index, const std::string& path) {
  TensorLocation location;
  location.name = "tensor " + std::to_string(index);
  location.path = path;
  const uint8_t what = input.byte();
  location.dtype = static_cast<Dtype>(what % 3);
  int64_t num_bytes = location.dtype == Dtype::kF32 ? 4 : 2;
  for (int i = what / 4 % 4; i > 0; --i) {
    location.shape.push_back(size_of(input));
    if (__builtin_mul_overflow(num_bytes, location.shape.back(), &num_bytes)) num_bytes = INT64_MAX;
  }
  location.offset = input.next<uint16_t>();
  if (what & 64) location.offset = input.next<int64_t>();
  location.length = num_bytes;
  if (what & 128) location.length = input.next<int64_t>();
  return location;
}

void read_whole(const Weights& weights, const TensorLocation& location) {
  const auto& shape = location.shape;
  if (shape.empty() || shape.size() > 2) return;
  const int64_t rows = shape.size() == 2 ? shape[0] : 0;
  const int64_t columns = shape.back();
  // A matrix without rows is asked for as a vector, which it is not; one without columns may have any number of rows.
  if (shape.size() == 2 && (rows == 0 || columns == 0)) return;
  Tensor tensor{};
  const auto find = [&] { tensor = weights.tensor(location.name, rows, columns); };
  promise(succeeds_or_fails_with("BAD_FILE", find), "a tensor of the asked shape is found");
  std::vector<float> row(columns);
  for (int64_t i = 0; i < tensor.num_rows; ++i) tensor.read_row(i, row.data());
  const auto other = [&] { weights.tensor(location.name, rows, columns + 1); };
  promise(!succeeds_or_fails_with("BAD_FILE", other), "a tensor of another shape is not");
}

}  // namespace

// | file's bytes | number of tensors | each: dtype, shape, offset, length | contents |
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t num_bytes) {
  Input input(data, num_bytes);
  const int64_t file_bytes = input.next<uint16_t>() % kMaxFileBytes;
  MemoryFile file("weights");
  if (!file.resize(file_bytes)) return -1;
  std::vector<TensorLocation> locations;
  bool all_fit = true;
  for (int i = input.byte() % 5; i >= 0; --i) {
    locations.push_back(next_location(input, i, file.path()));
    all_fit = all_fit && fits(locations.back(), file_bytes);
  }
  const auto num_written = std::min<int64_t>(file_bytes, static_cast<int64_t>(input.num_left()));
  if (num_written > 0 && !file.write_at(0, input.data(), num_written)) return -1;
  succeeds_or_fails_with("BAD_FILE", [&] {
    const Weights weights(locations);
    promise(all_fit, "a tensor that is not inside its file is refused");
    for (const TensorLocation& location : locations) read_whole(weights, location);
    return;
  });
  if (all_fit) {
    promise(succeeds_or_fails_with("BAD_FILE", [&] { const Weights weights(locations); }), "tensors that fit are taken");
  }
  return 0;
}
