// Work on a native thread that a promise stands for.
#pragma once

#include <napi.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "threads.h"

namespace vllm_pd::addon {

/** Runs `work` on a native thread, then `finish` back here; the promise takes what `finish` returns. */
Napi::Promise run_on(Napi::Env env, JobThread& thread, std::function<void()> work,
                     std::function<Napi::Value(Napi::Env)> finish);

/** As `run_on`, for work that says one byte a block: the promise takes them as a Uint8Array. */
Napi::Promise run_for_bytes(Napi::Env env, JobThread& thread, std::function<std::vector<uint8_t>()> work);

}  // namespace vllm_pd::addon
