// A file of packed matrices beside the model: written once, then mapped read-only by every process that uses
// the model, so that they share its pages. Native byte order; a first page that names the contents, then the
// matrices, each at whole pages, and zeros up to a whole huge page.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace vllm_pd {

/** A mapped range of a file; other processes see what is written to it. */
class SharedPages {
 public:
  SharedPages(void* address, int64_t num_bytes) : address_(address), num_bytes_(num_bytes) {}
  ~SharedPages();
  SharedPages(const SharedPages&) = delete;
  SharedPages& operator=(const SharedPages&) = delete;
  uint8_t* data() const { return static_cast<uint8_t*>(address_); }
  void make_read_only();
  int64_t num_bytes() const { return num_bytes_; }

 private:
  void* address_;
  int64_t num_bytes_;
};

/** Reads the matrices of a whole file, in the order in which they were written. */
class PackedReader {
 public:
  /** Null unless `path` is a whole file written for `key`; a key of 240 bytes or more has none. */
  static std::unique_ptr<PackedReader> open(const std::string& path, const std::string& key);

  /** The next `num_bytes`; null when the file has none, and then it was not written for this model. */
  const uint8_t* next(int64_t num_bytes);
  std::shared_ptr<const void> pages() const { return pages_; }

 private:
  explicit PackedReader(std::shared_ptr<SharedPages> pages);

  std::shared_ptr<SharedPages> pages_;
  int64_t offset_;
};

/** Writes such a file under no name, until it is whole. Holds its folder's lock: others wait rather than pack
 * too. */
class PackedWriter {
 public:
  /** Makes the folder. Null where it cannot be written to, or the key is too long for a file. */
  static std::unique_ptr<PackedWriter> create(const std::string& path, const std::string& key);
  ~PackedWriter();
  PackedWriter(const PackedWriter&) = delete;
  PackedWriter& operator=(const PackedWriter&) = delete;

  /** Room for the next matrix, already on the disk. Null when the disk is full. */
  std::shared_ptr<SharedPages> append(int64_t num_bytes);
  /** Puts the file in place of what is there. False when the disk would not have it; the pages stay usable.
   */
  bool finish();

 private:
  PackedWriter(std::string path, std::string temporary, std::string key, int folder, int file);

  std::string path_;
  /** Its name until it is whole, where it needs one. */
  std::string temporary_;
  std::string key_;
  int folder_;
  int file_;
  int64_t num_bytes_;
};

}  // namespace vllm_pd
