#include "attention/relations.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "core/parallel.hpp"

namespace ghnfast {
namespace {

// Rows that are transposed at once: a square of them stays in the nearest cache.
constexpr std::int64_t kSquare = 64;

// The codes of a node's pairs with the nodes of its band.
void fill_backward(const std::uint8_t* closeness, std::int64_t size, int cutoff, int reach, std::uint8_t* to) {
  const int highest = cutoff + 1 + reach, least = cutoff + 1 - reach;  // closeness at `reach` hops
  for (std::int64_t index = 0; index < size; ++index) {
    const int value = closeness[index];
    to[index] = static_cast<std::uint8_t>(value != 0 && value >= least ? highest - value : 0);
  }
}

// What the first node is to the second, from what the second is to the first.
void fill_forward(std::int64_t nodes, int reach, std::uint8_t* codes) {
  for (std::int64_t row = 0; row < nodes; row += kSquare) {
    const auto last_row = std::min(row + kSquare, nodes);
    for (std::int64_t column = row; column < nodes; column += kSquare) {
      const auto last_column = std::min(column + kSquare, nodes);
      for (auto source = row; source < last_row; ++source) {
        for (auto target = std::max(column, source + 1); target < last_column; ++target) {
          const int back = codes[target * nodes + source];
          codes[source * nodes + target] = static_cast<std::uint8_t>(back != 0 ? back - reach : 0);
        }
      }
    }
  }
}

}  // namespace

std::vector<std::uint8_t> pair_codes(const Topology& topology, int reach, int threads) {
  if (reach < 1 || reach > 127) {
    throw std::invalid_argument("codes are to reach " + std::to_string(reach) + " hops; 1 to 127 are accepted");
  }
  if (topology.band_offsets == nullptr) {
    throw std::invalid_argument("the codes of pairs need the bands of shortest paths");
  }
  std::vector<std::int64_t> starts(topology.graphs + 1, 0);
  for (std::int64_t graph = 0; graph < topology.graphs; ++graph) {
    const auto nodes = topology.graph_offsets[graph + 1] - topology.graph_offsets[graph];
    starts[graph + 1] = starts[graph] + nodes * nodes;
  }
  std::vector<std::uint8_t> codes(starts[topology.graphs]);
  parallel_for(topology.graphs, threads, [&](std::int64_t graph) {
    const auto first = topology.graph_offsets[graph], nodes = topology.graph_offsets[graph + 1] - first;
    auto* const matrix = codes.data() + starts[graph];
    for (std::int64_t node = 0; node < nodes; ++node) {
      const auto begin = topology.band_offsets[first + node], size = topology.band_offsets[first + node + 1] - begin;
      const auto start = topology.band_starts[first + node] - first;
      fill_backward(topology.closeness + begin, size, topology.cutoff, reach, matrix + node * nodes + start);
    }
    fill_forward(nodes, reach, matrix);
  });
  return codes;
}

}  // namespace ghnfast
