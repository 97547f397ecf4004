// What the operations of cells are made of: the parameters of each, and what it does with them.
#pragma once

#include <cstdint>

#include "deepnets/network.hpp"
#include "deepnets/recorder.hpp"

namespace ghnfast {

// Adds the parameters of an operation, in the order of its module, and returns the number of the first.
std::int32_t operation_parameters(Recorder& to, Operation operation, std::int64_t channels, int stride);

// What the operation, but for `none`, makes of `x`; `first` is the first of its parameters.
std::int32_t apply(Recorder& to, Operation operation, std::int32_t x, std::int64_t channels, int stride,
                   std::int32_t first);

// The same for what stands before a cell: a ReLU, a convolution and a normalization, and a factorized reduction.
std::int32_t plain_parameters(Recorder& to, std::int64_t inputs, std::int64_t outputs, std::int64_t kernel);
std::int32_t plain(Recorder& to, std::int32_t x, std::int32_t first);
std::int32_t halving_parameters(Recorder& to, std::int64_t inputs, std::int64_t outputs);
std::int32_t halve(Recorder& to, std::int32_t x, std::int32_t first);

}  // namespace ghnfast
