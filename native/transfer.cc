// Verified block copies.
#include "transfer.h"

#include <algorithm>
#include <cstring>

#include "copy_choice.h"
#include "cuda/device_blocks.h"

namespace vllm_pd {

namespace {

/** Taken by a thread at once: small enough that threads end together, large enough that taking one costs nothing. */
constexpr size_t kMaxChunkBytes = 512 << 10;
constexpr size_t kMinChunkBytes = 128 << 10;
constexpr size_t kMinChunks = 8;
/** Up to here the other threads would come too late to help. */
constexpr size_t kAloneBytes = 512 << 10;

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

struct HostRead {
  const KvRegion& remote;
  const KvRegion& local;
  const std::vector<int32_t>& remote_ids;
  const std::vector<int32_t>& local_ids;
  const std::vector<uint8_t>& hashes;
  Copy copy;
  std::vector<uint64_t> generations;
  std::vector<uint8_t>& valid;
};

/** Behind block `begin` as many as can be copied in one go: there, and with ids adjacent on both sides. */
size_t end_of_run(const HostRead& read, size_t begin, size_t end) {
  size_t next = begin + 1;
  while (next < end && read.generations[next] != 0 && read.remote_ids[next] == read.remote_ids[next - 1] + 1 &&
         read.local_ids[next] == read.local_ids[next - 1] + 1) {
    ++next;
  }
  return next;
}

/** Blocks [begin, end) of a read. */
void read_chunk(HostRead& read, size_t begin, size_t end) {
  const size_t block_bytes = read.remote.layout.block_bytes();
  const auto remote_block = [&](size_t i) { return read.remote.block(read.remote_ids[i]); };
  // The peer wrote them last, so each comes from afar: all at once.
  for (size_t i = begin; i < end; ++i) __builtin_prefetch(&read.remote.row(read.remote_ids[i]));
  for (size_t i = begin; i < end; ++i)
    read.generations[i] = read.remote.row(read.remote_ids[i]).begin_read(&read.hashes[i * kHashBytes]);
  const auto skip = [&](size_t i) {
    while (i < end && read.generations[i] == 0) ++i;
    return i;
  };
  for (size_t i = skip(begin); i < end;) {
    const size_t run_end = end_of_run(read, i, end);
    const size_t next = skip(run_end);
    read.copy(read.local.block(read.local_ids[i]), remote_block(i), (run_end - i) * block_bytes,
              next < end ? remote_block(next) : nullptr);
    i = next;
  }
  end_copies();
  for (size_t i = begin; i < end; ++i) {
    if (read.generations[i] != 0) read.valid[i] = read.remote.row(read.remote_ids[i]).end_read(read.generations[i]);
  }
}

}  // namespace

std::vector<uint8_t> read_blocks(ThreadPool& threads, const KvRegion& remote, const KvRegion& local,
                                 const std::vector<int32_t>& remote_ids,
                                 const std::vector<int32_t>& local_ids, const std::vector<uint8_t>& hashes) {
  if (remote.device || local.device) return read_by_device(remote, local, remote_ids, local_ids, hashes);
  const size_t block_bytes = remote.layout.block_bytes();
  const size_t num_bytes = remote_ids.size() * block_bytes;
  std::vector<uint8_t> valid(remote_ids.size(), 0);
  HostRead read{remote, local, remote_ids, local_ids, hashes, num_bytes >= long_copy_min_bytes() ? long_copy() : plain_copy,
                std::vector<uint64_t>(remote_ids.size()), valid};
  if (num_bytes <= kAloneBytes) {
    read_chunk(read, 0, remote_ids.size());
    return valid;
  }
  const size_t chunk_bytes = std::clamp(num_bytes / kMinChunks, kMinChunkBytes, kMaxChunkBytes);
  const size_t chunk = std::max<size_t>(1, chunk_bytes / block_bytes);
  threads.parallel_for(static_cast<int64_t>((remote_ids.size() + chunk - 1) / chunk), [&](int64_t index, int) {
    read_chunk(read, index * chunk, std::min(remote_ids.size(), (index + 1) * chunk));
  });
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
