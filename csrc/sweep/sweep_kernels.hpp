// What the instruction-set specific part of the sweep works on: padded copies of weights and states.
#pragma once

#include <cstdint>

#include "core/isa.hpp"
#include "sweep/sweep.hpp"

namespace ghnfast {

// Widths are padded to 64 bytes with zeros, so that every row is whole vectors of any instruction set.
template <typename T>
constexpr int padded(int size) {
  constexpr int unit = 64 / static_cast<int>(sizeof(T));
  return (size + unit - 1) / unit * unit;
}

// A linear layer: `columns` is (in, padded out), `rows` is (padded out, padded in), both of the same matrix; the second
// is there for the backward pass only.
template <typename T>
struct PackedLayer {
  int inputs = 0;
  int width = 0;  // padded out
  const T* columns = nullptr;
  const T* rows = nullptr;
  const T* bias = nullptr;  // padded out
};

template <typename T>
struct PackedSweep {
  int hid = 0;
  int width = 0;  // padded hid
  // The first layers of both MLPs are one layer; the virtual edges' hidden units start at `direct_hidden`.
  PackedLayer<T> first;
  PackedLayer<T> second_direct;
  PackedLayer<T> second_virtual;  // width == 0: no virtual edges
  int direct_hidden = 0;          // padded
  PackedLayer<T> gates_input;     // reset, update and new gate, each padded on its own
  PackedLayer<T> gates_hidden;
  T pair_weight[256] = {};  // per closeness: 1 / distance, or 0 where there is no path
};

// The state of one graph in one sweep. Rows are `width` elements; `before`, `gates` and `hidden` keep one row per node
// where `record` is set and are scratch of one row where it is not.
template <typename T>
struct SweepRun {
  std::int64_t first_node = 0;
  std::int64_t nodes = 0;
  bool record = false;
  T* states = nullptr;    // (nodes, width): in and out
  T* received = nullptr;  // (nodes, width): m_v; zero at the start
  T* direct = nullptr;    // (nodes, width): messages along edges
  T* far = nullptr;       // (nodes, width): messages along shortest paths, before they are divided by the distance
  T* before = nullptr;    // (nodes, width): the states that were read
  T* gates = nullptr;     // (nodes, 4, width): reset, update, new, and the hidden part of new
  T* hidden = nullptr;    // (nodes, first.width): hidden units of both MLPs
  T* scratch = nullptr;   // (6, width)
};

// What the backward pass of a run needs and gives besides the run itself.
template <typename T>
struct SweepGradRun {
  T* grad_states = nullptr;    // (nodes, width): of the states after, in; of those before, out
  T* grad_received = nullptr;  // (nodes, width)
  T* grad_direct = nullptr;    // (nodes, width): of the messages; zero at the start
  T* grad_far = nullptr;       // (nodes, width): likewise
  T* grad_hidden = nullptr;    // (nodes, first.width)
  T* grad_gates = nullptr;     // (nodes, 6, width): what entered the gates from the input, and from the hidden state
  // Gradients of the packed layers, (padded out, padded in) and (padded out), added to.
  T *first = nullptr, *first_bias = nullptr;
  T *second_direct = nullptr, *second_direct_bias = nullptr;
  T *second_virtual = nullptr, *second_virtual_bias = nullptr;
  T *gates_input = nullptr, *gates_input_bias = nullptr;
  T *gates_hidden = nullptr, *gates_hidden_bias = nullptr;
};

template <typename T>
struct SweepKernels {
  void (*run)(const Topology&, const PackedSweep<T>&, const SweepRun<T>&, bool reverse);
  void (*run_backward)(const Topology&, const PackedSweep<T>&, const SweepRun<T>&, const SweepGradRun<T>&,
                       bool reverse);
};

#define GHNFAST_DECLARE_KERNELS(isa)           \
  namespace isa {                              \
  SweepKernels<float> sweep_kernels_float();   \
  SweepKernels<double> sweep_kernels_double(); \
  }
GHNFAST_FOR_EACH_ISA(GHNFAST_DECLARE_KERNELS)
#undef GHNFAST_DECLARE_KERNELS

}  // namespace ghnfast
