#include "properties/path_sums.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/parallel.hpp"

namespace ghnfast {
namespace {

// The logarithm of the sum of exponentials of several rows, to `to`; `largest` is room for a row.
void add_rows(const std::vector<const double*>& rows, std::int64_t size, double* largest, double* to) {
  std::copy_n(rows[0], size, largest);
  for (std::size_t row = 1; row < rows.size(); ++row) {
    for (std::int64_t at = 0; at < size; ++at) {
      largest[at] = std::max(largest[at], rows[row][at]);
    }
  }
  if (rows.size() == 1) {
    std::copy_n(largest, size, to);
    return;
  }
  std::fill_n(to, size, 0.0);
  for (const auto* row : rows) {
    for (std::int64_t at = 0; at < size; ++at) {
      to[at] += std::exp(row[at] - largest[at]);
    }
  }
  for (std::int64_t at = 0; at < size; ++at) {
    to[at] = largest[at] + std::log(to[at]);
  }
}

void path_sums_of_graph(const Topology& topology, const PathWeights& weights, std::int64_t graph, double* sums) {
  const auto first = topology.graph_offsets[graph], nodes = topology.graph_offsets[graph + 1] - first;
  const auto size = weights.directions;
  if (nodes == 0) {
    std::fill_n(sums, size, 0.0);
    return;
  }
  std::vector<double> to_node(nodes * size), largest(size);
  std::vector<char> has_successor(nodes, 0);
  std::vector<const double*> rows;
  for (std::int64_t node = 0; node < nodes; ++node) {
    const auto begin = topology.edge_offsets[first + node], end = topology.edge_offsets[first + node + 1];
    rows.clear();
    for (auto edge = begin; edge < end; ++edge) {
      const auto source = topology.edge_sources[edge] - first;
      has_successor[source] = 1;
      rows.push_back(to_node.data() + source * size);
    }
    auto* const to = to_node.data() + node * size;
    if (!rows.empty()) {
      add_rows(rows, size, largest.data(), to);
    }
    const auto* const weight = weights.weights + weights.kinds[first + node] * size;
    for (std::int64_t at = 0; at < size; ++at) {
      to[at] += weight[at];
    }
  }
  rows.clear();
  for (std::int64_t node = 0; node < nodes; ++node) {
    if (!has_successor[node]) {
      rows.push_back(to_node.data() + node * size);
    }
  }
  add_rows(rows, size, largest.data(), sums);
}

}  // namespace

void path_sums(const Topology& topology, const PathWeights& weights, double* sums, int threads) {
  parallel_for(topology.graphs, threads, [&](std::int64_t graph) {
    path_sums_of_graph(topology, weights, graph, sums + graph * weights.directions);
  });
}

}  // namespace ghnfast
