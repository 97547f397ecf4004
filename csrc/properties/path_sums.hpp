// Sums over all paths through architecture graphs.
#pragma once

#include <cstdint>

#include "sweep/sweep.hpp"

namespace ghnfast {

// What each node weighs: in direction d, weights[kinds[node] * directions + d].
struct PathWeights {
  std::int64_t directions = 0;
  const std::int32_t* kinds = nullptr;
  const double* weights = nullptr;
};

// For each graph and direction the logarithm of a sum over all paths from a node without predecessors to one without
// successors: of exp(the sum of what the path's nodes weigh). `sums` is (graphs, directions); of no nodes it is 0, as
// of one path without weight.
void path_sums(const Topology& topology, const PathWeights& weights, double* sums, int threads);

}  // namespace ghnfast
