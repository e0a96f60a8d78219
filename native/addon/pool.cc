// The pool of this process.
#include "addon/pool.h"

#include <cstring>
#include <string>

#include "addon/arguments.h"
#include "addon/exports.h"
#include "error.h"
#include "transfer.h"

namespace vllm_pd::addon {

KvLayout to_layout(const Napi::Value& value) {
  const auto numbers = value.As<Napi::Array>();
  return {to_int(numbers[0u]), to_int(numbers[1u]),
          to_int(numbers[2u]), to_int(numbers[3u]),
          to_int(numbers[4u]), static_cast<KvDtype>(to_int(numbers[5u]))};
}

std::shared_ptr<KvCache> open_cache(const Napi::Value& value) {
  auto cache = handle<PoolHandle>(value).cache;
  if (!cache) throw Error("INVALID_ARGUMENT", "The KV pool is closed.");
  return cache;
}

void check_block_ids(const KvLayout& layout, const std::vector<int32_t>& block_ids) {
  for (const int32_t id : block_ids) {
    if (id >= 0 && id < layout.num_blocks) continue;
    throw Error("INVALID_ARGUMENT", "Expected block ids from 0 to " + std::to_string(layout.num_blocks - 1) +
                                        " but received " + std::to_string(id) + ".");
  }
}

namespace {

/** An argument that is one block's id. */
int32_t to_block_id(const KvCache& cache, const Napi::Value& value) {
  const int64_t id = to_int(value);
  if (id < 0 || id >= cache.layout().num_blocks) check_block_ids(cache.layout(), {static_cast<int32_t>(id)});
  return static_cast<int32_t>(id);
}

// createPool(layout, onDevice) → handle
Napi::Value create_pool(const Napi::CallbackInfo& info) {
  const KvPlace place = info[1].As<Napi::Boolean>() ? KvPlace::kDevice : KvPlace::kHost;
  return new_handle(info.Env(), new PoolHandle{std::make_shared<KvCache>(to_layout(info[0]), place)});
}

Napi::Value pool_fd(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), open_cache(info[0])->fd());
}

// publish(pool, blockId, hash bytes)
Napi::Value publish(const Napi::CallbackInfo& info) {
  const auto cache = open_cache(info[0]);
  cache->publish(to_block_id(*cache, info[1]), info[2].As<Napi::Uint8Array>().Data());
  return info.Env().Undefined();
}

// retract(pool, blockId)
Napi::Value retract(const Napi::CallbackInfo& info) {
  const auto cache = open_cache(info[0]);
  cache->retract(to_block_id(*cache, info[1]));
  return info.Env().Undefined();
}

// row(pool, blockId, out: 32 bytes) → generation; the hash is written to `out` when the generation is even
Napi::Value row(const Napi::CallbackInfo& info) {
  const auto cache = open_cache(info[0]);
  const KvRow& row = cache->region().row(to_block_id(*cache, info[1]));
  std::memcpy(info[2].As<Napi::Uint8Array>().Data(), row.hash, kHashBytes);
  return Napi::Number::New(info.Env(), static_cast<double>(row.generation.load(std::memory_order_relaxed)));
}

// block(pool, blockId) → Uint8Array over the block itself; the memory stays mapped for as long as the view
// lives
Napi::Value block(const Napi::CallbackInfo& info) {
  const auto cache = open_cache(info[0]);
  const KvRegion& region = cache->region();
  if (region.device) throw Error("NOT_SUPPORTED", "The KV pool's blocks lie on a device: there is no view of them.");
  const size_t num_bytes = region.layout.block_bytes();
  uint8_t* const data = region.block(to_block_id(*cache, info[1]));
  auto* owner = new std::shared_ptr<Mapping>(region.mapping);
  const auto buffer = Napi::ArrayBuffer::New(
      info.Env(), data, num_bytes, [](Napi::Env, void*, std::shared_ptr<Mapping>* dead) { delete dead; },
      owner);
  return Napi::Uint8Array::New(info.Env(), num_bytes, buffer, 0);
}

// copyOut(pool, blockIds, hashes, data, valid)
Napi::Value copy_blocks_out(const Napi::CallbackInfo& info) {
  const auto cache = open_cache(info[0]);
  const auto ids = to_ints(info[1]);
  check_block_ids(cache->layout(), ids);
  copy_out(cache->region(), ids, to_bytes(info[2]), info[3].As<Napi::Uint8Array>().Data(),
           info[4].As<Napi::Uint8Array>().Data());
  return info.Env().Undefined();
}

// copyIn(pool, blockIds, data)
Napi::Value copy_blocks_in(const Napi::CallbackInfo& info) {
  const auto cache = open_cache(info[0]);
  const auto ids = to_ints(info[1]);
  check_block_ids(cache->layout(), ids);
  copy_in(cache->region(), ids, info[2].As<Napi::Uint8Array>().Data());
  return info.Env().Undefined();
}

Napi::Value close_pool(const Napi::CallbackInfo& info) {
  handle<PoolHandle>(info[0]).cache.reset();
  return info.Env().Undefined();
}

}  // namespace

void add_pool(Napi::Object exports) {
  add_function<create_pool>(exports, "createPool");
  add_function<pool_fd>(exports, "poolFd");
  add_function<publish>(exports, "publish");
  add_function<retract>(exports, "retract");
  add_function<row>(exports, "row");
  add_function<block>(exports, "block");
  add_function<copy_blocks_out>(exports, "copyOut");
  add_function<copy_blocks_in>(exports, "copyIn");
  add_function<close_pool>(exports, "closePool");
}

}  // namespace vllm_pd::addon
