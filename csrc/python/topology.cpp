#include "python/topology.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace ghnfast::python {

TopologyArrays::TopologyArrays(Int64Array graph_offsets, Int64Array edge_offsets, Int32Array edge_sources,
                               Int32Array band_starts, Int64Array band_offsets, UInt8Array closeness, int cutoff)
    : graph_offsets_(std::move(graph_offsets)),
      edge_offsets_(std::move(edge_offsets)),
      edge_sources_(std::move(edge_sources)),
      band_starts_(std::move(band_starts)),
      band_offsets_(std::move(band_offsets)),
      closeness_(std::move(closeness)) {
  check_offsets(graph_offsets_, "graph_offsets", edge_offsets_.size() - 1);
  check_offsets(edge_offsets_, "edge_offsets", edge_sources_.size());
  check_flat(edge_sources_.ndim(), "edge_sources");
  check_flat(band_starts_.ndim(), "band_starts");
  check_flat(closeness_.ndim(), "closeness");
  if (cutoff < 1 || cutoff > 255) {
    throw std::invalid_argument("the cutoff is " + std::to_string(cutoff) + " hops; it must be 1 to 255");
  }
  topology.graphs = graph_offsets_.size() - 1;
  topology.graph_offsets = graph_offsets_.data();
  topology.edge_offsets = edge_offsets_.data();
  topology.edge_sources = edge_sources_.data();
  topology.cutoff = cutoff;
  if (band_offsets_.size() > 0) {
    check_offsets(band_offsets_, "band_offsets", closeness_.size());
    if (band_starts_.size() != nodes() || band_offsets_.size() != nodes() + 1) {
      throw std::invalid_argument("band_starts and band_offsets do not fit the number of nodes");
    }
    topology.band_starts = band_starts_.data();
    topology.band_offsets = band_offsets_.data();
    topology.closeness = closeness_.data();
  }
  check_nodes();
}

// Every node receives from earlier nodes of its own graph.
void TopologyArrays::check_nodes() const {
  for (std::int64_t graph = 0; graph < topology.graphs; ++graph) {
    const auto first = topology.graph_offsets[graph];
    for (auto node = first; node < topology.graph_offsets[graph + 1]; ++node) {
      const auto* begin = topology.edge_sources + topology.edge_offsets[node];
      const auto* end = topology.edge_sources + topology.edge_offsets[node + 1];
      bool fine = std::all_of(begin, end, [&](std::int64_t source) { return source >= first && source < node; });
      if (topology.band_offsets != nullptr) {
        const auto size = topology.band_offsets[node + 1] - topology.band_offsets[node];
        fine &= topology.band_starts[node] >= first && topology.band_starts[node] + size == node;
      }
      if (!fine) {
        throw std::invalid_argument("node " + std::to_string(node) + " receives from a node that is not earlier");
      }
    }
  }
  std::uint8_t most = 0;
  for (py::ssize_t index = 0; index < closeness_.size(); ++index) {
    most = std::max(most, closeness_.data()[index]);
  }
  if (most > topology.cutoff) {
    throw std::invalid_argument("a closeness is above the cutoff");
  }
}

}  // namespace ghnfast::python
