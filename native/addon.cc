// The module's face towards Node, and the only file that knows Node-API. src/native.ts has checked the types
// of all arguments; ranges that only the C++ side knows are checked behind this file.
#include <napi.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "block_hash.h"
#include "cpu/cpu_model.h"
#include "cpu/isa.h"
#include "cuda/cublaslt.h"
#include "cuda/cuda_model.h"
#include "cuda/driver.h"
#include "data_channel.h"
#include "error.h"
#include "kv_cache.h"
#include "model.h"
#include "probe.h"
#include "threads.h"
#include "transfer.h"

namespace vllm_pd {
namespace {

/**
 * More copy no faster: two or so fill a memory channel's share, and the engine computes beside them. The
 * thread that reads are queued on is one of them.
 */
int num_transfer_threads() {
  const int num_cores = static_cast<int>(std::thread::hardware_concurrency());
  return std::clamp(num_cores / 2, 2, 4);
}

/** Native threads of this environment; all are joined before its code may be unloaded. */
struct Instance {
  std::vector<std::shared_ptr<JobThread>> threads;
  std::shared_ptr<JobThread> transfers;
  /** Used by jobs on `transfers` only, which hold it until the last of them has ended. */
  std::shared_ptr<ThreadPool> transfer_pool;

  /** Their receiving is ended before its threads are waited for. */
  std::vector<std::weak_ptr<DataLanes>> lanes;

  ~Instance() {
    for (const auto& weak : lanes) {
      if (const auto open = weak.lock()) open->shut_down();
    }
    for (const auto& thread : threads) thread->stop();
  }

  std::shared_ptr<JobThread> new_thread() {
    const auto done = [](const std::shared_ptr<JobThread>& thread) { return thread->finished(); };
    threads.erase(std::remove_if(threads.begin(), threads.end(), done), threads.end());
    threads.push_back(std::make_shared<JobThread>());
    return threads.back();
  }
};

struct PoolHandle {
  std::shared_ptr<KvCache> cache;
};

struct PeerHandle {
  std::shared_ptr<KvRegion> region;
};

struct DataServerHandle {
  std::shared_ptr<KvCache> cache;
  std::unique_ptr<DataServer> server;
};

struct DataLanesHandle {
  std::shared_ptr<DataLanes> lanes;
  /** One a lane. */
  std::vector<std::shared_ptr<JobThread>> threads;

  ~DataLanesHandle() { close(); }

  void close() {
    if (lanes) lanes->shut_down();
    lanes.reset();
    for (const auto& thread : threads) thread->stop();
    threads.clear();
  }
};

struct ProbeHandle {
  std::unique_ptr<Probe> probe;
};

struct ModelHandle {
  std::shared_ptr<Model> model;
  std::shared_ptr<JobThread> thread;

  ~ModelHandle() { close(); }

  /** A forward pass under way ends first; the weights are freed on the model's own thread. */
  void close() {
    if (!model) return;
    thread->submit([model = std::move(model)]() mutable { model.reset(); });
    model.reset();
    thread->stop();
  }
};

Napi::Error to_js(Napi::Env env, const char* code, const std::string& message) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", Napi::String::New(env, code));
  return error;
}

Napi::Error to_js(Napi::Env env, const std::exception_ptr& exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const Error& error) {
    return to_js(env, error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return to_js(env, "INTERNAL", "Out of memory.");
  } catch (const std::exception& error) {
    return to_js(env, "INTERNAL", error.what());
  }
}

/** Wraps an exported function: C++ exceptions become errors with a `code`. */
template <Napi::Value (*function)(const Napi::CallbackInfo&)>
Napi::Value guarded(const Napi::CallbackInfo& info) {
  try {
    return function(info);
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw to_js(info.Env(), std::current_exception());
  }
}

/** Runs `work` on a native thread, then `finish` back here; the promise takes what `finish` returns. */
Napi::Promise run_on(Napi::Env env, JobThread& thread, std::function<void()> work,
                     std::function<Napi::Value(Napi::Env)> finish) {
  struct Job {
    Napi::Promise::Deferred deferred;
    std::function<void()> work;
    std::function<Napi::Value(Napi::Env)> finish;
    std::exception_ptr failure;
  };
  const auto deferred = Napi::Promise::Deferred::New(env);
  auto* job = new Job{deferred, std::move(work), std::move(finish), nullptr};
  const auto notify = Napi::ThreadSafeFunction::New(env, Napi::Function(), "vllm_pd", 0, 1);
  thread.submit([job, notify] {
    try {
      job->work();
    } catch (...) {
      job->failure = std::current_exception();
    }
    // What the work held is let go of here, off the event loop.
    job->work = nullptr;
    const auto settle = [](Napi::Env callback_env, Napi::Function, Job* done) {
      const std::unique_ptr<Job> owned(done);
      Napi::HandleScope scope(callback_env);
      if (done->failure) {
        done->deferred.Reject(to_js(callback_env, done->failure).Value());
      } else {
        done->deferred.Resolve(done->finish(callback_env));
      }
    };
    // When the environment is going away, the job is left where it is: what it holds may only be freed by
    // that environment.
    if (notify.BlockingCall(job, settle) == napi_ok) Napi::ThreadSafeFunction(notify).Release();
  });
  return deferred.Promise();
}

int64_t to_int(const Napi::Value& value) { return value.As<Napi::Number>().Int64Value(); }

std::vector<int32_t> to_ints(const Napi::Value& value) {
  const auto array = value.As<Napi::Int32Array>();
  return std::vector<int32_t>(array.Data(), array.Data() + array.ElementLength());
}

std::vector<uint8_t> to_bytes(const Napi::Value& value) {
  const auto array = value.As<Napi::Uint8Array>();
  return std::vector<uint8_t>(array.Data(), array.Data() + array.ElementLength());
}

/** Six whole numbers in the order of KvLayout. */
KvLayout to_layout(const Napi::Value& value) {
  const auto numbers = value.As<Napi::Array>();
  return {to_int(numbers[0u]), to_int(numbers[1u]),
          to_int(numbers[2u]), to_int(numbers[3u]),
          to_int(numbers[4u]), to_int(numbers[5u]) == 1 ? KvDtype::kBF16 : KvDtype::kF32};
}

template <typename Handle>
Handle& handle(const Napi::Value& value) {
  return *value.As<Napi::External<Handle>>().Data();
}

template <typename Handle>
Napi::Value new_handle(Napi::Env env, Handle* handle) {
  return Napi::External<Handle>::New(env, handle, [](Napi::Env, Handle* dead) { delete dead; });
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

/** An argument that is one block's id. */
int32_t to_block_id(const KvCache& cache, const Napi::Value& value) {
  const int64_t id = to_int(value);
  if (id < 0 || id >= cache.layout().num_blocks) check_block_ids(cache.layout(), {static_cast<int32_t>(id)});
  return static_cast<int32_t>(id);
}

Napi::Value isa(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), cpu::chosen_kernels().isa);
}

// defaultDtype() → 'float32' or 'bfloat16'
Napi::Value default_dtype(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(),
                           cpu::default_weight_type() == WeightType::kBFloat16 ? "bfloat16" : "float32");
}

// hashBlocks(parent: 32 bytes, tokenIds: Uint32Array of numBlocks * blockSize, blockSize, portable, hex:
// numBlocks * 64 bytes to write to)
Napi::Value hash_blocks_of(const Napi::CallbackInfo& info) {
  const auto token_ids = info[1].As<Napi::Uint32Array>();
  const auto block_size = static_cast<size_t>(to_int(info[2]));
  hash_blocks(info[0].As<Napi::Uint8Array>().Data(), token_ids.Data(), token_ids.ElementLength() / block_size,
              block_size, info[3].As<Napi::Boolean>(),
              reinterpret_cast<char*>(info[4].As<Napi::Uint8Array>().Data()));
  return info.Env().Undefined();
}

Napi::Value count_transfer_threads(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), num_transfer_threads());
}

// cudaFacts() → what src/native.ts declares as CudaFacts
Napi::Value cuda_facts(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const cuda::CudaFacts facts = cuda::cuda_facts();
  auto object = Napi::Object::New(env);
  auto devices = Napi::Array::New(env, facts.devices.size());
  for (uint32_t i = 0; i < facts.devices.size(); ++i) {
    const cuda::DeviceInfo& device = facts.devices[i];
    auto entry = Napi::Object::New(env);
    entry.Set("name", device.name);
    entry.Set("capability",
              std::to_string(device.capability_major) + "." + std::to_string(device.capability_minor));
    entry.Set("numMultiprocessors", device.num_multiprocessors);
    entry.Set("memoryBytes", static_cast<double>(device.memory_bytes));
    devices.Set(i, entry);
  }
  object.Set("driverVersion", facts.driver_version);
  object.Set("devices", devices);
  object.Set("fatbinBytes", static_cast<double>(facts.fatbin_bytes));
  object.Set("whyNot", facts.why_not);
  object.Set("whyNoCublasLt", cuda::why_no_cublaslt());
  return object;
}

// buildFacts() → { compiler, nvcc }, nvcc being empty where the kernels were left out
Napi::Value build_facts(const Napi::CallbackInfo& info) {
  auto object = Napi::Object::New(info.Env());
  object.Set("compiler", VLLM_PD_COMPILER);
  object.Set("nvcc", VLLM_PD_NVCC_VERSION);
  return object;
}

// cudaMemory() → { free, own, total } bytes of the device
Napi::Value cuda_memory(const Napi::CallbackInfo& info) {
  const auto [free, total] = cuda::shared_device()->memory();
  auto object = Napi::Object::New(info.Env());
  object.Set("free", static_cast<double>(free));
  object.Set("own", static_cast<double>(cuda::allocated_bytes()));
  object.Set("total", static_cast<double>(total));
  return object;
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

// openPeerPool(pid, fd, layout) → handle
Napi::Value open_peer_pool(const Napi::CallbackInfo& info) {
  const KvRegion region = open_peer_region(static_cast<int>(to_int(info[0])),
                                           static_cast<int>(to_int(info[1])), to_layout(info[2]));
  return new_handle(info.Env(), new PeerHandle{std::make_shared<KvRegion>(region)});
}

// readPeerPool(peer, pool, remoteBlockIds, localBlockIds, hashes) → Promise<Uint8Array>
Napi::Value read_peer_pool(const Napi::CallbackInfo& info) {
  const auto remote = handle<PeerHandle>(info[0]).region;
  if (!remote) throw Error("INVALID_ARGUMENT", "The peer's KV pool is closed.");
  const auto cache = open_cache(info[1]);
  const auto remote_ids = to_ints(info[2]);
  const auto local_ids = to_ints(info[3]);
  check_block_ids(remote->layout, remote_ids);
  check_block_ids(cache->layout(), local_ids);
  if (remote->layout.block_bytes() != cache->layout().block_bytes()) {
    throw Error("INVALID_ARGUMENT", "Expected a local KV pool with blocks of " +
                                        std::to_string(remote->layout.block_bytes()) +
                                        " bytes but received one of " + cache->layout().to_string() + ".");
  }
  auto& instance = *info.Env().GetInstanceData<Instance>();
  if (!instance.transfers) {
    instance.transfers = instance.new_thread();
    instance.transfer_pool = std::make_shared<ThreadPool>(num_transfer_threads());
  }
  const auto valid = std::make_shared<std::vector<uint8_t>>();
  return run_on(
      info.Env(), *instance.transfers,
      [=, threads = instance.transfer_pool, hashes = to_bytes(info[4])] {
        *valid = read_blocks(*threads, *remote, cache->region(), remote_ids, local_ids, hashes);
      },
      [valid](Napi::Env env) -> Napi::Value {
        auto array = Napi::Uint8Array::New(env, valid->size());
        std::copy(valid->begin(), valid->end(), array.Data());
        return array;
      });
}

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

// sendBlocks(server, session, lane, seq, blockIds, hashes) → whether that connection is there to send them
Napi::Value send_blocks(const Napi::CallbackInfo& info) {
  auto& server = open_server(info[0]);
  SendJob job{static_cast<uint32_t>(to_int(info[3])), to_ints(info[4]), to_bytes(info[5])};
  check_block_ids(handle<DataServerHandle>(info[0]).cache->layout(), job.block_ids);
  const bool queued = server.send(static_cast<uint32_t>(to_int(info[1])), static_cast<int>(to_int(info[2])),
                                  std::move(job));
  return Napi::Boolean::New(info.Env(), queued);
}

Napi::Value close_data_server(const Napi::CallbackInfo& info) {
  auto& server = handle<DataServerHandle>(info[0]);
  server.server.reset();
  server.cache.reset();
  return info.Env().Undefined();
}

// openDataLanes(host, port, secret, numLanes) → Promise<handle>
Napi::Value open_data_lanes(const Napi::CallbackInfo& info) {
  auto& instance = *info.Env().GetInstanceData<Instance>();
  const int num_lanes = static_cast<int>(to_int(info[3]));
  std::vector<std::shared_ptr<JobThread>> threads;
  for (int lane = 0; lane < num_lanes; ++lane) threads.push_back(instance.new_thread());
  Secret secret;
  std::copy_n(info[2].As<Napi::Uint8Array>().Data(), kSecretBytes, secret.begin());
  const auto lanes = std::make_shared<std::shared_ptr<DataLanes>>();
  return run_on(
      info.Env(), *threads[0],
      [=, host = info[0].As<Napi::String>().Utf8Value(),
       port = static_cast<int>(to_int(info[1]))] {
        try {
          *lanes = std::make_shared<DataLanes>(host, port, secret, num_lanes);
        } catch (...) {
          for (const auto& thread : threads) thread->stop();
          throw;
        }
      },
      [=](Napi::Env env) {
        auto& open = env.GetInstanceData<Instance>()->lanes;
        const auto gone = [](const std::weak_ptr<DataLanes>& weak) { return weak.expired(); };
        open.erase(std::remove_if(open.begin(), open.end(), gone), open.end());
        open.push_back(*lanes);
        return new_handle(env, new DataLanesHandle{std::move(*lanes), threads});
      });
}

// crc32c(bytes, portable) → checksum
Napi::Value crc32c_of(const Napi::CallbackInfo& info) {
  const auto bytes = info[0].As<Napi::Uint8Array>();
  const auto run = info[1].As<Napi::Boolean>().Value() ? crc32c_portable : crc32c;
  return Napi::Number::New(info.Env(), run(0, bytes.Data(), bytes.ByteLength()));
}

// receiveBlocks(lanes, lane, seq, pool, blockIds, hashes) → Promise<Uint8Array>, an Arrival a block
Napi::Value receive_blocks(const Napi::CallbackInfo& info) {
  const auto& owner = handle<DataLanesHandle>(info[0]);
  if (!owner.lanes) throw Error("PEER_FAILED", "The data connections are closed.");
  const auto lane = static_cast<int>(to_int(info[1]));
  const auto cache = open_cache(info[3]);
  const auto block_ids = to_ints(info[4]);
  check_block_ids(cache->layout(), block_ids);
  const auto arrivals = std::make_shared<std::vector<uint8_t>>();
  return run_on(
      info.Env(), *owner.threads.at(lane),
      [=, lanes = owner.lanes, seq = static_cast<uint32_t>(to_int(info[2])), hashes = to_bytes(info[5])] {
        *arrivals = lanes->receive(lane, seq, cache->region(), block_ids, hashes);
      },
      [arrivals](Napi::Env env) -> Napi::Value {
        auto array = Napi::Uint8Array::New(env, arrivals->size());
        std::copy(arrivals->begin(), arrivals->end(), array.Data());
        return array;
      });
}

Napi::Value close_data_lanes(const Napi::CallbackInfo& info) {
  handle<DataLanesHandle>(info[0]).close();
  return info.Env().Undefined();
}

Napi::Value close_peer_pool(const Napi::CallbackInfo& info) {
  handle<PeerHandle>(info[0]).region.reset();
  return info.Env().Undefined();
}

ModelConfig to_config(const Napi::Value& value) {
  const auto object = value.As<Napi::Object>();
  const auto number = [&](const char* key) { return to_int(object.Get(key)); };
  const auto real = [&](const char* key) { return object.Get(key).As<Napi::Number>().FloatValue(); };
  const auto flag = [&](const char* key) { return object.Get(key).As<Napi::Boolean>().Value(); };
  const auto inv_freq = object.Get("invFreq").As<Napi::Float32Array>();
  ModelConfig config;
  config.vocab_size = number("vocabSize");
  config.hidden_size = number("hiddenSize");
  config.intermediate_size = number("intermediateSize");
  config.num_layers = number("numLayers");
  config.attention = {number("numHeads"), number("numKvHeads"), number("headDim"), 0};
  const auto windows = object.Get("slidingWindows");
  if (windows.IsArray()) {
    const auto array = windows.As<Napi::Array>();
    for (uint32_t i = 0; i < array.Length(); ++i) config.sliding_windows.push_back(to_int(array.Get(i)));
  }
  config.rms_norm_eps = real("rmsNormEps");
  config.qk_norm = flag("qkNorm");
  config.attention_bias = flag("attentionBias");
  const auto flag_or_false = [&](const char* key) { return object.Get(key).IsBoolean() && flag(key); };
  config.output_bias = flag_or_false("outputBias");
  config.mlp_bias = flag_or_false("mlpBias");
  config.tie_word_embeddings = flag("tieWordEmbeddings");
  config.inv_freq.assign(inv_freq.Data(), inv_freq.Data() + inv_freq.ElementLength());
  config.rope_attention_scaling = real("ropeAttentionScaling");
  if (object.Get("noRopeLayers").IsArray()) {
    const auto layers = object.Get("noRopeLayers").As<Napi::Array>();
    for (uint32_t i = 0; i < layers.Length(); ++i) config.no_rope_layers.push_back(to_int(layers[i]));
  }
  return config;
}

TensorLocation to_location(const Napi::Object& object) {
  TensorLocation location;
  location.name = object.Get("name").As<Napi::String>();
  location.path = object.Get("path").As<Napi::String>();
  const std::string dtype = object.Get("dtype").As<Napi::String>();
  location.dtype = dtype == "F32" ? Dtype::kF32 : dtype == "BF16" ? Dtype::kBF16 : Dtype::kF16;
  const auto shape = object.Get("shape").As<Napi::Array>();
  for (uint32_t i = 0; i < shape.Length(); ++i) location.shape.push_back(to_int(shape[i]));
  location.offset = to_int(object.Get("offset"));
  location.length = to_int(object.Get("length"));
  return location;
}

WeightOptions to_weight_options(const Napi::Value& value) {
  const auto object = value.As<Napi::Object>();
  WeightOptions options;
  const std::string dtype = object.Get("dtype").As<Napi::String>();
  options.type = dtype == "bfloat16" ? WeightType::kBFloat16 : WeightType::kFloat32;
  options.int8 = object.Get("quantization").IsString();
  if (object.Get("cache").IsObject()) {
    const auto cache = object.Get("cache").As<Napi::Object>();
    const auto paths = cache.Get("paths").As<Napi::Array>();
    for (uint32_t i = 0; i < paths.Length(); ++i)
      options.cache_paths.push_back(paths.Get(i).As<Napi::String>());
    options.cache_key = cache.Get("key").As<Napi::String>();
  }
  return options;
}

cuda::CudaModelOptions to_cuda_options(const Napi::Object& object) {
  const auto number = [&](const char* key) { return to_int(object.Get(key)); };
  return {object.Get("batchInvariant").As<Napi::Boolean>(), number("maxTokens"), number("maxRequests"),
          number("maxPositions")};
}

/** Loads the model, to be called on the thread that will run it. */
using ModelLoader = std::function<std::shared_ptr<Model>()>;

// loadModel(config, tensors, weights, numThreads, cuda?) → Promise<handle>; with `cuda` on the device, where weights
// are bfloat16 and threads are none of ours
Napi::Value load_model(const Napi::CallbackInfo& info) {
  const auto array = info[1].As<Napi::Array>();
  std::vector<TensorLocation> locations;
  for (uint32_t i = 0; i < array.Length(); ++i)
    locations.push_back(to_location(array.Get(i).As<Napi::Object>()));
  ModelLoader load;
  if (info[4].IsObject()) {
    load = [locations, config = to_config(info[0]), options = to_cuda_options(info[4].As<Napi::Object>())] {
      return std::make_shared<cuda::CudaModel>(config, locations, options);
    };
  } else {
    load = [locations, config = to_config(info[0]), options = to_weight_options(info[2]),
            num_threads = static_cast<int>(to_int(info[3]))] {
      return std::make_shared<cpu::CpuModel>(config, locations, options, num_threads);
    };
  }
  const auto thread = info.Env().GetInstanceData<Instance>()->new_thread();
  const auto model = std::make_shared<std::shared_ptr<Model>>();
  return run_on(
      info.Env(), *thread,
      [model, load, own_thread = thread.get()] {
        try {
          *model = load();
        } catch (...) {
          own_thread->stop();
          throw;
        }
      },
      [=](Napi::Env env) {
        return new_handle(env, new ModelHandle{std::move(*model), thread});
      });
}

// forward(model, pool, tokenIds, positions, cuSeqlensQ, blockTables, cuBlocks, logitsIndices) →
// Promise<Float32Array>
Napi::Value forward(const Napi::CallbackInfo& info) {
  const auto& owner = handle<ModelHandle>(info[0]);
  if (!owner.model) throw Error("INVALID_ARGUMENT", "The model is closed.");
  const auto model = owner.model;
  const auto cache = open_cache(info[1]);
  const auto batch = std::make_shared<Batch>(Batch{to_ints(info[2]), to_ints(info[3]), to_ints(info[4]),
                                                   to_ints(info[5]), to_ints(info[6]), to_ints(info[7])});
  check_batch(model->config(), cache->layout(), *batch);
  // Written by the native thread, and out of JavaScript's sight until then.
  auto logits =
      Napi::Float32Array::New(info.Env(), batch->logits_indices.size() * model->config().vocab_size);
  const auto kept = std::make_shared<Napi::Reference<Napi::Float32Array>>(Napi::Persistent(logits));
  return run_on(
      info.Env(), *owner.thread,
      [model, cache, batch, out = logits.Data()] { model->forward(cache->region(), *batch, out); },
      [kept](Napi::Env) -> Napi::Value { return kept->Value(); });
}

// weightSource(model) → 'mapped', 'written' or 'memory'
Napi::Value weight_source(const Napi::CallbackInfo& info) {
  const auto& owner = handle<ModelHandle>(info[0]);
  if (!owner.model) throw Error("INVALID_ARGUMENT", "The model is closed.");
  const WeightSource source = owner.model->weight_source();
  return Napi::String::New(info.Env(), source == WeightSource::kMapped    ? "mapped"
                                       : source == WeightSource::kWritten ? "written"
                                                                          : "memory");
}

Napi::Value close_model(const Napi::CallbackInfo& info) {
  handle<ModelHandle>(info[0]).close();
  return info.Env().Undefined();
}

// createProbe(kind, sizes) → handle
Napi::Value create_probe(const Napi::CallbackInfo& info) {
  const auto array = info[1].As<Napi::Array>();
  std::vector<int64_t> sizes;
  for (uint32_t i = 0; i < array.Length(); ++i) sizes.push_back(to_int(array.Get(i)));
  return new_handle(info.Env(), new ProbeHandle{make_probe(info[0].As<Napi::String>(), sizes)});
}

Napi::Value run_probe(const Napi::CallbackInfo& info) {
  const auto& probe = handle<ProbeHandle>(info[0]).probe;
  if (!probe) throw Error("INVALID_ARGUMENT", "The probe is closed.");
  probe->run();
  return info.Env().Undefined();
}

Napi::Value close_probe(const Napi::CallbackInfo& info) {
  handle<ProbeHandle>(info[0]).probe.reset();
  return info.Env().Undefined();
}

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new Instance);
  exports.Set("isa", Napi::Function::New<guarded<isa>>(env));
  exports.Set("defaultDtype", Napi::Function::New<guarded<default_dtype>>(env));
  exports.Set("numTransferThreads", Napi::Function::New<guarded<count_transfer_threads>>(env));
  exports.Set("hashBlocks", Napi::Function::New<guarded<hash_blocks_of>>(env));
  exports.Set("cudaFacts", Napi::Function::New<guarded<cuda_facts>>(env));
  exports.Set("buildFacts", Napi::Function::New<guarded<build_facts>>(env));
  exports.Set("cudaMemory", Napi::Function::New<guarded<cuda_memory>>(env));
  exports.Set("createPool", Napi::Function::New<guarded<create_pool>>(env));
  exports.Set("poolFd", Napi::Function::New<guarded<pool_fd>>(env));
  exports.Set("publish", Napi::Function::New<guarded<publish>>(env));
  exports.Set("retract", Napi::Function::New<guarded<retract>>(env));
  exports.Set("row", Napi::Function::New<guarded<row>>(env));
  exports.Set("block", Napi::Function::New<guarded<block>>(env));
  exports.Set("copyOut", Napi::Function::New<guarded<copy_blocks_out>>(env));
  exports.Set("copyIn", Napi::Function::New<guarded<copy_blocks_in>>(env));
  exports.Set("closePool", Napi::Function::New<guarded<close_pool>>(env));
  exports.Set("openPeerPool", Napi::Function::New<guarded<open_peer_pool>>(env));
  exports.Set("readPeerPool", Napi::Function::New<guarded<read_peer_pool>>(env));
  exports.Set("closePeerPool", Napi::Function::New<guarded<close_peer_pool>>(env));
  exports.Set("createDataServer", Napi::Function::New<guarded<create_data_server>>(env));
  exports.Set("dataServerPort", Napi::Function::New<guarded<data_server_port>>(env));
  exports.Set("dataBytesSent", Napi::Function::New<guarded<data_bytes_sent>>(env));
  exports.Set("openDataSession", Napi::Function::New<guarded<open_data_session>>(env));
  exports.Set("closeDataSession", Napi::Function::New<guarded<close_data_session>>(env));
  exports.Set("sendBlocks", Napi::Function::New<guarded<send_blocks>>(env));
  exports.Set("crc32c", Napi::Function::New<guarded<crc32c_of>>(env));
  exports.Set("closeDataServer", Napi::Function::New<guarded<close_data_server>>(env));
  exports.Set("openDataLanes", Napi::Function::New<guarded<open_data_lanes>>(env));
  exports.Set("receiveBlocks", Napi::Function::New<guarded<receive_blocks>>(env));
  exports.Set("closeDataLanes", Napi::Function::New<guarded<close_data_lanes>>(env));
  exports.Set("loadModel", Napi::Function::New<guarded<load_model>>(env));
  exports.Set("forward", Napi::Function::New<guarded<forward>>(env));
  exports.Set("weightSource", Napi::Function::New<guarded<weight_source>>(env));
  exports.Set("closeModel", Napi::Function::New<guarded<close_model>>(env));
  exports.Set("createProbe", Napi::Function::New<guarded<create_probe>>(env));
  exports.Set("runProbe", Napi::Function::New<guarded<run_probe>>(env));
  exports.Set("closeProbe", Napi::Function::New<guarded<close_probe>>(env));
  return exports;
}

}  // namespace
}  // namespace vllm_pd

static Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  return vllm_pd::initialize(env, exports);
}
NODE_API_MODULE(vllm_pd, initialize)
