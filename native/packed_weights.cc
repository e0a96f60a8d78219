// Packs a model's matrices, or finds them packed.
#include "packed_weights.h"

#include <algorithm>
#include <atomic>

#include "huge_floats.h"

namespace vllm_pd {
namespace {

std::atomic<int64_t> packed_rows{0};

void read_and_count(const Tensor& tensor, int64_t row, float* out) {
  packed_rows.fetch_add(1, std::memory_order_relaxed);
  tensor.read_row(row, out);
}

void read_concatenated(const void* context, int64_t row, float* out) {
  for (const Tensor& part : *static_cast<const std::vector<Tensor>*>(context)) {
    if (row < part.num_rows) return read_and_count(part, row, out);
    row -= part.num_rows;
  }
}

struct GatedTensors {
  const Tensor& gate;
  const Tensor& up;
  GatedRows rows;
};

void read_gated(const void* context, int64_t row, float* out) {
  const auto& [gate, up, rows] = *static_cast<const GatedTensors*>(context);
  const int64_t index = rows.index(row);
  if (index >= rows.size) {
    std::fill_n(out, gate.row_floats, 0.0f);
  } else {
    read_and_count(rows.is_gate(row) ? gate : up, index, out);
  }
}

MatrixShape shape_of(const std::vector<Tensor>& parts, WeightType type) {
  MatrixShape shape{0, parts.front().row_floats, type};
  for (const Tensor& part : parts) shape.n += part.num_rows;
  return shape;
}

}  // namespace

int64_t num_packed_rows() { return packed_rows.load(std::memory_order_relaxed); }

PackedWeights::PackedWeights(Ops& ops, const WeightOptions& options) : ops_(ops), options_(options) {
  const std::string key = options.cache_key + " " + ops.packed_layout();
  for (const std::string& path : options.cache_paths) {
    reader_ = PackedReader::open(path, key);
    if (reader_) return;
  }
  for (const std::string& path : options.cache_paths) {
    writer_ = PackedWriter::create(path, key);
    if (!writer_) continue;
    // Somebody else may have written it while this process waited for the lock.
    reader_ = PackedReader::open(path, key);
    if (reader_) writer_.reset();
    return;
  }
}

std::unique_ptr<PackedMatrix> PackedWeights::matrix(const std::vector<Tensor>& parts) {
  return load(shape_of(parts, multiplied_type()), read_concatenated, &parts);
}

std::unique_ptr<PackedMatrix> PackedWeights::gated(const Tensor& gate, const Tensor& up) {
  const GatedTensors tensors{gate, up, {gate.num_rows}};
  return load({tensors.rows.num_rows(), gate.row_floats, multiplied_type()}, read_gated, &tensors);
}

std::unique_ptr<PackedMatrix> PackedWeights::table(const std::vector<Tensor>& parts) {
  return load(shape_of(parts, options_.type), read_concatenated, &parts);
}

std::unique_ptr<PackedMatrix> PackedWeights::load(const MatrixShape& shape, RowSource source, const void* context) {
  const int64_t num_bytes = ops_.packed_bytes(shape);
  if (reader_) {
    const uint8_t* const packed = reader_->next(num_bytes);
    if (packed == nullptr) throw CacheUnusable();
    return ops_.open(shape, packed, reader_->pages());
  }
  if (writer_) {
    const auto pages = writer_->append(num_bytes);
    if (!pages) throw CacheUnusable();
    ops_.pack(shape, source, context, pages->data());
    pages->make_read_only();
    return ops_.open(shape, pages->data(), pages);
  }
  const auto memory = std::make_shared<HugeFloats>((num_bytes + 3) / 4);
  auto* const bytes = reinterpret_cast<uint8_t*>(memory->data());
  ops_.pack(shape, source, context, bytes);
  return ops_.open(shape, bytes, memory);
}

WeightSource PackedWeights::finish() {
  if (reader_) return WeightSource::kMapped;
  if (!writer_) return WeightSource::kMemory;
  const bool kept = writer_->finish();
  writer_.reset();
  if (!kept) throw CacheUnusable();
  return WeightSource::kWritten;
}

}  // namespace vllm_pd
