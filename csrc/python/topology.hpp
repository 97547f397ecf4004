// The arrays of a topology, kept alive and checked.
#pragma once

#include <cstdint>

#include "python/arrays.hpp"
#include "sweep/sweep.hpp"

namespace ghnfast::python {

class TopologyArrays {
 public:
  // Throws std::invalid_argument where they do not fit each other, or a node receives from one that is not earlier.
  TopologyArrays(Int64Array graph_offsets, Int64Array edge_offsets, Int32Array edge_sources, Int32Array band_starts,
                 Int64Array band_offsets, UInt8Array closeness, int cutoff);

  std::int64_t nodes() const { return edge_offsets_.size() - 1; }

  Topology topology;

 private:
  void check_nodes() const;

  Int64Array graph_offsets_, edge_offsets_;
  Int32Array edge_sources_, band_starts_;
  Int64Array band_offsets_;
  UInt8Array closeness_;
};

}  // namespace ghnfast::python
