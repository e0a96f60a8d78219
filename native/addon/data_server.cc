// The owner's end of data connections.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "addon/arguments.h"
#include "addon/exports.h"
#include "addon/pool.h"
#include "data_channel.h"
#include "error.h"
#include "kv_cache.h"

namespace vllm_pd::addon {
namespace {

struct DataServerHandle {
  std::shared_ptr<KvCache> cache;
  std::unique_ptr<DataServer> server;
};

DataServer& open_server(const Napi::Value& value) {
  const auto& server = handle<DataServerHandle>(value).server;
  if (!server) throw Error("INVALID_ARGUMENT", "The data server is closed.");
  return *server;
}

// createDataServer(pool, host) → handle
Napi::Value create_data_server(const Napi::CallbackInfo& info) {
  const auto cache = open_cache(info[0]);
  auto server = std::make_unique<DataServer>(cache, info[1].As<Napi::String>().Utf8Value());
  return new_handle(info.Env(), new DataServerHandle{cache, std::move(server)});
}

Napi::Value data_server_port(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), open_server(info[0]).port());
}

Napi::Value data_bytes_sent(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(open_server(info[0]).num_bytes_sent()));
}

// openDataSession(server, secret: 32 bytes to write to) → session id
Napi::Value open_data_session(const Napi::CallbackInfo& info) {
  Secret secret;
  const uint32_t id = open_server(info[0]).open_session(&secret);
  std::copy(secret.begin(), secret.end(), info[1].As<Napi::Uint8Array>().Data());
  return Napi::Number::New(info.Env(), id);
}

Napi::Value close_data_session(const Napi::CallbackInfo& info) {
  open_server(info[0]).close_session(static_cast<uint32_t>(to_int(info[1])));
  return info.Env().Undefined();
}

// sendBlocks(server, session, numLanes, seq, blockIds, hashes) → whether these connections are there to send them
Napi::Value send_blocks(const Napi::CallbackInfo& info) {
  auto& server = open_server(info[0]);
  const auto session = static_cast<uint32_t>(to_int(info[1]));
  const auto seq = static_cast<uint32_t>(to_int(info[3]));
  const auto ids = to_ints(info[4]);
  const auto hashes = to_bytes(info[5]);
  check_block_ids(handle<DataServerHandle>(info[0]).cache->layout(), ids);
  const size_t share = blocks_a_lane(ids.size(), static_cast<size_t>(to_int(info[2])));
  bool queued = true;
  // The first one last: what is short is sent here, while other connections' threads wake up.
  for (size_t lane = blocks_a_lane(ids.size(), share); lane-- > 0;) {
    const size_t begin = lane * share;
    const size_t end = std::min(ids.size(), begin + share);
    queued &= server.send(session, static_cast<int>(lane),
                          {seq,
                           {ids.begin() + begin, ids.begin() + end},
                           {hashes.begin() + begin * kHashBytes, hashes.begin() + end * kHashBytes}},
                          lane == 0);
  }
  return Napi::Boolean::New(info.Env(), queued);
}

Napi::Value close_data_server(const Napi::CallbackInfo& info) {
  auto& server = handle<DataServerHandle>(info[0]);
  server.server.reset();
  server.cache.reset();
  return info.Env().Undefined();
}

}  // namespace

void add_data_server(Napi::Object exports) {
  add_function<create_data_server>(exports, "createDataServer");
  add_function<data_server_port>(exports, "dataServerPort");
  add_function<data_bytes_sent>(exports, "dataBytesSent");
  add_function<open_data_session>(exports, "openDataSession");
  add_function<close_data_session>(exports, "closeDataSession");
  add_function<send_blocks>(exports, "sendBlocks");
  add_function<close_data_server>(exports, "closeDataServer");
}

}  // namespace vllm_pd::addon
