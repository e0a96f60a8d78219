// The reader's end of data connections.
#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "addon/arguments.h"
#include "addon/exports.h"
#include "addon/instance.h"
#include "addon/pool.h"
#include "addon/promise.h"
#include "data_channel.h"
#include "error.h"
#include "threads.h"

namespace vllm_pd::addon {
namespace {

struct DataLanesHandle {
  std::shared_ptr<DataLanes> lanes;
  /** One a lane. */
  std::vector<std::shared_ptr<JobThread>> threads;
  std::shared_ptr<RequestWriter> requests;
  /** The number of the next one. */
  uint32_t next_seq = 1;
  /** Requests that wait for the first thread to send them. */
  std::shared_ptr<std::atomic<int>> num_unsent = std::make_shared<std::atomic<int>>(0);

  ~DataLanesHandle() { close(); }

  void close() {
    if (lanes) lanes->shut_down();
    lanes.reset();
    requests.reset();
    for (const auto& thread : threads) thread->stop();
    threads.clear();
  }
};

// openDataLanes(host, port, secret, key of the requests' seals, numLanes) → Promise<handle>
Napi::Value open_data_lanes(const Napi::CallbackInfo& info) {
  auto& instance = *info.Env().GetInstanceData<Instance>();
  const int num_lanes = static_cast<int>(to_int(info[4]));
  std::vector<std::shared_ptr<JobThread>> threads;
  for (int lane = 0; lane < num_lanes; ++lane) threads.push_back(instance.new_thread());
  Secret secret;
  std::copy_n(info[2].As<Napi::Uint8Array>().Data(), kSecretBytes, secret.begin());
  SealKey key;
  std::copy_n(info[3].As<Napi::Uint8Array>().Data(), kSealKeyBytes, key.begin());
  const auto requests = std::make_shared<RequestWriter>(key);
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
        return new_handle(env, new DataLanesHandle{std::move(*lanes), threads, requests});
      });
}

/**
 * What the connection takes at once is sent here, for another thread would first have to wake up; the rest, and what comes
 * behind it, by the first connection's thread.
 */
void post(DataLanesHandle& owner, std::vector<uint8_t> frame) {
  struct Request {
    std::vector<uint8_t> bytes;
    Scatter scatter;
  };
  const auto request = std::make_shared<Request>();
  request->bytes = std::move(frame);
  request->scatter.add(request->bytes.data(), request->bytes.size());
  if (*owner.num_unsent == 0 && owner.lanes->post(request->scatter, Wait::kNone)) return;
  *owner.num_unsent += 1;
  owner.threads[0]->submit([request, lanes = owner.lanes, num_unsent = owner.num_unsent] {
    try {
      lanes->post(request->scatter, Wait::kYes);
    } catch (const Error&) {
      // Whoever waits for the reply hears of it.
      lanes->shut_down();
    }
    *num_unsent -= 1;
  });
}

// readRemoteBlocks(lanes, numLanes, holdId, remoteBlockIds, pool, localBlockIds, hashes) → Promise<Uint8Array>, an Arrival a block
Napi::Value read_remote_blocks(const Napi::CallbackInfo& info) {
  auto& owner = handle<DataLanesHandle>(info[0]);
  if (!owner.lanes) throw Error("PEER_FAILED", "The data connections are closed.");
  const auto cache = open_cache(info[4]);
  const auto ids = to_ints(info[5]);
  check_block_ids(cache->layout(), ids);
  const auto num_lanes = static_cast<uint32_t>(to_int(info[1]));
  const uint32_t seq = owner.next_seq++;
  const ReadRequest request{seq, num_lanes, info[2].As<Napi::String>().Utf8Value(), to_ints(info[3]), to_bytes(info[6])};
  post(owner, owner.requests->next(request));
  const std::vector<uint8_t>& hashes = request.hashes;
  const auto arrivals = std::make_shared<std::vector<uint8_t>>(ids.size());
  const size_t share = blocks_a_lane(ids.size(), num_lanes);
  std::vector<Part> parts;
  for (size_t begin = 0; begin < ids.size(); begin += share) {
    const auto lane = static_cast<int>(parts.size());
    const size_t end = std::min(ids.size(), begin + share);
    auto receive = [=, lanes = owner.lanes, own_ids = std::vector<int32_t>(ids.begin() + begin, ids.begin() + end),
                    own_hashes = std::vector<uint8_t>(hashes.begin() + begin * kHashBytes, hashes.begin() + end * kHashBytes)] {
      try {
        const auto arrived = lanes->receive(lane, seq, cache->region(), own_ids, own_hashes);
        std::copy(arrived.begin(), arrived.end(), arrivals->begin() + begin);
      } catch (...) {
        // The others need not be waited for.
        lanes->shut_down();
        throw;
      }
    };
    parts.push_back({*owner.threads.at(lane), std::move(receive)});
  }
  return run_on(info.Env(), std::move(parts), giving(arrivals));
}

Napi::Value close_data_lanes(const Napi::CallbackInfo& info) {
  handle<DataLanesHandle>(info[0]).close();
  return info.Env().Undefined();
}

}  // namespace

void add_data_lanes(Napi::Object exports) {
  add_function<open_data_lanes>(exports, "openDataLanes");
  add_function<read_remote_blocks>(exports, "readRemoteBlocks");
  add_function<close_data_lanes>(exports, "closeDataLanes");
}

}  // namespace vllm_pd::addon
