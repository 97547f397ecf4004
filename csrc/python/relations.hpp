// The arrays of relations, kept alive and checked.
#pragma once

#include <cstdint>
#include <vector>

#include "attention/attention.hpp"
#include "python/arrays.hpp"

namespace ghnfast::python {

class RelationArrays {
 public:
  // Throws std::invalid_argument where they do not fit each other.
  RelationArrays(Int64Array graph_offsets, UInt8Array codes);

  Relations relations;
  std::int64_t nodes = 0;
  int kinds = 0;  // every code is less

 private:
  Int64Array graph_offsets_;
  UInt8Array codes_;
  std::vector<std::int64_t> pair_offsets_;
};

}  // namespace ghnfast::python
