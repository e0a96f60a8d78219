// Hashes of token ids, checksums of bytes.
#include <array>

#include "addon/arguments.h"
#include "addon/exports.h"
#include "block_hash.h"
#include "crc32c.h"
#include "sha256.h"

namespace vllm_pd::addon {
namespace {

// hashBlocks(parents: 32 bytes a chain, tokenIds: Uint32Array of as many blocks of blockSize for each chain, blockSize,
// portable, hex: 64 bytes a block to write to)
Napi::Value hash_blocks_of(const Napi::CallbackInfo& info) {
  const auto parents = info[0].As<Napi::Uint8Array>();
  const auto token_ids = info[1].As<Napi::Uint32Array>();
  const auto block_size = static_cast<size_t>(to_int(info[2]));
  const bool portable = info[3].As<Napi::Boolean>();
  auto* hex = reinterpret_cast<char*>(info[4].As<Napi::Uint8Array>().Data());
  const size_t num_chains = parents.ByteLength() / kSha256Bytes;
  const size_t num_blocks = num_chains == 0 ? 0 : token_ids.ElementLength() / block_size / num_chains;
  for (size_t i = 0; i < num_chains; ++i) {
    hash_blocks(parents.Data() + i * kSha256Bytes, token_ids.Data() + i * num_blocks * block_size, num_blocks, block_size,
                portable, hex + i * num_blocks * 2 * kSha256Bytes);
  }
  return info.Env().Undefined();
}

// crc32c(bytes, way) → checksum; ways in the order of checksumWays in src/native.ts
Napi::Value crc32c_of(const Napi::CallbackInfo& info) {
  const auto bytes = info[0].As<Napi::Uint8Array>();
  constexpr std::array ways{crc32c, crc32c_by_instruction, crc32c_portable};
  const auto way = static_cast<size_t>(to_int(info[1]));
  return Napi::Number::New(info.Env(), ways.at(way)(0, bytes.Data(), bytes.ByteLength()));
}

// hmacSha256(key: at most 64 bytes, message, out: 32 bytes)
Napi::Value hmac_sha256_of(const Napi::CallbackInfo& info) {
  const auto key = info[0].As<Napi::Uint8Array>();
  const auto message = info[1].As<Napi::Uint8Array>();
  hmac_sha256(key.Data(), key.ByteLength(), message.Data(), message.ByteLength(), info[2].As<Napi::Uint8Array>().Data());
  return info.Env().Undefined();
}

}  // namespace

void add_checksums(Napi::Object exports) {
  add_function<hash_blocks_of>(exports, "hashBlocks");
  add_function<crc32c_of>(exports, "crc32c");
  add_function<hmac_sha256_of>(exports, "hmacSha256");
}

}  // namespace vllm_pd::addon
