// Models: loading them, running them.
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "addon/arguments.h"
#include "addon/exports.h"
#include "addon/instance.h"
#include "addon/pool.h"
#include "addon/promise.h"
#include "cpu/cpu_model.h"
#include "cuda/cuda_model.h"
#include "error.h"
#include "model.h"
#include "threads.h"

namespace vllm_pd::addon {
namespace {

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
  cuda::CudaModelOptions options;
  options.element = object.Get("dtype").As<Napi::String>().Utf8Value() == "float16" ? cuda::ElementType::kF16
                                                                                     : cuda::ElementType::kBF16;
  options.kv_dtype = static_cast<KvDtype>(number("kvDtype"));
  options.suppressed_tokens = to_ints(object.Get("suppressTokenIds"));
  options.batch_invariant = object.Get("batchInvariant").As<Napi::Boolean>();
  options.max_tokens = number("maxTokens");
  options.max_requests = number("maxRequests");
  options.max_positions = number("maxPositions");
  return options;
}

/** Loads the model, to be called on the thread that will run it. */
using ModelLoader = std::function<std::shared_ptr<Model>()>;

// loadModel(config, tensors, weights, numThreads, cuda?) → Promise<handle>; with `cuda` on the device, which says what
// weights are and has threads of its own
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

/** Arguments 2 to 7. */
std::shared_ptr<Batch> to_batch(const Napi::CallbackInfo& info) {
  return std::make_shared<Batch>(Batch{to_ints(info[2]), to_ints(info[3]), to_ints(info[4]), to_ints(info[5]),
                                       to_ints(info[6]), to_ints(info[7])});
}

// forward(model, pool, tokenIds, positions, cuSeqlensQ, blockTables, cuBlocks, logitsIndices) →
// Promise<Float32Array>
Napi::Value forward(const Napi::CallbackInfo& info) {
  const auto& owner = handle<ModelHandle>(info[0]);
  if (!owner.model) throw Error("INVALID_ARGUMENT", "The model is closed.");
  const auto model = owner.model;
  const auto cache = open_cache(info[1]);
  const auto batch = to_batch(info);
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

/** Behind `reals`, (num_draws, 3), and `ints`, (num_draws, 2 + …): what src/native/draws.ts writes. */
std::vector<Draw> to_draws(const Napi::Float64Array& reals, const Napi::Int32Array& ints) {
  const size_t count = reals.ElementLength() / 3;
  const size_t width = count == 0 ? 0 : ints.ElementLength() / count;
  std::vector<Draw> draws;
  for (size_t i = 0; i < count; ++i) {
    const double* const real = reals.Data() + 3 * i;
    const int32_t* const own = ints.Data() + width * i;
    Draw draw{own[0], real[0], real[1], real[2], own[1], {}};
    for (size_t j = 2; j < width; ++j)
      if (own[j] >= 0) draw.forbidden.push_back(own[j]);
    draws.push_back(std::move(draw));
  }
  return draws;
}

// forwardAndSample(model, pool, tokenIds, positions, cuSeqlensQ, blockTables, cuBlocks, logitsIndices, reals, ints,
// logitsRows) → Promise<{ tokenIds: Int32Array, logits: Float32Array }>
Napi::Value forward_and_sample(const Napi::CallbackInfo& info) {
  const auto& owner = handle<ModelHandle>(info[0]);
  if (!owner.model) throw Error("INVALID_ARGUMENT", "The model is closed.");
  const auto model = owner.model;
  const auto cache = open_cache(info[1]);
  const auto batch = to_batch(info);
  const auto sampling = std::make_shared<Sampling>(
      Sampling{to_draws(info[8].As<Napi::Float64Array>(), info[9].As<Napi::Int32Array>()), to_ints(info[10])});
  check_batch(model->config(), cache->layout(), *batch);
  check_sampling(*batch, *sampling);
  // Written by the native thread, and out of JavaScript's sight until then.
  auto sampled = Napi::Object::New(info.Env());
  auto token_ids = Napi::Int32Array::New(info.Env(), sampling->draws.size());
  auto logits = Napi::Float32Array::New(info.Env(), sampling->logits_rows.size() * model->config().vocab_size);
  sampled.Set("tokenIds", token_ids);
  sampled.Set("logits", logits);
  const auto kept = std::make_shared<Napi::ObjectReference>(Napi::Persistent(sampled));
  return run_on(
      info.Env(), *owner.thread,
      [model, cache, batch, sampling, ids = token_ids.Data(), out = logits.Data()] {
        model->forward_and_sample(cache->region(), *batch, *sampling, ids, out);
      },
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

Napi::Value packed_rows(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(num_packed_rows()));
}

Napi::Value close_model(const Napi::CallbackInfo& info) {
  handle<ModelHandle>(info[0]).close();
  return info.Env().Undefined();
}

}  // namespace

void add_model(Napi::Object exports) {
  add_function<load_model>(exports, "loadModel");
  add_function<forward>(exports, "forward");
  add_function<forward_and_sample>(exports, "forwardAndSample");
  add_function<weight_source>(exports, "weightSource");
  add_function<packed_rows>(exports, "numPackedRows");
  add_function<close_model>(exports, "closeModel");
}

}  // namespace vllm_pd::addon
