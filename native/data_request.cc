// Requests: header, body, seal.
#include "data_request.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cstring>

#include "data_channel.h"
#include "error.h"
#include "sha256.h"

namespace vllm_pd {
namespace {

/** As in frames.ts: length of type and body, then the type, whose top bit makes the number of ones even. */
constexpr size_t kHeaderBytes = 5;
constexpr uint8_t kReadType = 4;
constexpr uint8_t kParityBit = 0x80;
constexpr size_t kHeadBytes = 16;
constexpr size_t kBlockRefBytes = 4 + kHashBytes;
constexpr size_t kMaxHoldIdBytes = 2048;
/** As in messages.ts. */
constexpr size_t kMaxBlocks = 4096;
constexpr size_t kMaxReplyBytes = 16 << 20;
constexpr size_t kSealBytes = 16;

[[noreturn]] void nonsense(const char* what) {
  throw Error("PEER_FAILED", std::string("Expected a read but received ") + what + ".");
}

uint32_t number_at(const uint8_t* at) {
  uint32_t number;
  std::memcpy(&number, at, sizeof(number));
  return ntohl(number);
}

void put_number(uint32_t number, uint8_t* at) {
  const uint32_t swapped = htonl(number);
  std::memcpy(at, &swapped, sizeof(swapped));
}

bool is_even(const uint8_t* header) {
  uint8_t folded = 0;
  for (size_t i = 0; i < kHeaderBytes; ++i) folded ^= header[i];
  return __builtin_popcount(folded) % 2 == 0;
}

/** Sealed with the body, which follows it, and not sent: both ends count. */
std::string prefix_of(uint64_t frame_number) { return std::to_string(frame_number) + " read "; }

/** Of prefix and body: its first kSealBytes. */
void seal_of(const SealKey& key, const uint8_t* message, size_t num_bytes, uint8_t* seal) {
  uint8_t digest[kSha256Bytes];
  hmac_sha256(key.data(), key.size(), message, num_bytes, digest);
  std::copy_n(digest, kSealBytes, seal);
}

/** Takes as long for any two. */
bool same_seal(const uint8_t* a, const uint8_t* b) {
  uint8_t difference = 0;
  for (size_t i = 0; i < kSealBytes; ++i) difference |= a[i] ^ b[i];
  return difference == 0;
}

}  // namespace

std::vector<uint8_t> RequestWriter::next(const ReadRequest& request) {
  const size_t num_blocks = request.block_ids.size();
  const size_t num_body_bytes = kHeadBytes + num_blocks * kBlockRefBytes + request.hold_id.size();
  num_frames_ += 1;
  const std::string prefix = prefix_of(num_frames_);
  std::vector<uint8_t> message(prefix.size() + num_body_bytes + kSealBytes);
  std::copy(prefix.begin(), prefix.end(), message.begin());
  uint8_t* const body = message.data() + prefix.size();
  put_number(request.seq, body);
  put_number(static_cast<uint32_t>(num_blocks), body + 4);
  put_number(static_cast<uint32_t>(request.hold_id.size()), body + 8);
  put_number(request.num_lanes, body + 12);
  uint8_t* at = body + kHeadBytes;
  for (const int32_t id : request.block_ids) {
    put_number(static_cast<uint32_t>(id), at);
    at += 4;
  }
  at = std::copy(request.hashes.begin(), request.hashes.end(), at);
  at = std::copy(request.hold_id.begin(), request.hold_id.end(), at);
  seal_of(key_, message.data(), prefix.size() + num_body_bytes, at);
  // The header takes the end of the prefix, which is longer.
  uint8_t* const header = body - kHeaderBytes;
  put_number(static_cast<uint32_t>(1 + num_body_bytes + kSealBytes), header);
  header[4] = kReadType;
  if (!is_even(header)) header[4] |= kParityBit;
  message.erase(message.begin(), message.begin() + (header - message.data()));
  return message;
}

RequestReader::RequestReader(const SealKey& key, const KvLayout& layout)
    : key_(key),
      num_blocks_(static_cast<size_t>(layout.num_blocks)),
      max_blocks_(std::clamp<size_t>(kMaxReplyBytes / static_cast<size_t>(layout.block_bytes()), 1, kMaxBlocks)) {}

ReadRequest RequestReader::next(const Socket& socket) {
  uint8_t header[kHeaderBytes];
  wait_readable(socket);
  receive_all(socket, header, sizeof(header));
  if (!is_even(header) || (header[4] & ~kParityBit) != kReadType) nonsense("a frame of another type");
  const size_t length = number_at(header);
  const size_t max_body = kHeadBytes + max_blocks_ * kBlockRefBytes + kMaxHoldIdBytes;
  if (length < 1 + kHeadBytes + kSealBytes || length > 1 + max_body + kSealBytes) nonsense("one of another length");
  const size_t num_body_bytes = length - 1 - kSealBytes;
  num_frames_ += 1;
  const std::string prefix = prefix_of(num_frames_);
  // What is sealed, and the seal behind it.
  std::vector<uint8_t> message(prefix.size() + num_body_bytes + kSealBytes);
  std::memcpy(message.data(), prefix.data(), prefix.size());
  uint8_t* const body = message.data() + prefix.size();
  receive_all(socket, body, num_body_bytes + kSealBytes);
  uint8_t seal[kSealBytes];
  seal_of(key_, message.data(), prefix.size() + num_body_bytes, seal);
  if (!same_seal(seal, body + num_body_bytes)) nonsense("one that was not sent so");

  ReadRequest request;
  request.seq = number_at(body);
  const size_t num_blocks = number_at(body + 4);
  const size_t num_id_bytes = number_at(body + 8);
  request.num_lanes = number_at(body + 12);
  if (num_blocks < 1 || num_blocks > max_blocks_ || num_id_bytes < 1 || num_id_bytes > kMaxHoldIdBytes ||
      num_body_bytes != kHeadBytes + num_blocks * kBlockRefBytes + num_id_bytes) {
    nonsense("one of too many blocks, or of another length");
  }
  if (request.num_lanes < 1 || request.num_lanes > kMaxLanes) nonsense("one over connections that cannot be");
  const uint8_t* const ids = body + kHeadBytes;
  for (size_t i = 0; i < num_blocks; ++i) {
    const uint32_t id = number_at(ids + 4 * i);
    if (id >= num_blocks_) nonsense("a block outside the pool");
    request.block_ids.push_back(static_cast<int32_t>(id));
  }
  const uint8_t* const hashes = ids + 4 * num_blocks;
  request.hashes.assign(hashes, hashes + num_blocks * kHashBytes);
  request.hold_id.assign(reinterpret_cast<const char*>(hashes + num_blocks * kHashBytes), num_id_bytes);
  return request;
}

}  // namespace vllm_pd
