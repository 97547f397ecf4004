// The memory of this process: what can be written, and what overlaps.
#pragma once

#include <cstdint>
#include <vector>

namespace ghnfast {

// What is known of a tensor's memory, or -1. The row of a table.
struct TensorMemory {
  std::int64_t address = -1;
  std::int64_t element = -1;  // the index of its dtype
  std::int64_t bytes = -1;
  std::int64_t device = -1;  // the number of the GPU whose memory it is; -1 for the CPU's
};

// Whether memory of this process can be written. It keeps its content; what is mapped from a file privately is copied.
bool is_writable(std::int64_t address, std::int64_t bytes);

// Groups of tensors that are connected by common bytes, two or more in each; those without memory are in none.
std::vector<std::vector<std::int64_t>> overlapping(const std::vector<TensorMemory>& memory);

}  // namespace ghnfast
