// Work on a native thread that a promise stands for.
#pragma once

#include <napi.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "threads.h"

namespace vllm_pd::addon {

/** One thread's part of some work. */
struct Part {
  JobThread& thread;
  std::function<void()> work;
};

/**
 * Runs all parts on their threads, and once the last of them has ended, `finish` back here; the promise takes what `finish`
 * returns, or the first failure.
 */
Napi::Promise run_on(Napi::Env env, std::vector<Part> parts, std::function<Napi::Value(Napi::Env)> finish);

/** Runs `work` on a native thread, then `finish` back here; the promise takes what `finish` returns. */
Napi::Promise run_on(Napi::Env env, JobThread& thread, std::function<void()> work,
                     std::function<Napi::Value(Napi::Env)> finish);

/** A `finish` that gives them as a Uint8Array. */
std::function<Napi::Value(Napi::Env)> giving(std::shared_ptr<std::vector<uint8_t>> bytes);

/** As `run_on`, for work that says one byte a block: the promise takes them as a Uint8Array. */
Napi::Promise run_for_bytes(Napi::Env env, JobThread& thread, std::function<std::vector<uint8_t>()> work);

}  // namespace vllm_pd::addon
