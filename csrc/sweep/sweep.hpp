// Gated message passing over architecture graphs, forward and backward.
//
// Source: Graph HyperNetworks (Zhang et al., ICLR 2019), equations 3 and 4, and Parameter Prediction for Unseen Deep
// Architectures (NeurIPS 2021), equation 4. ghnfast/ops/sweep/naive.py has the same in plain PyTorch.
#pragma once

#include <cstdint>

namespace ghnfast {

// Graphs side by side; nodes are numbered through, in topological order within a graph.
struct Topology {
  std::int64_t graphs = 0;
  const std::int64_t* graph_offsets = nullptr;  // graphs + 1: graph g has the nodes [graph_offsets[g], ...[g + 1])
  const std::int64_t* edge_offsets = nullptr;   // nodes + 1: node v has the edges [edge_offsets[v], ...[v + 1])
  const std::int32_t* edge_sources = nullptr;
  // Shortest paths (see HopBands in graph/paths.hpp), or null where there are no virtual edges.
  const std::int32_t* band_starts = nullptr;   // nodes: the first node that reaches v
  const std::int64_t* band_offsets = nullptr;  // nodes + 1
  const std::uint8_t* closeness = nullptr;     // of the nodes band_starts[v], band_starts[v] + 1, ... to v
  int cutoff = 1;
};

// Two linear layers with a ReLU after each: hid -> hidden -> hid. Matrices are (out, in), row-major.
template <typename T>
struct MlpPointers {
  T* weight_1 = nullptr;
  T* bias_1 = nullptr;
  T* weight_2 = nullptr;
  T* bias_2 = nullptr;
  int hidden = 0;
};

// The weights of a sweep, or where their gradients go. `gru` is in the layout of torch.nn.GRUCell.
template <typename T>
struct SweepPointers {
  int hid = 0;
  MlpPointers<T> direct;
  MlpPointers<T> virtual_edges;  // hidden == 0: none
  T* gru_weight_input = nullptr;
  T* gru_weight_hidden = nullptr;
  T* gru_bias_input = nullptr;
  T* gru_bias_hidden = nullptr;
};

// Updates every node once in topological order, then once in reverse. `states` and `result` are (nodes, hid).
template <typename T>
void gated_sweep(const Topology& topology, const SweepPointers<const T>& weights, const T* states, T* result,
                 int threads);

// Gradients of a sweep with respect to `states` and the weights, from the gradient of its result. The forward sweep
// runs again inside, which costs less than keeping what it computes. Equal numbers of threads give equal bits.
template <typename T>
void gated_sweep_backward(const Topology& topology, const SweepPointers<const T>& weights, const T* states,
                          const T* grad_result, T* grad_states, const SweepPointers<T>& grad_weights, int threads);

}  // namespace ghnfast
