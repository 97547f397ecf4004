// Runs of the numbers of operations.
#pragma once

#include <cstdint>

#include "graph/graph.hpp"

namespace ghnfast {

// A read-only run of integers.
struct Span {
  const std::int32_t* first;
  const std::int32_t* last;
  const std::int32_t* begin() const { return first; }
  const std::int32_t* end() const { return last; }
  std::int32_t size() const { return static_cast<std::int32_t>(last - first); }
};

// What an operation reads.
inline Span inputs_of(const TracedOperations& traced, std::int32_t op) {
  const auto* data = traced.inputs.data();
  return {data + traced.input_offsets[op], data + traced.input_offsets[op + 1]};
}

}  // namespace ghnfast
