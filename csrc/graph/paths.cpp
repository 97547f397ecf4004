#include "graph/paths.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "core/parallel.hpp"

namespace ghnfast {
namespace {

// The bands of one graph, its nodes numbered from zero; `first` is the number of its first node in the arrays.
HopBands bands_of_graph(std::int64_t first, std::int64_t node_count, const std::vector<std::int64_t>& edge_offsets,
                        const std::vector<std::int32_t>& edge_sources, std::int32_t cutoff) {
  HopBands bands;
  bands.starts.resize(node_count);
  bands.offsets.assign(node_count + 1, 0);
  std::vector<std::uint8_t> row;
  for (std::int64_t node = 0; node < node_count; ++node) {
    const auto edges_from = edge_offsets[first + node], edges_to = edge_offsets[first + node + 1];
    auto start = node;
    for (auto edge = edges_from; edge < edges_to; ++edge) {
      const auto source = edge_sources[edge] - first;
      if (source < 0 || source >= node) {
        throw std::invalid_argument("edge (" + std::to_string(source) + ", " + std::to_string(node) +
                                    ") does not come from an earlier node; edges must follow the nodes' order");
      }
      start = std::min<std::int64_t>({start, source, bands.starts[source]});
    }
    row.assign(node - start, 0);
    for (auto edge = edges_from; edge < edges_to; ++edge) {
      const auto source = edge_sources[edge] - first;
      const auto* of_source = bands.closeness.data() + bands.offsets[source];
      auto* to = row.data() + (bands.starts[source] - start);
      const auto size = source - bands.starts[source];
      for (std::int64_t index = 0; index < size; ++index) {
        // One hop farther than from the source; the nearest of all ways counts.
        const auto farther = static_cast<std::uint8_t>(of_source[index] - (of_source[index] != 0));
        to[index] = std::max(to[index], farther);
      }
      row[source - start] = static_cast<std::uint8_t>(cutoff);
    }
    const auto reached = std::find_if(row.begin(), row.end(), [](std::uint8_t value) { return value != 0; });
    bands.starts[node] = static_cast<std::int32_t>(start + (reached - row.begin()));
    bands.closeness.insert(bands.closeness.end(), reached, row.end());
    bands.offsets[node + 1] = static_cast<std::int64_t>(bands.closeness.size());
  }
  return bands;
}

}  // namespace

HopBands hop_bands(const std::vector<std::int64_t>& graph_offsets, const std::vector<std::int64_t>& edge_offsets,
                   const std::vector<std::int32_t>& edge_sources, std::int32_t cutoff, int threads) {
  if (cutoff < 1 || cutoff > 255) {
    throw std::invalid_argument("the cutoff is " + std::to_string(cutoff) + " hops; it must be 1 to 255");
  }
  const auto graphs = static_cast<std::int64_t>(graph_offsets.size()) - 1;
  std::vector<HopBands> of_graphs(graphs);
  parallel_for(graphs, threads, [&](std::int64_t graph) {
    const auto first = graph_offsets[graph];
    of_graphs[graph] = bands_of_graph(first, graph_offsets[graph + 1] - first, edge_offsets, edge_sources, cutoff);
  });
  HopBands bands;
  bands.offsets.push_back(0);
  for (std::int64_t graph = 0; graph < graphs; ++graph) {
    const auto& part = of_graphs[graph];
    const auto size = bands.offsets.back();
    for (const auto start : part.starts) {
      bands.starts.push_back(static_cast<std::int32_t>(start + graph_offsets[graph]));
    }
    for (std::size_t node = 1; node < part.offsets.size(); ++node) {
      bands.offsets.push_back(size + part.offsets[node]);
    }
    bands.closeness.insert(bands.closeness.end(), part.closeness.begin(), part.closeness.end());
  }
  return bands;
}

HopBands reversed_bands(const HopBands& bands) {
  const auto nodes = static_cast<std::int64_t>(bands.starts.size());
  std::vector<std::int64_t> last(nodes, -1);
  const auto for_each_path = [&](auto&& visit) {
    for (std::int64_t target = 0; target < nodes; ++target) {
      const auto begin = bands.offsets[target], size = bands.offsets[target + 1] - begin;
      const std::int64_t first = bands.starts[target];
      if (first < 0 || first + size > nodes || (size > 0 && first > target)) {
        throw std::invalid_argument("the band of node " + std::to_string(target) + " is out of range");
      }
      for (std::int64_t index = 0; index < size; ++index) {
        if (bands.closeness[begin + index] != 0) {
          visit(first + index, target, bands.closeness[begin + index]);
        }
      }
    }
  };
  for_each_path([&](std::int64_t source, std::int64_t target, std::uint8_t) { last[source] = target; });
  HopBands reversed;
  reversed.offsets.push_back(0);
  for (std::int64_t source = 0; source < nodes; ++source) {
    reversed.starts.push_back(static_cast<std::int32_t>(source + 1));
    reversed.offsets.push_back(reversed.offsets.back() + std::max<std::int64_t>(last[source] - source, 0));
  }
  reversed.closeness.resize(reversed.offsets.back());
  for_each_path([&](std::int64_t source, std::int64_t target, std::uint8_t closeness) {
    if (target <= source) {
      throw std::invalid_argument("a path leads from node " + std::to_string(source) + " to " + std::to_string(target));
    }
    reversed.closeness[reversed.offsets[source] + target - source - 1] = closeness;
  });
  return reversed;
}

}  // namespace ghnfast
