// What the machine could do at most.
#pragma once

#include <cstdint>
#include <memory>

#include "ops.h"
#include "probe/probe.h"

namespace vllm_pd {

std::unique_ptr<Probe> make_fma_probe(int num_threads, int64_t num_fmas, WeightType type);
std::unique_ptr<Probe> make_read_probe(int num_threads, int64_t num_bytes);
/** Each round in the next of so many places, so that no cache holds what it copies. */
std::unique_ptr<Probe> make_copy_probe(int num_threads, int64_t num_bytes, int64_t num_places);
/** A thread at each end of each connection. */
std::unique_ptr<Probe> make_socket_probe(int num_connections, int64_t num_bytes);

}  // namespace vllm_pd
