// What the graphs of a split's networks are like.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "deepnets/sampling.hpp"

namespace ghnfast {

// The mean distance of two nodes that are connected where edges (from, to, from, to, ...) are walked in both
// directions: all pairs at once, one bit each.
double mean_path(std::size_t nodes, const std::vector<std::int32_t>& edges);

// Sums over the graphs of networks [begin, end) of a split.
struct GraphStatistics {
  std::int64_t graphs = 0, without_norm = 0;
  std::int64_t nodes_least = 0, nodes_most = 0, cells_least = 0, cells_most = 0, channels_least = 0, channels_most = 0;
  std::int64_t parameters_least = 0, parameters_most = 0;
  std::array<std::int64_t, 15> primitives{};
  double degree = 0, degree_squares = 0, path = 0, path_squares = 0;
};

GraphStatistics statistics(Split split, std::uint64_t seed, std::uint64_t begin, std::uint64_t end,
                           const TrainingRanges& ranges, int threads);

}  // namespace ghnfast
