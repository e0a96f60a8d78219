// Blocks that are checked, sent and looked at once more, some at a time.
#include "data_reply.h"

#include <arpa/inet.h>

#include <utility>

#include "crc32c.h"
#include "cuda/device_blocks.h"
#include "data_channel.h"

namespace vllm_pd {
namespace {

/** Sent at once, while its bytes are in the cache from being checked; the rows of blocks are looked at again behind it. */
constexpr size_t kPieceBytes = 256 << 10;

/** Where the bytes of the job's blocks `indices` are on the host: in the pool, or brought from its device to `staged`. */
std::vector<uint8_t*> blocks_of(const KvRegion& region, const SendJob& job, const std::vector<size_t>& indices,
                                std::vector<uint8_t>& staged) {
  const auto block_bytes = static_cast<size_t>(region.layout.block_bytes());
  std::vector<int32_t> ids;
  for (const size_t i : indices) ids.push_back(job.block_ids[i]);
  if (region.device) staged.resize(ids.size() * block_bytes);
  std::vector<uint8_t*> blocks;
  for (size_t k = 0; k < ids.size(); ++k)
    blocks.push_back(region.device ? staged.data() + k * block_bytes : region.block(ids[k]));
  if (region.device) region.device->to_host(ids, blocks);
  return blocks;
}

}  // namespace

DataReply::DataReply(const KvRegion& region, SendJob job, std::atomic<uint64_t>& num_bytes_sent)
    : region_(region),
      job_(std::move(job)),
      num_bytes_sent_(num_bytes_sent),
      block_bytes_(static_cast<size_t>(region.layout.block_bytes())),
      generations_(job_.block_ids.size()),
      offered_(job_.block_ids.size()),
      crcs_(job_.block_ids.size()),
      head_{htonl(job_.seq), htonl(static_cast<uint32_t>(job_.block_ids.size()))} {
  for (size_t i = 0; i < offered_.size(); ++i) {
    generations_[i] = region_.row(job_.block_ids[i]).begin_read(&job_.hashes[i * kHashBytes]);
    offered_[i] = generations_[i] != 0;
  }
  valid_ = offered_;
  head_sum_ = crc32c(crc32c(0, head_, sizeof(head_)), offered_.data(), offered_.size());
  head_check_ = htonl(head_sum_);
  scatter_.add(head_, sizeof(head_));
  scatter_.add(offered_.data(), offered_.size());
  scatter_.add(&head_check_, sizeof(head_check_));
  begin_piece();
}

bool DataReply::send(const Socket& socket, Wait wait) {
  for (;;) {
    if (!scatter_.send(socket, wait)) return false;
    if (is_tail_) return true;
    end_piece();
    if (piece_begin_ < offered_.size()) {
      begin_piece();
    } else {
      begin_tail();
    }
  }
}

void DataReply::begin_piece() {
  std::vector<size_t> piece;
  for (; piece_end_ < offered_.size() && piece.size() * block_bytes_ < kPieceBytes; ++piece_end_)
    if (offered_[piece_end_]) piece.push_back(piece_end_);
  const std::vector<uint8_t*> blocks = blocks_of(region_, job_, piece, staged_);
  for (size_t k = 0; k < piece.size(); ++k) {
    const size_t i = piece[k];
    // Of bytes that change before they are sent, the row tells.
    crcs_[i] = htonl(crc32c(begin_block_crc(&job_.hashes[i * kHashBytes]), blocks[k], block_bytes_));
    scatter_.add(blocks[k], block_bytes_);
  }
}

void DataReply::end_piece() {
  for (size_t i = piece_begin_; i < piece_end_; ++i) {
    if (offered_[i]) valid_[i] = region_.row(job_.block_ids[i]).end_read(generations_[i]);
  }
  piece_begin_ = piece_end_;
}

void DataReply::begin_tail() {
  is_tail_ = true;
  for (const uint8_t flag : valid_) num_bytes_sent_ += flag * block_bytes_;
  const size_t num_crc_bytes = crcs_.size() * sizeof(uint32_t);
  tail_check_ = htonl(crc32c(crc32c(head_sum_, valid_.data(), valid_.size()), crcs_.data(), num_crc_bytes));
  scatter_.add(valid_.data(), valid_.size());
  scatter_.add(crcs_.data(), num_crc_bytes);
  scatter_.add(&tail_check_, sizeof(tail_check_));
}

}  // namespace vllm_pd
