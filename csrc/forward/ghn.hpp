// The forward pass of a GHN up to what decoding reads: embedding, sweep or attention, normalization, and the decoders'
// first layers.
//
// Source: Parameter Prediction for Unseen Deep Architectures (NeurIPS 2021), sections 3.2 and 3.3, appendix B.
// ghnfast/nn has the same in PyTorch.
#pragma once

#include <cstdint>
#include <vector>

#include "attention/attention.hpp"
#include "decode/layout.hpp"
#include "forward/graphormer.hpp"
#include "forward/linear.hpp"
#include "sweep/sweep.hpp"

namespace ghnfast {

// A table of embeddings, and the row of it for each size; the last row is for nodes without a shape.
template <typename T>
struct SizeTable {
  const T* table = nullptr;            // (rows, hid / 4)
  const std::int64_t* rows = nullptr;  // (sizes)
  std::int64_t sizes = 0;
};

template <typename T>
struct GhnPointers {
  std::int64_t hid = 0;
  const T* primitives = nullptr;  // (primitives, hid)
  SizeTable<T> channels, kernels;
  SweepPointers<const T> sweep;      // of a gated sweep, where there is one
  Layer<T> node_mlp[2];              // instead of it, where its weight is not null
  GraphormerPointers<T> graphormer;  // instead of it, where it has layers
  Norm<T> norm;                      // its weight is null where there is none
  // The decoder of kernels: cells (4 hid * size * size, hid), hidden (8 hid, 4 hid), products (rows * columns, 8 hid).
  std::int64_t size = 0, rows = 0, columns = 0;
  bool centred = false;  // whether kernels are read from the middle of the cells, not from their first rows and columns
  Layer<T> cells, hidden, products;
  Layer<T> classes;     // (classes, rows)
  Layer<T> vectors[2];  // the decoder of vectors: (., hid), (2 * vector length, .)
  Layer<T> class_bias;  // (classes, vector length)
};

// States of nodes (nodes, hid) from their primitives and shapes (nodes, 4), -1 where there is none. `relations` are for
// the Graphormer alone.
template <typename T>
void node_states(const GhnPointers<T>& ghn, const Topology& topology, const Relations& relations,
                 const std::int8_t* primitives, const std::int64_t* shapes, std::int64_t nodes, T* states, int threads);

// What the last step of decoding reads. Calls of the decoder kWhole are left to the caller, and the blocks of class
// weights to `class_weights` or `decode_all` (forward/classes.hpp).
//
// hidden: (rows of all kernels, 8 hid), and behind them a row for each class weight.
template <typename T>
void decode_inputs(const GhnPointers<T>& ghn, const T* states, const std::vector<std::int64_t>& nodes,
                   const std::vector<DecoderCall>& calls, T* hidden, T* blocks, int threads);

}  // namespace ghnfast
