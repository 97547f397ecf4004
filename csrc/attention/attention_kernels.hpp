// What the instruction-set specific part of attention works on: copies of queries, keys and values, heads side by side.
//
// The heads of a node fill a vector, and where there are too few, those of several nodes do: lane g * held + a has head
// a of node g. So a product of a query and a key, the bias of a pair, its exponential and its share of the values are
// operations on vectors without any exchange between lanes; and the bias of a pair is one load.
#pragma once

#include <cstdint>

#include "core/isa.hpp"

namespace ghnfast {

// Heads that lie side by side in a vector; the lanes of the last ones may be empty.
struct HeadGroup {
  int first = 0;
  int count = 0;
  int held = 1;  // lanes for them: a power of two
};

// How a number of vectors a node is laid out. Blocks of `at_once` vectors are (width, at_once, lanes).
struct VectorLayout {
  HeadGroup group;
  int width = 0;
  int at_once = 0;
  bool spread = false;  // whether the nodes of a vector are different ones, or all the same
};

// One graph and one group of its heads. Logits are in units of ln 2.
template <typename T>
struct PackedGraph {
  std::int64_t nodes = 0;
  int width = 0;
  HeadGroup group;
  int kinds = 0;
  const T* keys = nullptr;    // spread
  const T* values = nullptr;  // spread
  const T* table = nullptr;   // (kinds + 1, held): the bias; minus infinity at last, for nodes beyond the last one
  const std::uint8_t* codes = nullptr;  // (nodes, nodes)
};

// Rows of a graph, from `first` on: in vectors that are not spread, in blocks of `AttentionKernels::rows`.
template <typename T>
struct AttentionRows {
  std::int64_t first = 0;
  std::int64_t count = 0;
  const T* queries = nullptr;  // (blocks, width, rows, lanes), scaled
};

template <typename T>
struct AttentionRun {
  AttentionRows<T> rows;
  T* sums = nullptr;    // (blocks, width, rows, lanes)
  T* most = nullptr;    // (blocks, rows, lanes): the largest logit
  T* totals = nullptr;  // (blocks, rows, lanes): the sum of exponentials
  T* logits = nullptr;  // (panels at once, rows, vectors, lanes)
};

template <typename T>
struct AttentionGradRun {
  AttentionRows<T> rows;
  const T* grads = nullptr;     // (blocks, width, rows, lanes): of the result
  const T* log_sums = nullptr;  // (blocks, 1, rows, lanes), in units of ln 2
  const T* deltas = nullptr;    // (blocks, 1, rows, lanes): the products of result and gradient
  // Added to:
  T* grad_queries = nullptr;  // (blocks, width, rows, lanes)
  T* grad_keys = nullptr;     // spread
  T* grad_values = nullptr;   // spread
  T* grad_table = nullptr;    // (rows, kinds + 1, held)
};

template <typename T>
struct AttentionKernels {
  int lanes;
  int rows;     // of a block of rows
  int vectors;  // of a panel: a block of spread vectors
  int panels;   // at once
  // Between (nodes, heads, width), of which rows are `stride` apart, and vectors. Unpacking adds what the lanes of a
  // node hold that are not spread.
  void (*pack)(const VectorLayout&, const T* from, std::int64_t stride, std::int64_t nodes, T factor, T* to);
  void (*unpack)(const VectorLayout&, const T* from, std::int64_t nodes, T factor, T* to, std::int64_t stride);
  // `result` is that of the first row, of all heads, `stride` elements a row; `log_sums` has `heads` a row, or is null.
  void (*forward)(const PackedGraph<T>&, const AttentionRun<T>&);
  void (*finish)(const PackedGraph<T>&, const AttentionRun<T>&, T* result, std::int64_t stride, T* log_sums,
                 std::int64_t heads);
  void (*backward)(const PackedGraph<T>&, const AttentionGradRun<T>&);
};

#define GHNFAST_DECLARE_KERNELS(isa)                   \
  namespace isa {                                      \
  AttentionKernels<float> attention_kernels_float();   \
  AttentionKernels<double> attention_kernels_double(); \
  }
GHNFAST_FOR_EACH_ISA(GHNFAST_DECLARE_KERNELS)
#undef GHNFAST_DECLARE_KERNELS

}  // namespace ghnfast
