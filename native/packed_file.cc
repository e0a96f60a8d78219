// Files of packed matrices.
#include "packed_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <ctime>

namespace vllm_pd {
namespace {

constexpr int64_t kPage = 4096;
constexpr int64_t kHugePage = 2 * 1024 * 1024;

/** The first page's beginning; the rest of it is zeros. */
struct Header {
  char magic[8];
  int64_t num_bytes;  // of the whole file
  char key[240];
  uint64_t checksum;  // of all before it
};

constexpr char kMagic[8] = {'v', 'l', 'l', 'm', 'p', 'd', 'w', '1'};

/** FNV-1a. */
uint64_t checksum_of(const Header& header) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&header);
  uint64_t hash = 14695981039346656037u;
  for (size_t i = 0; i < offsetof(Header, checksum); ++i) hash = (hash ^ bytes[i]) * 1099511628211u;
  return hash;
}

/** Two keys that are cut could be taken for the same. */
bool can_be_named(const std::string& key) { return key.size() < sizeof(Header::key); }

Header header_for(const std::string& key, int64_t num_bytes) {
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.num_bytes = num_bytes;
  std::strncpy(header.key, key.c_str(), sizeof(header.key) - 1);
  header.checksum = checksum_of(header);
  return header;
}

int64_t rounded_up(int64_t num_bytes, int64_t unit) { return (num_bytes + unit - 1) / unit * unit; }
int64_t whole_pages(int64_t num_bytes) { return rounded_up(num_bytes, kPage); }

/**
 * Maps a range of a file so that huge pages of the file, if the system has it in such, are huge pages in memory: addresses
 * and offsets are whole ones at the same time. MAP_FAILED as mmap.
 */
void* map_range(int file, int64_t offset, int64_t num_bytes, int protection) {
  const int64_t reserved = num_bytes + kHugePage;
  void* const range = mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) return range;
  auto* const begin = static_cast<uint8_t*>(range);
  const int64_t ahead = (offset - reinterpret_cast<intptr_t>(begin)) % kHugePage;
  uint8_t* const at = begin + (ahead < 0 ? ahead + kHugePage : ahead);
  void* const mapped = mmap(at, num_bytes, protection, MAP_SHARED | MAP_FIXED, file, offset);
  if (mapped == MAP_FAILED) {
    munmap(range, reserved);
    return mapped;
  }
  uint8_t* const end = at + whole_pages(num_bytes);
  if (at > begin) munmap(begin, at - begin);
  if (begin + reserved > end) munmap(end, begin + reserved - end);
  madvise(at, num_bytes, MADV_HUGEPAGE);
  return at;
}

/** Reads all of a mapped range in now rather than fault by fault. */
void populate(void* address, int64_t num_bytes) {
#if defined(MADV_POPULATE_READ)
  if (madvise(address, num_bytes, MADV_POPULATE_READ) == 0) return;
#endif
  madvise(address, num_bytes, MADV_WILLNEED);
}

std::string folder_of(const std::string& path) { return path.substr(0, path.find_last_of('/')); }

/** Of a file whose header and matrices take so many. */
int64_t file_bytes(int64_t num_bytes) { return rounded_up(num_bytes, kHugePage); }

bool make_folders(const std::string& folder) {
  if (mkdir(folder.c_str(), 0755) == 0 || errno == EEXIST) return true;
  if (errno != ENOENT || folder.find_last_of('/') == 0 || folder.find('/') == std::string::npos) return false;
  return make_folders(folder_of(folder)) && (mkdir(folder.c_str(), 0755) == 0 || errno == EEXIST);
}

constexpr char kTemporary[] = ".tmp.";
/** Nobody packs for so long. */
constexpr time_t kLeftBehindSeconds = 60 * 60;

/** A name that no other process has, on whatever host: file systems of a network may neither lock nor do without names. */
std::string temporary_name(const std::string& path) {
  uint64_t number;
  if (getrandom(&number, sizeof(number), 0) != static_cast<ssize_t>(sizeof(number))) number = getpid();
  return path + kTemporary + std::to_string(number);
}

/** What processes that were ended left under such names. */
void remove_left_behind(const std::string& path, const std::string& folder) {
  DIR* const entries = opendir(folder.c_str());
  if (entries == nullptr) return;
  const std::string prefix = path.substr(folder.size() + 1) + kTemporary;
  while (const dirent* const entry = readdir(entries)) {
    struct stat status;
    if (std::strncmp(entry->d_name, prefix.c_str(), prefix.size()) != 0) continue;
    if (fstatat(dirfd(entries), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0) continue;
    if (time(nullptr) - status.st_mtime > kLeftBehindSeconds) unlinkat(dirfd(entries), entry->d_name, 0);
  }
  closedir(entries);
}

/** Without a name where the file system can do that: then nothing stays behind, whatever becomes of the
 * process. */
int open_unnamed(const std::string& temporary, const std::string& folder) {
  const int file = open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0644);
  if (file >= 0) return file;
  return open(temporary.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
}

/** False where the disk is full. */
bool allocate(int file, int64_t offset, int64_t num_bytes) {
  int failure;
  do {
    failure = posix_fallocate(file, offset, num_bytes);
  } while (failure == EINTR);
  return failure == 0;
}

}  // namespace

SharedPages::~SharedPages() { munmap(address_, num_bytes_); }

void SharedPages::make_read_only() { mprotect(address_, num_bytes_, PROT_READ); }

PackedReader::PackedReader(std::shared_ptr<SharedPages> pages) : pages_(std::move(pages)), offset_(kPage) {}

std::unique_ptr<PackedReader> PackedReader::open(const std::string& path, const std::string& key) {
  if (!can_be_named(key)) return nullptr;
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) return nullptr;
  Header header;
  struct stat status;
  const bool whole = fstat(file, &status) == 0 && S_ISREG(status.st_mode) &&
                     pread(file, &header, sizeof(header), 0) == static_cast<ssize_t>(sizeof(header)) &&
                     header.num_bytes == status.st_size;
  const Header expected = header_for(key, status.st_size);
  void* address = MAP_FAILED;
  if (whole && std::memcmp(&header, &expected, sizeof(header)) == 0) {
    address = map_range(file, 0, status.st_size, PROT_READ);
    if (address != MAP_FAILED) populate(address, status.st_size);
  }
  close(file);
  if (address == MAP_FAILED) return nullptr;
  return std::unique_ptr<PackedReader>(
      new PackedReader(std::make_shared<SharedPages>(address, status.st_size)));
}

const uint8_t* PackedReader::next(int64_t num_bytes) {
  if (num_bytes > pages_->num_bytes() - offset_) return nullptr;
  const uint8_t* const at = pages_->data() + offset_;
  offset_ += whole_pages(num_bytes);
  return at;
}

PackedWriter::PackedWriter(std::string path, std::string temporary, std::string key, int folder, int file)
    : path_(std::move(path)),
      temporary_(std::move(temporary)),
      key_(std::move(key)),
      folder_(folder),
      file_(file),
      num_bytes_(kPage) {}

std::unique_ptr<PackedWriter> PackedWriter::create(const std::string& path, const std::string& key) {
  if (!can_be_named(key)) return nullptr;
  const std::string folder_name = folder_of(path);
  if (!make_folders(folder_name)) return nullptr;
  const int folder = open(folder_name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return nullptr;
  // Where there are no locks, two processes may both pack; each renames a whole file of its own.
  while (flock(folder, LOCK_EX) != 0 && errno == EINTR) continue;
  remove_left_behind(path, folder_name);
  const std::string temporary = temporary_name(path);
  const int file = open_unnamed(temporary, folder_name);
  if (file < 0) {
    close(folder);
    return nullptr;
  }
  return std::unique_ptr<PackedWriter>(new PackedWriter(path, temporary, key, folder, file));
}

PackedWriter::~PackedWriter() {
  close(file_);
  unlink(temporary_.c_str());
  // The lock goes with it.
  close(folder_);
}

std::shared_ptr<SharedPages> PackedWriter::append(int64_t num_bytes) {
  const int64_t size = whole_pages(num_bytes);
  // Mapped pages without room on the disk would end the process when they are written. In whole huge pages, since the
  // system keeps none of which the file has only a part.
  if (!allocate(file_, num_bytes_, file_bytes(num_bytes_ + size) - num_bytes_)) return nullptr;
  void* const address = map_range(file_, num_bytes_, size, PROT_READ | PROT_WRITE);
  if (address == MAP_FAILED) return nullptr;
  num_bytes_ += size;
  return std::make_shared<SharedPages>(address, size);
}

bool PackedWriter::finish() {
  const Header header = header_for(key_, file_bytes(num_bytes_));
  if (pwrite(file_, &header, sizeof(header), 0) != static_cast<ssize_t>(sizeof(header))) return false;
  // Its pages must be there before its name is: a crash in between may not leave a whole header on empty
  // pages.
  if (fdatasync(file_) != 0) return false;
  const std::string unnamed = "/proc/self/fd/" + std::to_string(file_);
  struct stat status;
  if (fstat(file_, &status) != 0) return false;
  const bool has_name =
      status.st_nlink > 0 || linkat(AT_FDCWD, unnamed.c_str(), AT_FDCWD, temporary_.c_str(), AT_SYMLINK_FOLLOW) == 0;
  return has_name && std::rename(temporary_.c_str(), path_.c_str()) == 0;
}

}  // namespace vllm_pd
