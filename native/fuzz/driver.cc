// Runs a fuzz target where there is no libFuzzer: mutates inputs from a seed, and keeps those that reach new code.
//
//   TARGET [-runs=N] [-max_total_time=SECONDS] [-seed=N] [FILE or FOLDER …]
//
// The flags are libFuzzer's. The input that ends the process is left behind in crash-input.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t num_bytes);
extern "C" void __sanitizer_set_death_callback(void (*callback)());

/** Whatever ends the process does so by abort(), and leaves its input behind. */
extern "C" const char* __asan_default_options() { return "handle_abort=1"; }
extern "C" const char* __ubsan_default_options() { return "abort_on_error=1:print_stacktrace=1"; }

namespace {

using Bytes = std::vector<uint8_t>;

constexpr size_t kMaxInput = 4096;
constexpr size_t kCells = 1 << 16;

/** Which places of the code any input has reached, by a hash of their address. */
std::atomic<uint8_t> reached[kCells];
std::atomic<size_t> num_reached{0};
Bytes current;

void leave_input_behind() {
  const int file = open("crash-input", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) return;
  const bool written = write(file, current.data(), current.size()) == static_cast<ssize_t>(current.size());
  std::fprintf(stderr, "the input of %zu bytes is %s\n", current.size(), written ? "in crash-input" : "lost");
  close(file);
}

struct Options {
  uint64_t num_runs = UINT64_MAX;
  uint64_t num_seconds = UINT64_MAX;
  uint64_t seed = 1;
  std::vector<std::string> paths;
};

bool take_flag(const std::string& argument, const std::string& name, uint64_t* value) {
  if (argument.rfind(name, 0) != 0) return false;
  *value = std::strtoull(argument.c_str() + name.size(), nullptr, 10);
  return true;
}

Options parse(int count, char** arguments) {
  Options options;
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    const bool is_flag = take_flag(argument, "-runs=", &options.num_runs) ||
                         take_flag(argument, "-max_total_time=", &options.num_seconds) ||
                         take_flag(argument, "-seed=", &options.seed);
    if (!is_flag && argument[0] != '-') options.paths.push_back(argument);
  }
  return options;
}

void add_inputs(const std::string& path, std::vector<Bytes>& inputs) {
  struct stat status;
  if (stat(path.c_str(), &status) != 0) return;
  if (S_ISDIR(status.st_mode)) {
    DIR* const folder = opendir(path.c_str());
    while (const dirent* entry = readdir(folder)) {
      if (entry->d_name[0] != '.') add_inputs(path + "/" + entry->d_name, inputs);
    }
    closedir(folder);
    return;
  }
  std::ifstream file(path, std::ios::binary);
  inputs.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

class Mutator {
 public:
  explicit Mutator(uint64_t seed) : random_(seed) {}

  size_t below(size_t count) { return count == 0 ? 0 : random_() % count; }

  Bytes mutate(Bytes input, const Bytes& other) {
    for (size_t i = below(5) + 1; i > 0; --i) change(input, other);
    if (input.size() > kMaxInput) input.resize(kMaxInput);
    return input;
  }

 private:
  void change(Bytes& input, const Bytes& other) {
    static constexpr int64_t kEdges[] = {0, 1, -1, 127, 255, 256, 32767, 65535, 65536, INT32_MAX, INT64_MAX, INT64_MIN};
    if (input.empty()) input.resize(below(64) + 1);
    const size_t at = below(input.size());
    const auto here = input.begin() + static_cast<std::ptrdiff_t>(at);
    switch (below(8)) {
      case 0:
        input[at] ^= static_cast<uint8_t>(1 << below(8));
        return;
      case 1:
        input[at] = static_cast<uint8_t>(random_());
        return;
      case 2:
        input[at] = static_cast<uint8_t>(input[at] + below(9) - 4);
        return;
      case 3:
        return input.resize(at);
      case 4:
        input.insert(here, below(32) + 1, static_cast<uint8_t>(random_()));
        return;
      case 5: {
        const int64_t edge = kEdges[below(std::size(kEdges))];
        const size_t width = std::min<size_t>(size_t{1} << below(4), input.size() - at);
        std::memcpy(&input[at], &edge, width);
        return;
      }
      case 6: {
        const size_t end = at + below(std::min<size_t>(64, input.size() - at)) + 1;
        const Bytes piece(here, input.begin() + static_cast<std::ptrdiff_t>(std::min(end, input.size())));
        const auto to = static_cast<std::ptrdiff_t>(below(input.size()));
        input.insert(input.begin() + to, piece.begin(), piece.end());
        return;
      }
      default: {
        if (other.empty()) return;
        const auto from = static_cast<std::ptrdiff_t>(below(other.size()));
        input.resize(at);
        input.insert(input.end(), other.begin() + from, other.end());
      }
    }
  }

  std::mt19937_64 random_;
};

void run(const Bytes& input) {
  current = input;
  LLVMFuzzerTestOneInput(current.data(), current.size());
}

}  // namespace

/** Called at every edge of what is instrumented, from any thread. */
extern "C" void __sanitizer_cov_trace_pc() {
  const auto place = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
  std::atomic<uint8_t>& cell = reached[(place ^ place >> 16) % kCells];
  if (cell.load(std::memory_order_relaxed) == 0 && cell.exchange(1, std::memory_order_relaxed) == 0) {
    num_reached.fetch_add(1, std::memory_order_relaxed);
  }
}

int main(int count, char** arguments) {
  const Options options = parse(count, arguments);
  __sanitizer_set_death_callback(leave_input_behind);
  std::vector<Bytes> inputs;
  for (const std::string& path : options.paths) add_inputs(path, inputs);
  if (inputs.empty()) inputs.emplace_back(64, 0);
  const size_t num_given = inputs.size();
  for (const Bytes& input : inputs) run(input);
  const auto begin = std::chrono::steady_clock::now();
  Mutator mutator(options.seed);
  uint64_t num_runs = num_given;
  for (; num_runs < options.num_runs; ++num_runs) {
    const auto passed = std::chrono::steady_clock::now() - begin;
    if (std::chrono::duration_cast<std::chrono::seconds>(passed).count() >= static_cast<int64_t>(std::min<uint64_t>(
            options.num_seconds, INT64_MAX))) {
      break;
    }
    const size_t before = num_reached.load();
    const Bytes& from = inputs[mutator.below(inputs.size())];
    Bytes input = mutator.mutate(from, inputs[mutator.below(inputs.size())]);
    run(input);
    if (num_reached.load() > before) inputs.push_back(std::move(input));
  }
  std::printf("%llu runs, %zu places reached, %zu inputs kept of %zu given\n",
              static_cast<unsigned long long>(num_runs), num_reached.load(), inputs.size(), num_given);
  return 0;
}
