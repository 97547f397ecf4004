#include "sweep/sweep_kernels.hpp"

#include "core/isa.hpp"
#include "core/simd.hpp"
#include "sweep/bands.hpp"
#include "sweep/vectors.hpp"

namespace ghnfast {
namespace GHNFAST_ISA {
namespace {

// h = GRU(m, h).
template <typename T>
inline void update_state(const PackedSweep<T>& sweep, const SweepRun<T>& run, const T* received, T* state, T* gates) {
  const int width = sweep.width;
  T* from_input = run.scratch;
  T* from_hidden = run.scratch + 3 * width;
  apply(sweep.gates_input, received, from_input);
  apply(sweep.gates_hidden, state, from_hidden);
  for (int i = 0; i < width; i += kLanes<T>) {
    const auto reset = sigmoid<T>(load(from_input + i) + load(from_hidden + i));
    const auto update = sigmoid<T>(load(from_input + width + i) + load(from_hidden + width + i));
    const auto hidden_part = load(from_hidden + 2 * width + i);
    const auto fresh = hyperbolic_tangent<T>(load(from_input + 2 * width + i) + reset * hidden_part);
    save(gates + i, reset);
    save(gates + width + i, update);
    save(gates + 2 * width + i, fresh);
    save(gates + 3 * width + i, hidden_part);
    save(state + i, fresh + update * (load(state + i) - fresh));
  }
}

// The messages that a node sends, which depend on its state alone.
template <typename T>
inline void make_messages(const PackedSweep<T>& sweep, const T* state, T* hidden, T* direct, T* far) {
  apply(sweep.first, state, hidden);
  relu(hidden, sweep.first.width);
  apply(sweep.second_direct, hidden, direct);
  relu(direct, sweep.width);
  if (sweep.second_virtual.width != 0) {
    apply(sweep.second_virtual, hidden + sweep.direct_hidden, far);
    relu(far, sweep.width);
  }
}

// A node's own step: its new state, and the messages that it sends.
template <typename T>
inline void visit(const PackedSweep<T>& sweep, const SweepRun<T>& run, std::int64_t node) {
  const int width = sweep.width;
  const auto row = run.record ? node : 0;
  T* state = run.states + node * width;
  if (run.record) {
    for (int i = 0; i < width; i += kLanes<T>) {
      save(run.before + node * width + i, load(state + i));
    }
  }
  update_state(sweep, run, run.received + node * width, state, run.gates + row * 4 * width);
  make_messages(sweep, state, run.hidden + row * sweep.first.width, run.direct + node * width, run.far + node * width);
}

template <typename T>
void run_sweep(const Topology& topology, const PackedSweep<T>& sweep, const SweepRun<T>& run, bool reverse) {
  const int width = sweep.width;
  const bool has_far = sweep.second_virtual.width != 0;
  const auto blocks = (run.nodes + kNodesAtOnce - 1) / kNodesAtOnce;
  for (std::int64_t step = 0; step < blocks; ++step) {
    const auto first = (reverse ? blocks - 1 - step : step) * kNodesAtOnce;
    const auto end = first + kNodesAtOnce < run.nodes ? first + kNodesAtOnce : run.nodes;
    if (!reverse && has_far) {
      exchange_far(topology, sweep, run, first, end, false);
    }
    for (auto at = first; at < end; ++at) {
      const auto node = reverse ? end - 1 - (at - first) : at;
      const auto near = has_far ? part(band_of(topology, run, node), first, node) : Band{};
      if (!reverse) {
        for_each_source(topology, run, node, [&](std::int64_t source) {
          add_scaled(run.received + node * width, run.direct + source * width, T(1), width);
        });
        if (has_far) {
          gather_band(near, sweep, run.far, run.received + node * width);
        }
      }
      visit(sweep, run, node);
      if (reverse) {
        for_each_source(topology, run, node, [&](std::int64_t target) {
          add_scaled(run.received + target * width, run.direct + node * width, T(1), width);
        });
        if (has_far) {
          scatter_band(near, sweep, run.far + node * width, run.received);
        }
      }
    }
    if (reverse && has_far) {
      exchange_far(topology, sweep, run, first, end, true);
    }
  }
}

// Backward ------------------------------------------------------------------------------------------------------------

// to[node] += what the rows of `direct` and `far` of the nodes before it send along edges and shortest paths.
template <typename T>
inline void gather(const Topology& topology, const PackedSweep<T>& sweep, const SweepRun<T>& run, std::int64_t node,
                   const T* direct, T* direct_sum, const T* far, T* far_sum) {
  const int width = sweep.width;
  for_each_source(topology, run, node, [&](std::int64_t source) {
    add_scaled(direct_sum + node * width, direct + source * width, T(1), width);
  });
  if (sweep.second_virtual.width != 0) {
    gather_band(band_of(topology, run, node), sweep, far, far_sum + node * width);
  }
}

// The reverse: the rows of the nodes before += what `node` sends.
template <typename T>
inline void scatter(const Topology& topology, const PackedSweep<T>& sweep, const SweepRun<T>& run, std::int64_t node,
                    const T* direct, T* direct_sum, const T* far, T* far_sum) {
  const int width = sweep.width;
  for_each_source(topology, run, node, [&](std::int64_t target) {
    add_scaled(direct_sum + target * width, direct + node * width, T(1), width);
  });
  if (sweep.second_virtual.width != 0) {
    scatter_band(band_of(topology, run, node), sweep, far + node * width, far_sum);
  }
}

// Zero where a ReLU gave zero.
template <typename T>
inline void mask(T* grad, const T* output, int width) {
  for (int i = 0; i < width; i += kLanes<T>) {
    save(grad + i, load(output + i) > T(0) ? load(grad + i) : Vector<T>{});
  }
}

// Through the MLPs: adds to the gradient of the node's state.
template <typename T>
inline void messages_backward(const PackedSweep<T>& sweep, const SweepRun<T>& run, const SweepGradRun<T>& grads,
                              std::int64_t node) {
  const int width = sweep.width;
  const T* hidden = run.hidden + node * sweep.first.width;
  T* grad_direct = grads.grad_direct + node * width;
  T* grad_far = grads.grad_far + node * width;
  T* grad_hidden = grads.grad_hidden + node * sweep.first.width;
  mask(grad_direct, run.direct + node * width, width);
  apply_transposed(sweep.second_direct, grad_direct, grad_hidden);
  if (sweep.second_virtual.width != 0) {
    mask(grad_far, run.far + node * width, width);
    apply_transposed(sweep.second_virtual, grad_far, grad_hidden + sweep.direct_hidden);
  }
  mask(grad_hidden, hidden, sweep.first.width);
  apply_transposed(sweep.first, grad_hidden, run.scratch);
  add_scaled(grads.grad_states + node * width, run.scratch, T(1), width);
}

// Through the GRU: from the gradient of the new state to those of what the node received and of its old state.
template <typename T>
inline void update_backward(const PackedSweep<T>& sweep, const SweepRun<T>& run, const SweepGradRun<T>& grads,
                            std::int64_t node) {
  const int width = sweep.width;
  const T* gates = run.gates + node * 4 * width;
  const T* before = run.before + node * width;
  T* grad_state = grads.grad_states + node * width;
  T* from_input = grads.grad_gates + node * 6 * width;
  T* from_hidden = from_input + 3 * width;
  for (int i = 0; i < width; i += kLanes<T>) {
    const auto reset = load(gates + i), update = load(gates + width + i), fresh = load(gates + 2 * width + i);
    const auto grad = load(grad_state + i);
    const auto grad_fresh = grad * (T(1) - update) * (T(1) - fresh * fresh);
    const auto grad_update = grad * (load(before + i) - fresh) * update * (T(1) - update);
    const auto grad_reset = grad_fresh * load(gates + 3 * width + i) * reset * (T(1) - reset);
    save(from_input + i, grad_reset);
    save(from_input + width + i, grad_update);
    save(from_input + 2 * width + i, grad_fresh);
    save(from_hidden + i, grad_reset);
    save(from_hidden + width + i, grad_update);
    save(from_hidden + 2 * width + i, grad_fresh * reset);
    save(grad_state + i, grad * update);
  }
  apply_transposed(sweep.gates_input, from_input, grads.grad_received + node * width);
  apply_transposed(sweep.gates_hidden, from_hidden, run.scratch);
  add_scaled(grad_state, run.scratch, T(1), width);
}

// grad_weight[m] += sum over nodes of grad[node][m] * input[node], and the same for the bias with an input of one.
template <typename T>
void add_outer_products(std::int64_t nodes, const T* grad, int grad_stride, int outputs, const T* input,
                        int input_stride, int inputs, T* grad_weight, T* grad_bias) {
  constexpr int rows = 4;  // outputs is a multiple of it: it is padded
  for (int m = 0; m < outputs; m += rows) {
    T bias[rows] = {};
    for (std::int64_t node = 0; node < nodes; ++node) {
      for (int row = 0; row < rows; ++row) {
        bias[row] += grad[node * grad_stride + m + row];
      }
    }
    for (int row = 0; row < rows; ++row) {
      grad_bias[m + row] += bias[row];
    }
    for (int i = 0; i < inputs; i += kLanes<T>) {
      Vector<T> sums[rows] = {};
      for (std::int64_t node = 0; node < nodes; ++node) {
        const auto values = load(input + node * input_stride + i);
        for (int row = 0; row < rows; ++row) {
          sums[row] += grad[node * grad_stride + m + row] * values;
        }
      }
      for (int row = 0; row < rows; ++row) {
        T* to = grad_weight + static_cast<std::int64_t>(m + row) * inputs + i;
        save(to, load(to) + sums[row]);
      }
    }
  }
}

template <typename T>
void weights_backward(const PackedSweep<T>& sweep, const SweepRun<T>& run, const SweepGradRun<T>& grads) {
  const int width = sweep.width;
  const auto nodes = run.nodes;
  add_outer_products(nodes, grads.grad_gates, 6 * width, 3 * width, run.received, width, width, grads.gates_input,
                     grads.gates_input_bias);
  add_outer_products(nodes, grads.grad_gates + 3 * width, 6 * width, 3 * width, run.before, width, width,
                     grads.gates_hidden, grads.gates_hidden_bias);
  add_outer_products(nodes, grads.grad_hidden, sweep.first.width, sweep.first.width, run.states, width, width,
                     grads.first, grads.first_bias);
  add_outer_products(nodes, grads.grad_direct, width, width, run.hidden, sweep.first.width, sweep.direct_hidden,
                     grads.second_direct, grads.second_direct_bias);
  if (sweep.second_virtual.width != 0) {
    add_outer_products(nodes, grads.grad_far, width, width, run.hidden + sweep.direct_hidden, sweep.first.width,
                       sweep.first.width - sweep.direct_hidden, grads.second_virtual, grads.second_virtual_bias);
  }
}

// A node is done when all nodes that it sent messages to are.
template <typename T>
void run_sweep_backward(const Topology& topology, const PackedSweep<T>& sweep, const SweepRun<T>& run,
                        const SweepGradRun<T>& grads, bool reverse) {
  for (std::int64_t step = 0; step < run.nodes; ++step) {
    const auto node = reverse ? step : run.nodes - 1 - step;
    // A message went from a node to those before it in the reverse sweep, whose gradients it gathers; in the forward
    // sweep it came from them.
    const T* grad = grads.grad_received;
    if (reverse) {
      gather<T>(topology, sweep, run, node, grad, grads.grad_direct, grad, grads.grad_far);
    }
    messages_backward(sweep, run, grads, node);
    update_backward(sweep, run, grads, node);
    if (!reverse) {
      scatter<T>(topology, sweep, run, node, grad, grads.grad_direct, grad, grads.grad_far);
    }
  }
  weights_backward(sweep, run, grads);
}

}  // namespace

SweepKernels<float> sweep_kernels_float() { return {&run_sweep<float>, &run_sweep_backward<float>}; }
SweepKernels<double> sweep_kernels_double() { return {&run_sweep<double>, &run_sweep_backward<double>}; }

}  // namespace GHNFAST_ISA
}  // namespace ghnfast
