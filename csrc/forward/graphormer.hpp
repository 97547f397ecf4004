// Graphormer layers (GHN-3): every node of a graph attends to every other one, with a bias by their distances.
//
// Source: Can We Scale Transformers to Predict Parameters of Diverse ImageNet Models? (ICML 2023), section 3.
// ghnfast/nn/graphormer.py has the same in PyTorch.
#pragma once

#include <cstdint>
#include <vector>

#include "attention/attention.hpp"
#include "forward/linear.hpp"
#include "sweep/sweep.hpp"

namespace ghnfast {

// Rows of the tables: degrees and distances from the input beyond the last one count as the last.
constexpr std::int64_t kDegrees = 101, kInputDistances = 1001;
// Rows of the table of edges: for each number of hops, `kNoPath` rows further on.
constexpr std::int64_t kEdgeRows = 257, kNoPath = 2;

// x + out(attention(norm_1(x))), then x + down(gelu(up(norm_2(x)))).
template <typename T>
struct GraphormerLayer {
  Norm<T> norm_1, norm_2;
  Layer<T> qkv, out, up, down;
};

template <typename T>
struct GraphormerPointers {
  const T* degrees_in = nullptr;   // (kDegrees, hid)
  const T* degrees_out = nullptr;  // (kDegrees, hid)
  const T* distances = nullptr;    // (kInputDistances, hid)
  const T* edges = nullptr;        // (kEdgeRows, hid)
  Layer<T> edge_units;             // (hid, 2 hid): of the row for the way there and of that for the way back
  Layer<T> edge_bias;              // (heads, hid)
  std::vector<GraphormerLayer<T>> layers;
};

// Updates `states` (nodes, hid). The codes of `relations` are those of `pair_codes` with a reach of `reach` hops.
template <typename T>
void graphormer(const GraphormerPointers<T>& weights, std::int64_t hid, const Topology& topology,
                const Relations& relations, T* states, int threads);

// The longest paths that codes of pairs tell from no path.
constexpr std::int64_t kReach = 50;

}  // namespace ghnfast
