// From a native thread back to the event loop.
#include "addon/promise.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <utility>

#include "addon/errors.h"

namespace vllm_pd::addon {

Napi::Promise run_on(Napi::Env env, std::vector<Part> parts, std::function<Napi::Value(Napi::Env)> finish) {
  struct Job {
    Napi::Promise::Deferred deferred;
    std::function<Napi::Value(Napi::Env)> finish;
    std::atomic<size_t> num_left;
    std::once_flag failed;
    std::exception_ptr failure;
  };
  const auto deferred = Napi::Promise::Deferred::New(env);
  auto* job = new Job{deferred, std::move(finish), {parts.size()}, {}, nullptr};
  const auto notify = Napi::ThreadSafeFunction::New(env, Napi::Function(), "vllm_pd", 0, 1);
  for (Part& part : parts) {
    part.thread.submit([job, notify, work = std::move(part.work)]() mutable {
      try {
        work();
      } catch (...) {
        std::call_once(job->failed, [&] { job->failure = std::current_exception(); });
      }
      // What the work held is let go of here, off the event loop.
      work = nullptr;
      if (job->num_left.fetch_sub(1) > 1) return;
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
  }
  return deferred.Promise();
}

Napi::Promise run_on(Napi::Env env, JobThread& thread, std::function<void()> work,
                     std::function<Napi::Value(Napi::Env)> finish) {
  std::vector<Part> parts;
  parts.push_back({thread, std::move(work)});
  return run_on(env, std::move(parts), std::move(finish));
}

std::function<Napi::Value(Napi::Env)> giving(std::shared_ptr<std::vector<uint8_t>> bytes) {
  return [bytes = std::move(bytes)](Napi::Env env) -> Napi::Value {
    auto array = Napi::Uint8Array::New(env, bytes->size());
    std::copy(bytes->begin(), bytes->end(), array.Data());
    return array;
  };
}

Napi::Promise run_for_bytes(Napi::Env env, JobThread& thread, std::function<std::vector<uint8_t>()> work) {
  const auto bytes = std::make_shared<std::vector<uint8_t>>();
  return run_on(env, thread, [bytes, work = std::move(work)] { *bytes = work(); }, giving(bytes));
}

}  // namespace vllm_pd::addon
