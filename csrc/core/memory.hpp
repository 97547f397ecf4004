// The memory of this process: what can be written, and what overlaps.
#pragma once

#include <cstdint>
#include <vector>

namespace ghnfast {

// Whether memory of this process can be written. It keeps its content; what is mapped from a file privately is copied.
bool is_writable(std::int64_t address, std::int64_t bytes);

// Groups of the ranges [address, address + bytes) that are connected by common bytes, two or more in each.
std::vector<std::vector<std::int64_t>> overlapping(const std::vector<std::int64_t>& addresses,
                                                   const std::vector<std::int64_t>& bytes);

}  // namespace ghnfast
