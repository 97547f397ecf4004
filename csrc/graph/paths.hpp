// Shortest paths between the nodes of architecture graphs.
#pragma once

#include <cstdint>
#include <vector>

namespace ghnfast {

// Shortest paths between the nodes of a graph: per target v one byte for each of the nodes starts[v], starts[v] + 1,
// ... up to v, at offsets[v] of `closeness`: cutoff + 1 - distance, 0 where there is no path of at most `cutoff` hops.
// In topological order, what reaches a node lies close before it, so that a band holds little else.
struct HopBands {
  std::vector<std::int32_t> starts;   // nodes
  std::vector<std::int64_t> offsets;  // nodes + 1
  std::vector<std::uint8_t> closeness;
};

// Shortest paths of graphs side by side, whose nodes are numbered through: graph g has the nodes [graph_offsets[g],
// graph_offsets[g + 1]) in topological order, node v the edges [edge_offsets[v], edge_offsets[v + 1]) of
// `edge_sources`. `cutoff` is 1 to 255. Throws std::invalid_argument for an edge that does not come from an earlier
// node of the same graph.
HopBands hop_bands(const std::vector<std::int64_t>& graph_offsets, const std::vector<std::int64_t>& edge_offsets,
                   const std::vector<std::int32_t>& edge_sources, std::int32_t cutoff, int threads);

// The same paths, by the node that they come from: per source u one byte for each of the nodes starts[u], starts[u] +
// 1, ... up to the last that a path leads to. Throws std::invalid_argument where a band starts after its target.
HopBands reversed_bands(const HopBands& bands);

}  // namespace ghnfast
