#include "core/memory.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>

namespace ghnfast {
namespace {

// Whether the system itself can write single bytes: through a pipe, which it writes them to first.
bool accepts_its_own_bytes(char* first, char* last, std::int64_t step) {
  int ends[2];
  if (pipe(ends) != 0) {
    return true;  // nobody can tell
  }
  bool fine = write(ends[1], last, 1) == 1 && read(ends[0], last, 1) == 1;
  for (char* at = first; fine && at < last; at += step) {
    fine = write(ends[1], at, 1) == 1 && read(ends[0], at, 1) == 1;
  }
  close(ends[0]);
  close(ends[1]);
  return fine;
}

}  // namespace

bool is_writable(std::int64_t address, std::int64_t bytes) {
  if (bytes <= 0) {
    return true;
  }
  if (address < 0 || bytes > std::numeric_limits<std::int64_t>::max() - address) {
    return false;
  }
  const std::int64_t page = sysconf(_SC_PAGESIZE), start = address / page * page, end = address + bytes;
  // "Prefault page tables writable, without writing": of Linux 5.14, younger than the headers of some.
  constexpr int kPopulateWrite = 23;
  int result;
  do {
    result = madvise(reinterpret_cast<void*>(start), static_cast<std::size_t>(end - start), kPopulateWrite);
  } while (result != 0 && (errno == EINTR || errno == EAGAIN));
  if (result == 0) {
    return true;
  }
  if (errno != EINVAL) {
    return false;
  }
  // The memory cannot be written, or the system does not know the question.
  auto* const first = reinterpret_cast<char*>(address);
  return accepts_its_own_bytes(first, first + bytes - 1, page);
}

std::vector<std::vector<std::int64_t>> overlapping(const std::vector<TensorMemory>& memory) {
  std::vector<std::int64_t> order(memory.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return memory[a].address < memory[b].address; });
  std::vector<std::vector<std::int64_t>> groups;
  std::vector<std::int64_t> group;
  std::int64_t end = 0;
  const auto close = [&] {
    if (group.size() > 1) {
      groups.push_back(group);
    }
    group.clear();
  };
  for (const auto index : order) {
    const auto address = memory[index].address, bytes = memory[index].bytes;
    if (address < 0 || bytes <= 0) {
      continue;
    }
    if (bytes > std::numeric_limits<std::int64_t>::max() - address) {
      throw std::invalid_argument("memory at " + std::to_string(address) + " has " + std::to_string(bytes) +
                                  " bytes, beyond all addresses");
    }
    if (address >= end) {
      close();
    }
    group.push_back(index);
    end = std::max(end, address + bytes);
  }
  close();
  return groups;
}

}  // namespace ghnfast
