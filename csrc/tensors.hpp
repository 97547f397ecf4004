// What C++ needs to know of torch's tensors, asked through Python: the extension does not depend on torch's binaries.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <vector>

namespace ghnfast {

// For each tensor (or None) its address and the index of its dtype in `dtypes`, where it is a torch.Tensor or Parameter
// and not of another class, dense, contiguous, in the memory of the CPU, and of the shape that is given for it; else
// -1 and -1.
std::vector<std::int64_t> inspect_tensors(const pybind11::list& tensors, const pybind11::list& shapes,
                                          const pybind11::tuple& dtypes);

}  // namespace ghnfast
