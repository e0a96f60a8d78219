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
#include "holds.h"

namespace vllm_pd::addon {
namespace {

struct DataServerHandle {
  std::unique_ptr<DataServer> server;
};

struct HoldsHandle {
  std::shared_ptr<Holds> holds = std::make_shared<Holds>();
};

Napi::Value create_holds(const Napi::CallbackInfo& info) { return new_handle(info.Env(), new HoldsHandle()); }

// grantHold(holds, id, blockIds, milliseconds)
Napi::Value grant_hold(const Napi::CallbackInfo& info) {
  const std::chrono::milliseconds time(to_int(info[3]));
  handle<HoldsHandle>(info[0]).holds->grant(info[1].As<Napi::String>().Utf8Value(), to_ints(info[2]), time);
  return info.Env().Undefined();
}

Napi::Value end_hold(const Napi::CallbackInfo& info) {
  handle<HoldsHandle>(info[0]).holds->end(info[1].As<Napi::String>().Utf8Value());
  return info.Env().Undefined();
}

DataServer& open_server(const Napi::Value& value) {
  const auto& server = handle<DataServerHandle>(value).server;
  if (!server) throw Error("INVALID_ARGUMENT", "The data server is closed.");
  return *server;
}

// createDataServer(pool, holds, host) → handle
Napi::Value create_data_server(const Napi::CallbackInfo& info) {
  const auto cache = open_cache(info[0]);
  const auto& holds = handle<HoldsHandle>(info[1]).holds;
  auto server = std::make_unique<DataServer>(cache, holds, info[2].As<Napi::String>().Utf8Value());
  return new_handle(info.Env(), new DataServerHandle{std::move(server)});
}

Napi::Value data_server_port(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), open_server(info[0]).port());
}

Napi::Value data_bytes_sent(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(open_server(info[0]).num_bytes_sent()));
}

// openDataSession(server, key of its requests' seals, secret: 32 bytes to write to) → session id
Napi::Value open_data_session(const Napi::CallbackInfo& info) {
  SealKey key;
  std::copy_n(info[1].As<Napi::Uint8Array>().Data(), kSealKeyBytes, key.begin());
  Secret secret;
  const uint32_t id = open_server(info[0]).open_session(&secret, key);
  std::copy(secret.begin(), secret.end(), info[2].As<Napi::Uint8Array>().Data());
  return Napi::Number::New(info.Env(), id);
}

Napi::Value close_data_session(const Napi::CallbackInfo& info) {
  open_server(info[0]).close_session(static_cast<uint32_t>(to_int(info[1])));
  return info.Env().Undefined();
}

Napi::Value close_data_server(const Napi::CallbackInfo& info) {
  handle<DataServerHandle>(info[0]).server.reset();
  return info.Env().Undefined();
}

}  // namespace

void add_data_server(Napi::Object exports) {
  add_function<create_holds>(exports, "createHolds");
  add_function<grant_hold>(exports, "grantHold");
  add_function<end_hold>(exports, "endHold");
  add_function<create_data_server>(exports, "createDataServer");
  add_function<data_server_port>(exports, "dataServerPort");
  add_function<data_bytes_sent>(exports, "dataBytesSent");
  add_function<open_data_session>(exports, "openDataSession");
  add_function<close_data_session>(exports, "closeDataSession");
  add_function<close_data_server>(exports, "closeDataServer");
}

}  // namespace vllm_pd::addon
