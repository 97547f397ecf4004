// Targets and where they lie as tables, checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "decode/decode.hpp"
#include "python/arrays.hpp"
#include "python/tables.hpp"

namespace ghnfast::python {

// The rows of a table, checked.
inline std::vector<DecodeTarget> decode_targets(const Table<DecodeTarget>& table) {
  for (const auto& target : table) {
    to_enum<TargetKind>(static_cast<std::int64_t>(target.kind), "a target is of kind ");
  }
  return {table.begin(), table.end()};
}

inline std::vector<DecodeMemory> decode_memory(const Table<DecodeMemory>& table, std::size_t targets) {
  if (table.size() != targets) {
    throw std::invalid_argument("there are " + std::to_string(targets) + " targets and memory for " +
                                std::to_string(table.size()) + "; as many are accepted");
  }
  for (std::size_t index = 0; index < targets; ++index) {
    to_enum<Element>(static_cast<std::int64_t>(table[index].element), "an element type is ");
    if (table[index].address == 0) {
      throw std::invalid_argument("target " + std::to_string(index) + " has no memory");
    }
  }
  return {table.begin(), table.end()};
}

// A function of Python's, which takes the interpreter's lock; empty for None. The function has to stay.
inline std::function<void()> callback(const py::object& function) {
  if (function.is_none()) {
    return {};
  }
  return [&function] {
    const py::gil_scoped_acquire acquired;
    function();
  };
}

}  // namespace ghnfast::python
