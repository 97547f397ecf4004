// What C++ needs to know of torch's tensors, asked through Python: the extension does not depend on torch's binaries.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <vector>

namespace ghnfast {

// What is known of a tensor's memory, or -1.
struct TensorMemory {
  std::int64_t address = -1;
  std::int64_t element = -1;  // the index of its dtype, where it lies in the memory of the CPU
  std::int64_t bytes = -1;
};

// The memory of each tensor (or None) that is a torch.Tensor or Parameter and not of another class, dense, contiguous,
// of one of the dtypes and of the shape that is given for it, and whose storage holds all its elements and can be
// written.
std::vector<TensorMemory> inspect_tensors(const pybind11::list& tensors, const pybind11::list& shapes,
                                          const pybind11::tuple& dtypes);

// Whether memory of this process can be written. It keeps its content; what is mapped from a file privately is copied.
bool is_writable(std::int64_t address, std::int64_t bytes);

// Groups of the ranges [address, address + bytes) that are connected by common bytes, two or more in each.
std::vector<std::vector<std::int64_t>> overlapping(const std::vector<std::int64_t>& addresses,
                                                   const std::vector<std::int64_t>& bytes);

}  // namespace ghnfast
