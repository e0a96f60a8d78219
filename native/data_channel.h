// KV blocks between socket and pool: several connections from a reader to an owner, beside their side channel.
//
// A connection begins with the session's secret and the connection's number (its lane); the owner answers with one
// byte. From there the reader asks for reads on lane 0 (data_request.h), and the owner sends one reply after the other:
//
//   | seq, n: uint32, big endian | n offered | check | bytes of the offered blocks, in order | n valid | n crcs | check |
//
// offered[i] is 1 where block i was what the reader asked for before it was sent; valid[i] is 1 where it still was
// when all of its bytes were sent. crcs[i] is the CRC-32C of its hash and its bytes, 0 where it was not offered; the
// checks are those of everything before them but for the blocks' bytes. All are uint32, big endian. What is not under the
// hold that the reader names is not offered, and a session in which anything else than reads is asked for ends.
//
// A read is spread over the first L connections: each carries the next `blocks_a_lane(n, L)` of its n blocks as a reply of
// its own, which has the read's number, until there are none left.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "crc32c.h"
#include "data_reply.h"
#include "data_request.h"
#include "holds.h"
#include "kv_cache.h"
#include "socket_io.h"
#include "threads.h"

namespace vllm_pd {

constexpr size_t kSecretBytes = 32;
using Secret = std::array<uint8_t, kSecretBytes>;
constexpr int kMaxLanes = 16;

constexpr size_t blocks_a_lane(size_t num_blocks, size_t num_lanes) { return (num_blocks + num_lanes - 1) / num_lanes; }

/** What arrived for a block. */
enum Arrival : uint8_t { kGone = 0, kIntact = 1, kDamaged = 2 };

/** A block's checksum begins with its hash, so that none passes for another; its bytes follow. */
inline uint32_t begin_block_crc(const uint8_t* hash) { return crc32c(0, hash, kHashBytes); }

/** The owner's end: listens, greets, and answers each session's reads on threads of its own. */
class DataServer {
 public:
  /** Throws INVALID_ARGUMENT when the host is not this machine's. */
  DataServer(std::shared_ptr<KvCache> cache, std::shared_ptr<const Holds> holds, const std::string& host);
  /** Ends all connections. */
  ~DataServer();
  DataServer(const DataServer&) = delete;
  DataServer& operator=(const DataServer&) = delete;

  int port() const { return port_; }
  /** Of valid blocks; counted before the reader hears that they are. */
  uint64_t num_bytes_sent() const { return num_bytes_sent_.load(); }

  /** Connections that begin with the secret belong to this session from now on; its requests are sealed with `key`. */
  uint32_t open_session(Secret* secret, const SealKey& key);
  void close_session(uint32_t id);

 private:
  struct Lane;
  struct Session;
  struct Stranger;

  void greet_strangers();
  void accept_all(std::vector<Stranger>& strangers);
  /** True when it is done with: it belongs to a session now, or is refused. */
  bool greet(Stranger& stranger);
  void enter(Stranger& stranger);
  /** Until the session ends, or its reader asks for what cannot be. */
  void answer_reads(Session& session);
  void answer(Session& session, ReadRequest request);
  /**
   * Queues the reply on that connection, `here` only what does not find room there if it is short; false if the connection
   * has failed or has too much to send already. Never waits.
   */
  bool send(Lane& lane, SendJob job, bool here);

  const std::shared_ptr<KvCache> cache_;
  const std::shared_ptr<const Holds> holds_;
  int port_ = 0;
  const Socket listener_;
  /** Written to when the thread shall end. */
  const Socket wake_;
  std::atomic<uint64_t> num_bytes_sent_{0};
  std::mutex mutex_;
  std::map<uint32_t, std::shared_ptr<Session>> sessions_;
  uint32_t next_session_ = 1;
  bool closing_ = false;
  std::thread thread_;
};

/** The reader's end: connections of one session. */
class DataLanes {
 public:
  /** Throws PEER_FAILED. Blocks; several seconds at most. */
  DataLanes(const std::string& host, int port, const Secret& secret, int num_lanes);
  /** Connections that have been welcomed already. */
  explicit DataLanes(std::vector<Socket> welcomed) : sockets_(std::move(welcomed)) {}

  int num_lanes() const { return static_cast<int>(sockets_.size()); }
  /** Sends of a request what the first connection takes at once, or `wait`s; true when that is all. Throws PEER_FAILED. */
  bool post(Scatter& request, Wait wait) const { return request.send(sockets_.front(), wait); }
  /**
   * Receives the next reply of that connection into the blocks, in order; returns one `Arrival` a block: where it is not
   * intact, what the block holds now is undefined. `hashes` has kHashBytes a block. Throws PEER_FAILED when the reply is
   * another one, makes no sense or does not come; the connection is of no use then. One caller a lane.
   */
  std::vector<uint8_t> receive(int lane, uint32_t seq, const KvRegion& into, const std::vector<int32_t>& block_ids,
                               const std::vector<uint8_t>& hashes) const;
  /** Ends what is being received. From any thread. */
  void shut_down() const;

 private:
  std::vector<Socket> sockets_;
};

}  // namespace vllm_pd
