#include "sweep/sweep.hpp"

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#include "core/buffer.hpp"
#include "core/parallel.hpp"
#include "sweep/sweep_kernels.hpp"

namespace ghnfast {
namespace {

SweepKernels<float> kernels_for(float) { return GHNFAST_DISPATCH(sweep_kernels_float()); }
SweepKernels<double> kernels_for(double) { return GHNFAST_DISPATCH(sweep_kernels_double()); }

// A PackedSweep and the memory that it points to.
template <typename T>
class Packed {
 public:
  Packed(const SweepPointers<const T>& weights, int cutoff, bool backward)
      : backward_(backward),
        direct_hidden_(padded<T>(weights.direct.hidden)),
        virtual_hidden_(padded<T>(weights.virtual_edges.hidden)),
        width_(padded<T>(weights.hid)),
        memory_(elements(weights)) {
    const auto& direct = weights.direct;
    const auto& far = weights.virtual_edges;
    const int hid = weights.hid;
    sweep.hid = hid;
    sweep.width = width_;
    sweep.direct_hidden = direct_hidden_;
    sweep.first = layer(hid, direct_hidden_ + virtual_hidden_);
    place(sweep.first, 0, direct.weight_1, direct.bias_1, direct.hidden, hid);
    sweep.second_direct = layer(direct.hidden, width_);
    place(sweep.second_direct, 0, direct.weight_2, direct.bias_2, hid, direct.hidden);
    if (far.hidden > 0) {
      place(sweep.first, direct_hidden_, far.weight_1, far.bias_1, far.hidden, hid);
      sweep.second_virtual = layer(far.hidden, width_);
      place(sweep.second_virtual, 0, far.weight_2, far.bias_2, hid, far.hidden);
    }
    sweep.gates_input = layer(hid, 3 * width_);
    sweep.gates_hidden = layer(hid, 3 * width_);
    for (int gate = 0; gate < 3; ++gate) {
      const auto matrix = static_cast<std::int64_t>(gate) * hid * hid;
      place(sweep.gates_input, gate * width_, weights.gru_weight_input + matrix, weights.gru_bias_input + gate * hid,
            hid, hid);
      place(sweep.gates_hidden, gate * width_, weights.gru_weight_hidden + matrix, weights.gru_bias_hidden + gate * hid,
            hid, hid);
    }
    for (int closeness = 1; closeness <= cutoff; ++closeness) {
      sweep.pair_weight[closeness] = T(1) / static_cast<T>(cutoff + 1 - closeness);
    }
  }

  PackedSweep<T> sweep;

 private:
  std::size_t elements(const SweepPointers<const T>& weights) const {
    const int hid = weights.hid;
    const auto of_layer = [this](std::int64_t inputs, std::int64_t width) {
      return width * (inputs + (backward_ ? padded<T>(static_cast<int>(inputs)) : 0) + 1);
    };
    return static_cast<std::size_t>(of_layer(hid, direct_hidden_ + virtual_hidden_) +
                                    of_layer(weights.direct.hidden, width_) +
                                    of_layer(weights.virtual_edges.hidden, width_) + 2 * of_layer(hid, 3 * width_));
  }

  PackedLayer<T> layer(int inputs, int width) {
    PackedLayer<T> made;
    made.inputs = inputs;
    made.width = width;
    made.columns = take(static_cast<std::int64_t>(inputs) * width);
    made.rows = backward_ ? take(static_cast<std::int64_t>(padded<T>(inputs)) * width) : nullptr;
    made.bias = take(width);
    return made;
  }

  T* take(std::int64_t count) {
    T* start = memory_.data() + used_;
    used_ += count;
    return start;
  }

  // Writes a matrix (outputs, inputs) into a layer, at the outputs from `at` on.
  void place(const PackedLayer<T>& to, int at, const T* matrix, const T* bias, int outputs, int inputs) {
    auto* columns = const_cast<T*>(to.columns);
    auto* rows = const_cast<T*>(to.rows);
    const std::int64_t row_width = padded<T>(inputs);
    for (std::int64_t out = 0; out < outputs; ++out) {
      for (std::int64_t in = 0; in < inputs; ++in) {
        columns[in * to.width + at + out] = matrix[out * inputs + in];
      }
      if (backward_) {
        std::copy(matrix + out * inputs, matrix + (out + 1) * inputs, rows + (at + out) * row_width);
      }
    }
    std::copy(bias, bias + outputs, const_cast<T*>(to.bias) + at);
  }

  bool backward_;
  int direct_hidden_, virtual_hidden_, width_;
  Buffer<T> memory_;
  std::int64_t used_ = 0;
};

// Copies between rows of `from_width` and rows of `to_width` elements.
template <typename T>
void copy_rows(const T* from, int from_width, T* to, int to_width, std::int64_t rows) {
  const auto width = static_cast<std::size_t>(std::min(from_width, to_width));
  if (from_width == to_width) {
    std::memcpy(to, from, width * rows * sizeof(T));
    return;
  }
  for (std::int64_t row = 0; row < rows; ++row) {
    std::memcpy(to + row * to_width, from + row * from_width, width * sizeof(T));
  }
}

// The memory of one run over one graph. What a run writes before it reads it is not cleared, for a graph's sweep takes
// little longer than clearing. Where states need no padding, `states` may lie elsewhere.
template <typename T>
struct RunMemory {
  RunMemory(const PackedSweep<T>& sweep, std::int64_t first_node, std::int64_t nodes, bool record, T* own_states)
      : states(own_states == nullptr ? nodes * sweep.width : 0),
        received(nodes * sweep.width),
        direct(nodes * sweep.width, Fill::kNothing),
        far(sweep.second_virtual.width == 0 ? 0 : nodes * sweep.width, Fill::kNothing),
        before(record ? nodes * sweep.width : 0, Fill::kNothing),
        gates((record ? nodes : 1) * 4 * sweep.width, Fill::kNothing),
        hidden((record ? nodes : 1) * sweep.first.width, Fill::kNothing),
        scratch(6 * sweep.width, Fill::kNothing) {
    run.first_node = first_node;
    run.nodes = nodes;
    run.record = record;
    run.states = own_states == nullptr ? states.data() : own_states;
    run.received = received.data();
    run.direct = direct.data();
    run.far = far.data();
    run.before = before.data();
    run.gates = gates.data();
    run.hidden = hidden.data();
    run.scratch = scratch.data();
  }

  Buffer<T> states, received, direct, far, before, gates, hidden, scratch;
  SweepRun<T> run;
};

// What a graph costs, in arbitrary units.
std::int64_t cost_of(const Topology& topology, std::int64_t graph) {
  constexpr std::int64_t kPairsPerNode = 100;  // a node's MLPs and GRU take as long as this many of its messages
  const auto first = topology.graph_offsets[graph], last = topology.graph_offsets[graph + 1];
  const auto* offsets = topology.band_offsets != nullptr ? topology.band_offsets : topology.edge_offsets;
  return (last - first) * kPairsPerNode + offsets[last] - offsets[first];
}

// The graphs in at most `threads` shares of about equal cost; the same ones every time.
std::vector<std::vector<std::int64_t>> shares_of(const Topology& topology, int threads) {
  std::vector<std::int64_t> costs(topology.graphs), order(topology.graphs);
  for (std::int64_t graph = 0; graph < topology.graphs; ++graph) {
    costs[graph] = cost_of(topology, graph);
  }
  std::iota(order.begin(), order.end(), std::int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return costs[a] > costs[b]; });
  const auto count = std::max<std::int64_t>(1, std::min<std::int64_t>(threads, topology.graphs));
  std::vector<std::vector<std::int64_t>> shares(count);
  std::vector<std::int64_t> sums(count, 0);
  for (const auto graph : order) {
    const auto least = std::min_element(sums.begin(), sums.end()) - sums.begin();
    shares[least].push_back(graph);
    sums[least] += costs[graph];
  }
  return shares;
}

// The gradients of packed weights, summed over the graphs of one share.
template <typename T>
struct PackedGradients {
  explicit PackedGradients(const PackedSweep<T>& sweep)
      : first(sweep.first.width * sweep.width),
        first_bias(sweep.first.width),
        second_direct(sweep.width * sweep.direct_hidden),
        second_direct_bias(sweep.width),
        second_virtual(sweep.width * (sweep.first.width - sweep.direct_hidden)),
        second_virtual_bias(sweep.width),
        gates_input(3 * sweep.width * sweep.width),
        gates_input_bias(3 * sweep.width),
        gates_hidden(3 * sweep.width * sweep.width),
        gates_hidden_bias(3 * sweep.width) {}

  void point(SweepGradRun<T>& grads) {
    grads.first = first.data();
    grads.first_bias = first_bias.data();
    grads.second_direct = second_direct.data();
    grads.second_direct_bias = second_direct_bias.data();
    grads.second_virtual = second_virtual.data();
    grads.second_virtual_bias = second_virtual_bias.data();
    grads.gates_input = gates_input.data();
    grads.gates_input_bias = gates_input_bias.data();
    grads.gates_hidden = gates_hidden.data();
    grads.gates_hidden_bias = gates_hidden_bias.data();
  }

  Buffer<T> first, first_bias, second_direct, second_direct_bias, second_virtual, second_virtual_bias, gates_input,
      gates_input_bias, gates_hidden, gates_hidden_bias;
};

// to (outputs, inputs) += the rows of a padded gradient from `at` on.
template <typename T>
void add_gradient(const Buffer<T>& from, const Buffer<T>& from_bias, int at, int outputs, int inputs, T* to,
                  T* to_bias) {
  const std::int64_t row_width = padded<T>(inputs);
  for (std::int64_t out = 0; out < outputs; ++out) {
    for (std::int64_t in = 0; in < inputs; ++in) {
      to[out * inputs + in] += from.data()[(at + out) * row_width + in];
    }
    to_bias[out] += from_bias.data()[at + out];
  }
}

template <typename T>
void add_gradients(const PackedSweep<T>& sweep, const PackedGradients<T>& from, const SweepPointers<T>& to) {
  const int hid = sweep.hid;
  const auto& direct = to.direct;
  const auto& far = to.virtual_edges;
  add_gradient(from.first, from.first_bias, 0, direct.hidden, hid, direct.weight_1, direct.bias_1);
  add_gradient(from.second_direct, from.second_direct_bias, 0, hid, direct.hidden, direct.weight_2, direct.bias_2);
  if (far.hidden > 0) {
    add_gradient(from.first, from.first_bias, sweep.direct_hidden, far.hidden, hid, far.weight_1, far.bias_1);
    add_gradient(from.second_virtual, from.second_virtual_bias, 0, hid, far.hidden, far.weight_2, far.bias_2);
  }
  for (int gate = 0; gate < 3; ++gate) {
    const auto matrix = static_cast<std::int64_t>(gate) * hid * hid;
    add_gradient(from.gates_input, from.gates_input_bias, gate * sweep.width, hid, hid, to.gru_weight_input + matrix,
                 to.gru_bias_input + gate * hid);
    add_gradient(from.gates_hidden, from.gates_hidden_bias, gate * sweep.width, hid, hid, to.gru_weight_hidden + matrix,
                 to.gru_bias_hidden + gate * hid);
  }
}

template <typename T>
void sweep_graph(const Topology& topology, const PackedSweep<T>& sweep, std::int64_t graph, const T* states,
                 T* result) {
  const auto first = topology.graph_offsets[graph], nodes = topology.graph_offsets[graph + 1] - first;
  const auto kernels = kernels_for(T{});
  T* own_result = result + first * sweep.hid;
  RunMemory<T> memory(sweep, first, nodes, false, sweep.hid == sweep.width ? own_result : nullptr);
  copy_rows(states + first * sweep.hid, sweep.hid, memory.run.states, sweep.width, nodes);
  kernels.run(topology, sweep, memory.run, false);
  memory.received.clear();
  kernels.run(topology, sweep, memory.run, true);
  if (memory.run.states != own_result) {
    copy_rows<T>(memory.run.states, sweep.width, own_result, sweep.hid, nodes);
  }
}

template <typename T>
void sweep_graph_backward(const Topology& topology, const PackedSweep<T>& sweep, std::int64_t graph, const T* states,
                          const T* grad_result, T* grad_states, PackedGradients<T>& gradients) {
  const auto first = topology.graph_offsets[graph], nodes = topology.graph_offsets[graph + 1] - first;
  const auto offset = first * sweep.hid;
  const auto kernels = kernels_for(T{});
  RunMemory<T> forward(sweep, first, nodes, true, nullptr), reverse(sweep, first, nodes, true, nullptr);
  copy_rows(states + offset, sweep.hid, forward.run.states, sweep.width, nodes);
  kernels.run(topology, sweep, forward.run, false);
  copy_rows<T>(forward.run.states, sweep.width, reverse.run.states, sweep.width, nodes);
  kernels.run(topology, sweep, reverse.run, true);

  Buffer<T> grad(nodes * sweep.width), grad_received(nodes * sweep.width), grad_direct(nodes * sweep.width),
      grad_far(nodes * sweep.width), grad_hidden(nodes * sweep.first.width, Fill::kNothing),
      grad_gates(nodes * 6 * sweep.width, Fill::kNothing);
  SweepGradRun<T> grads;
  grads.grad_states = grad.data();
  grads.grad_received = grad_received.data();
  grads.grad_direct = grad_direct.data();
  grads.grad_far = grad_far.data();
  grads.grad_hidden = grad_hidden.data();
  grads.grad_gates = grad_gates.data();
  gradients.point(grads);
  copy_rows(grad_result + offset, sweep.hid, grad.data(), sweep.width, nodes);
  kernels.run_backward(topology, sweep, reverse.run, grads, true);
  grad_direct.clear();
  grad_far.clear();
  kernels.run_backward(topology, sweep, forward.run, grads, false);
  copy_rows<T>(grad.data(), sweep.width, grad_states + offset, sweep.hid, nodes);
}

}  // namespace

template <typename T>
void gated_sweep(const Topology& topology, const SweepPointers<const T>& weights, const T* states, T* result,
                 int threads) {
  const auto packed = std::make_unique<Packed<T>>(weights, topology.cutoff, false);
  const auto shares = shares_of(topology, threads);
  parallel_for(static_cast<std::int64_t>(shares.size()), threads, [&](std::int64_t share) {
    for (const auto graph : shares[share]) {
      sweep_graph(topology, packed->sweep, graph, states, result);
    }
  });
}

template <typename T>
void gated_sweep_backward(const Topology& topology, const SweepPointers<const T>& weights, const T* states,
                          const T* grad_result, T* grad_states, const SweepPointers<T>& grad_weights, int threads) {
  const auto packed = std::make_unique<Packed<T>>(weights, topology.cutoff, true);
  const auto shares = shares_of(topology, threads);
  std::vector<std::unique_ptr<PackedGradients<T>>> gradients(shares.size());
  parallel_for(static_cast<std::int64_t>(shares.size()), threads, [&](std::int64_t share) {
    gradients[share] = std::make_unique<PackedGradients<T>>(packed->sweep);
    for (const auto graph : shares[share]) {
      sweep_graph_backward(topology, packed->sweep, graph, states, grad_result, grad_states, *gradients[share]);
    }
  });
  for (const auto& share : gradients) {
    add_gradients(packed->sweep, *share, grad_weights);
  }
}

template void gated_sweep(const Topology&, const SweepPointers<const float>&, const float*, float*, int);
template void gated_sweep(const Topology&, const SweepPointers<const double>&, const double*, double*, int);
template void gated_sweep_backward(const Topology&, const SweepPointers<const float>&, const float*, const float*,
                                   float*, const SweepPointers<float>&, int);
template void gated_sweep_backward(const Topology&, const SweepPointers<const double>&, const double*, const double*,
                                   double*, const SweepPointers<double>&, int);

}  // namespace ghnfast
