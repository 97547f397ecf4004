// Attention of every node of a graph to every node of it, with a bias by distance, forward and backward.
//
// Source: Do Transformers Really Perform Bad for Graph Representation? (Ying et al., NeurIPS 2021), equation 6.
// ghnfast/ops/attention/naive.py has the same in plain PyTorch.
#pragma once

#include <cstdint>

namespace ghnfast {

// The pairs of nodes of graphs side by side, a code each.
struct Relations {
  std::int64_t graphs = 0;
  const std::int64_t* graph_offsets = nullptr;  // graphs + 1: graph g has the nodes [graph_offsets[g], ...[g + 1])
  const std::int64_t* pair_offsets = nullptr;   // graphs + 1: and of `codes` an (n, n) matrix from pair_offsets[g] on
  const std::uint8_t* codes = nullptr;
};

template <typename T>
struct AttentionInputs {
  int heads = 0;
  int width = 0;             // of a head
  int kinds = 0;             // of pairs; every code is less
  const T* qkv = nullptr;    // (nodes, 3, heads, width): queries, keys, values
  const T* table = nullptr;  // (kinds, heads): the bias
};

// result (nodes, heads, width) = softmax over j of (q_i . k_j / sqrt(width) + table[code(i, j)]), times v_j; head by
// head. `log_sums` (nodes, heads) gets the logarithms of the sums of exponentials, if it is not null. Every number of
// threads gives the same bits.
template <typename T>
void attention(const Relations& relations, const AttentionInputs<T>& inputs, T* result, T* log_sums, int threads);

// Gradients of `qkv` and of `table`, from that of the result, and from what the forward pass gave. Equal numbers of
// threads give equal bits.
template <typename T>
void attention_backward(const Relations& relations, const AttentionInputs<T>& inputs, const T* result,
                        const T* log_sums, const T* grad_result, T* grad_qkv, T* grad_table, int threads);

}  // namespace ghnfast
