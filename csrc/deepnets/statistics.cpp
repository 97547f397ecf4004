#include "deepnets/statistics.hpp"

#include <algorithm>
#include <bitset>
#include <limits>
#include <vector>

#include "core/parallel.hpp"

namespace ghnfast {

double mean_path(std::size_t nodes, const std::vector<std::int32_t>& edges) {
  const auto words = (nodes + 63) / 64;
  std::vector<std::uint64_t> near(nodes * words), next;  // per node: the nodes within so many steps
  for (std::size_t node = 0; node < nodes; ++node) {
    near[node * words + node / 64] |= std::uint64_t{1} << (node % 64);
  }
  std::int64_t hops = 0, pairs = 0;
  for (std::int64_t step = 1, found = 1; found > 0; ++step) {
    next = near;
    for (std::size_t edge = 0; edge < edges.size(); edge += 2) {
      const auto from = edges[edge] * words, to = edges[edge + 1] * words;
      for (std::size_t word = 0; word < words; ++word) {
        next[from + word] |= near[to + word];
        next[to + word] |= near[from + word];
      }
    }
    found = 0;
    for (std::size_t word = 0; word < next.size(); ++word) {
      found += static_cast<std::int64_t>(std::bitset<64>(next[word] ^ near[word]).count());
    }
    hops += step * found;
    pairs += found;
    near.swap(next);
  }
  return pairs == 0 ? 0.0 : static_cast<double>(hops) / static_cast<double>(pairs);
}

namespace {

void widen(std::int64_t& least, std::int64_t& most, std::int64_t value) {
  least = std::min(least, value);
  most = std::max(most, value);
}

GraphStatistics of_nothing() {
  GraphStatistics found;
  found.nodes_least = found.cells_least = found.channels_least = found.parameters_least =
      std::numeric_limits<std::int64_t>::max();
  return found;
}

void add(GraphStatistics& to, const NetworkSettings& settings) {
  const auto trace = describe(settings, false);
  const auto graph = build_graph(trace.operations);
  const auto nodes = static_cast<std::int64_t>(graph.operations.size());
  ++to.graphs;
  widen(to.nodes_least, to.nodes_most, nodes);
  widen(to.cells_least, to.cells_most, settings.cells);
  widen(to.channels_least, to.channels_most, settings.channels);
  widen(to.parameters_least, to.parameters_most, trace.elements);
  for (const auto primitive : graph.primitives) {
    ++to.primitives[primitive];
  }
  const auto normed = static_cast<std::int8_t>(Kind::kBn);
  to.without_norm += std::count(graph.primitives.begin(), graph.primitives.end(), normed) == 0;
  const double degree = static_cast<double>(graph.edges.size()) / static_cast<double>(nodes);  // edges are pairs
  const double path = mean_path(graph.operations.size(), graph.edges);
  to.degree += degree;
  to.degree_squares += degree * degree;
  to.path += path;
  to.path_squares += path * path;
}

void merge(GraphStatistics& to, const GraphStatistics& from) {
  to.graphs += from.graphs;
  to.without_norm += from.without_norm;
  widen(to.nodes_least, to.nodes_most, from.nodes_least);
  widen(to.nodes_least, to.nodes_most, from.nodes_most);
  widen(to.cells_least, to.cells_most, from.cells_least);
  widen(to.cells_least, to.cells_most, from.cells_most);
  widen(to.channels_least, to.channels_most, from.channels_least);
  widen(to.channels_least, to.channels_most, from.channels_most);
  widen(to.parameters_least, to.parameters_most, from.parameters_least);
  widen(to.parameters_least, to.parameters_most, from.parameters_most);
  for (std::size_t primitive = 0; primitive < to.primitives.size(); ++primitive) {
    to.primitives[primitive] += from.primitives[primitive];
  }
  to.degree += from.degree;
  to.degree_squares += from.degree_squares;
  to.path += from.path;
  to.path_squares += from.path_squares;
}

}  // namespace

GraphStatistics statistics(Split split, std::uint64_t seed, std::uint64_t begin, std::uint64_t end,
                           const TrainingRanges& ranges, int threads) {
  constexpr std::uint64_t kChunk = 64;
  auto found = of_nothing();
  std::vector<GraphStatistics> parts((end - begin + kChunk - 1) / kChunk, of_nothing());
  parallel_for(static_cast<std::int64_t>(parts.size()), threads, [&](std::int64_t part) {
    const auto first = begin + static_cast<std::uint64_t>(part) * kChunk;
    for (auto index = first; index < std::min(end, first + kChunk); ++index) {
      add(parts[part], sample(split, seed, index, ranges, false).settings);
    }
  });
  for (const auto& part : parts) {  // in order, so that the sums do not depend on the number of threads
    merge(found, part);
  }
  return found;
}

}  // namespace ghnfast
