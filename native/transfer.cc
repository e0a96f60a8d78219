// Verified block copies.
#include "transfer.h"

#include <algorithm>
#include <cstring>

#include "cuda/device_blocks.h"
#include "stream_copy.h"

namespace vllm_pd {

namespace {

/** Blocks [begin, end) of a read: their ids are adjacent on both sides. */
struct Piece {
  size_t begin;
  size_t end;
};

void plain_copy(uint8_t* to, const uint8_t* from, size_t num_bytes) { std::memcpy(to, from, num_bytes); }

/** Small enough that threads end together, large enough that taking one costs nothing. */
constexpr size_t kMaxPieceBytes = 512 << 10;
constexpr size_t kMinPieceBytes = 128 << 10;
constexpr size_t kMinPieces = 8;
/** Up to here the other threads would come too late to help. */
constexpr size_t kAloneBytes = 512 << 10;

std::vector<Piece> cut(const std::vector<int32_t>& remote_ids, const std::vector<int32_t>& local_ids,
                       size_t max_blocks) {
  std::vector<Piece> pieces;
  for (size_t i = 0; i < remote_ids.size(); ++i) {
    const bool adjacent = i > 0 && remote_ids[i] == remote_ids[i - 1] + 1 && local_ids[i] == local_ids[i - 1] + 1;
    if (adjacent && pieces.back().end - pieces.back().begin < max_blocks) {
      pieces.back().end = i + 1;
    } else {
      pieces.push_back({i, i + 1});
    }
  }
  return pieces;
}

uint8_t* block_at(uint8_t* data, size_t index, size_t block_bytes) { return data + index * block_bytes; }

/** Blocks of `from` whose rows say `hashes`, as indices into `ids`, with their generations. */
struct Readable {
  std::vector<size_t> indices;
  std::vector<uint64_t> generations;
  std::vector<int32_t> ids;
};

Readable begin_reads(const KvRegion& from, const std::vector<int32_t>& ids, const std::vector<uint8_t>& hashes) {
  Readable readable;
  for (size_t i = 0; i < ids.size(); ++i) {
    const uint64_t generation = from.row(ids[i]).begin_read(&hashes[i * kHashBytes]);
    if (generation == 0) continue;
    readable.indices.push_back(i);
    readable.generations.push_back(generation);
    readable.ids.push_back(ids[i]);
  }
  return readable;
}

void end_reads(const KvRegion& from, const Readable& readable, uint8_t* valid) {
  for (size_t i = 0; i < readable.ids.size(); ++i)
    valid[readable.indices[i]] = from.row(readable.ids[i]).end_read(readable.generations[i]);
}

/** A read with a device on one side at least: all blocks are looked at, copied, looked at again. */
std::vector<uint8_t> read_by_device(const KvRegion& remote, const KvRegion& local,
                                    const std::vector<int32_t>& remote_ids, const std::vector<int32_t>& local_ids,
                                    const std::vector<uint8_t>& hashes) {
  std::vector<uint8_t> valid(remote_ids.size(), 0);
  const Readable readable = begin_reads(remote, remote_ids, hashes);
  std::vector<int32_t> into;
  for (const size_t i : readable.indices) into.push_back(local_ids[i]);
  if (remote.device && local.device) {
    local.device->copy_from(*remote.device, readable.ids, into);
  } else if (remote.device) {
    std::vector<uint8_t*> to;
    for (const int32_t id : into) to.push_back(local.block(id));
    remote.device->to_host(readable.ids, to);
  } else {
    std::vector<const uint8_t*> from;
    for (const int32_t id : readable.ids) from.push_back(remote.block(id));
    local.device->from_host(into, from);
  }
  end_reads(remote, readable, valid.data());
  return valid;
}

}  // namespace

std::vector<uint8_t> read_blocks(ThreadPool& threads, const KvRegion& remote, const KvRegion& local,
                                 const std::vector<int32_t>& remote_ids,
                                 const std::vector<int32_t>& local_ids, const std::vector<uint8_t>& hashes) {
  if (remote.device || local.device) return read_by_device(remote, local, remote_ids, local_ids, hashes);
  const size_t block_bytes = remote.layout.block_bytes();
  std::vector<uint8_t> valid(remote_ids.size(), 0);
  std::vector<uint64_t> generations(remote_ids.size());
  const auto* const from = reinterpret_cast<const uint8_t*>(remote.block(0));
  auto* const to = reinterpret_cast<uint8_t*>(local.block(0));
  const bool streams = remote_ids.size() * block_bytes >= stream_copy_min_bytes();
  const size_t piece_bytes = std::clamp(remote_ids.size() * block_bytes / kMinPieces, kMinPieceBytes, kMaxPieceBytes);
  const auto pieces = cut(remote_ids, local_ids, std::max<size_t>(1, piece_bytes / block_bytes));
  const auto read_piece = [&](const Piece& piece) {
    for (size_t begin = piece.begin; begin < piece.end;) {
      size_t end = begin;
      while (end < piece.end &&
             (generations[end] = remote.row(remote_ids[end]).begin_read(&hashes[end * kHashBytes])) != 0) {
        ++end;
      }
      if (end > begin) {
        const size_t num_bytes = (end - begin) * block_bytes;
        (streams ? stream_copy : plain_copy)(to + local_ids[begin] * block_bytes,
                                             from + remote_ids[begin] * block_bytes, num_bytes);
        for (size_t i = begin; i < end; ++i) valid[i] = remote.row(remote_ids[i]).end_read(generations[i]);
      }
      // The block at `end`, if any, is not what was asked for.
      begin = end + 1;
    }
  };
  if (remote_ids.size() * block_bytes <= kAloneBytes) {
    for (const Piece& piece : pieces) read_piece(piece);
  } else {
    threads.parallel_for(static_cast<int64_t>(pieces.size()),
                         [&](int64_t index, int) { read_piece(pieces[index]); });
  }
  return valid;
}

void copy_out(const KvRegion& from, const std::vector<int32_t>& block_ids, const std::vector<uint8_t>& hashes,
              uint8_t* data, uint8_t* valid) {
  const size_t block_bytes = from.layout.block_bytes();
  if (from.device) {
    const Readable readable = begin_reads(from, block_ids, hashes);
    std::vector<uint8_t*> to;
    for (const size_t i : readable.indices) to.push_back(block_at(data, i, block_bytes));
    from.device->to_host(readable.ids, to);
    std::memset(valid, 0, block_ids.size());
    end_reads(from, readable, valid);
    for (size_t i = 0; i < block_ids.size(); ++i)
      if (!valid[i]) std::memset(block_at(data, i, block_bytes), 0, block_bytes);
    return;
  }
  for (size_t i = 0; i < block_ids.size(); ++i) {
    const KvRow& row = from.row(block_ids[i]);
    const uint64_t generation = row.begin_read(&hashes[i * kHashBytes]);
    if (generation != 0) std::memcpy(data + i * block_bytes, from.block(block_ids[i]), block_bytes);
    valid[i] = generation != 0 && row.end_read(generation);
    if (!valid[i]) std::memset(data + i * block_bytes, 0, block_bytes);
  }
}

void copy_in(const KvRegion& into, const std::vector<int32_t>& block_ids, const uint8_t* data) {
  const size_t block_bytes = into.layout.block_bytes();
  if (into.device) {
    std::vector<const uint8_t*> from;
    for (size_t i = 0; i < block_ids.size(); ++i) from.push_back(data + i * block_bytes);
    return into.device->from_host(block_ids, from);
  }
  for (size_t i = 0; i < block_ids.size(); ++i) {
    std::memcpy(into.block(block_ids[i]), data + i * block_bytes, block_bytes);
  }
}

}  // namespace vllm_pd
