// The graphs of a split's networks, side by side.
#pragma once

#include <cstdint>
#include <vector>

#include "deepnets/sampling.hpp"

namespace ghnfast {

// Graphs side by side; nodes are numbered through.
struct SampledGraphs {
  std::vector<std::int64_t> offsets;  // graphs + 1: graph g has the nodes [offsets[g], offsets[g + 1])
  std::vector<std::int8_t> primitives;
  std::vector<std::int32_t> levels;    // of each node in its graph
  std::vector<std::int64_t> shapes;    // (nodes, 4): for the shape embedding; -1 where there is none
  std::vector<std::int32_t> edges;     // from, to, from, to, ...: sorted by target
  std::vector<std::int64_t> elements;  // of each graph: of the parameters that have a node
};

// The graphs of networks [begin, end) of a split.
SampledGraphs sample_graphs(Split split, std::uint64_t seed, std::uint64_t begin, std::uint64_t end,
                            const TrainingRanges& ranges, int num_classes, bool large_images, int threads);

}  // namespace ghnfast
