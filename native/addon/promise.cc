// From a native thread back to the event loop.
#include "addon/promise.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "addon/errors.h"

namespace vllm_pd::addon {

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

Napi::Promise run_for_bytes(Napi::Env env, JobThread& thread, std::function<std::vector<uint8_t>()> work) {
  const auto bytes = std::make_shared<std::vector<uint8_t>>();
  return run_on(
      env, thread, [bytes, work = std::move(work)] { *bytes = work(); },
      [bytes](Napi::Env callback_env) -> Napi::Value {
        auto array = Napi::Uint8Array::New(callback_env, bytes->size());
        std::copy(bytes->begin(), bytes->end(), array.Data());
        return array;
      });
}

}  // namespace vllm_pd::addon
