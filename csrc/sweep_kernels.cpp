#include "sweep_kernels.hpp"

#include "isa.hpp"
#include "simd.hpp"

namespace ghnfast {
namespace GHNFAST_ISA {
namespace {

// y = bias + sum over k of x[k] * columns[k], for `count` vectors of y.
template <typename T, int count>
inline void matvec_block(const T* columns, int stride, const T* x, int inputs, const T* bias, T* y) {
  Vector<T> sums[count];
  for (int i = 0; i < count; ++i) {
    sums[i] = bias == nullptr ? Vector<T>{} : load(bias + i * kLanes<T>);
  }
  for (int k = 0; k < inputs; ++k) {
    const auto factor = all(x[k]);
    for (int i = 0; i < count; ++i) {
      sums[i] += factor * load(columns + static_cast<std::int64_t>(k) * stride + i * kLanes<T>);
    }
  }
  for (int i = 0; i < count; ++i) {
    save(y + i * kLanes<T>, sums[i]);
  }
}

// The same for any number of whole vectors; the blocks are as many as fit the registers.
template <typename T>
inline void matvec(const T* columns, int width, const T* x, int inputs, const T* bias, T* y) {
  for (int done = 0; done < width;) {
    const int left = (width - done) / kLanes<T>;
    const T* block_bias = bias == nullptr ? nullptr : bias + done;
    if (left >= 8) {
      matvec_block<T, 8>(columns + done, width, x, inputs, block_bias, y + done);
      done += 8 * kLanes<T>;
    } else if (left >= 6) {
      matvec_block<T, 6>(columns + done, width, x, inputs, block_bias, y + done);
      done += 6 * kLanes<T>;
    } else if (left >= 4) {
      matvec_block<T, 4>(columns + done, width, x, inputs, block_bias, y + done);
      done += 4 * kLanes<T>;
    } else if (left >= 2) {
      matvec_block<T, 2>(columns + done, width, x, inputs, block_bias, y + done);
      done += 2 * kLanes<T>;
    } else {
      matvec_block<T, 1>(columns + done, width, x, inputs, block_bias, y + done);
      done += kLanes<T>;
    }
  }
}

template <typename T>
inline void apply(const PackedLayer<T>& layer, const T* x, T* y) {
  matvec(layer.columns, layer.width, x, layer.inputs, layer.bias, y);
}

// y = W^T x.
template <typename T>
inline void apply_transposed(const PackedLayer<T>& layer, const T* x, T* y) {
  matvec<T>(layer.rows, padded<T>(layer.inputs), x, layer.width, nullptr, y);
}

template <typename T>
inline void relu(T* x, int width) {
  for (int i = 0; i < width; i += kLanes<T>) {
    save(x + i, positive_part<T>(load(x + i)));
  }
}

template <typename T>
inline void add_scaled(T* to, const T* from, T factor, int width) {
  for (int i = 0; i < width; i += kLanes<T>) {
    save(to + i, load(to + i) + factor * load(from + i));
  }
}

// Which nodes a node receives from in the forward sweep, and how close they are.
struct Band {
  std::int64_t start;  // within the graph
  std::int64_t size;
  const std::uint8_t* closeness;
};

template <typename T>
inline Band band_of(const Topology& topology, const SweepRun<T>& run, std::int64_t node) {
  const auto global = run.first_node + node;
  const auto offset = topology.band_offsets[global];
  return {topology.band_starts[global] - run.first_node, topology.band_offsets[global + 1] - offset,
          topology.closeness + offset};
}

// The sum of the messages of a band, for `count` vectors of the width.
template <typename T, int count>
inline void gather_block(const Band& band, const PackedSweep<T>& sweep, std::uint8_t adjacent, const T* messages,
                         T* sum) {
  constexpr int chains = count <= 2 ? 4 : 2;  // independent sums hide the latency of the additions
  Vector<T> sums[chains][count] = {};
  const std::int64_t stride = 2 * sweep.width;
  const T* message = messages + band.start * stride;
  std::int64_t index = 0;
  for (; index + chains <= band.size; index += chains) {
    for (int chain = 0; chain < chains; ++chain, message += stride) {
      const auto closeness = band.closeness[index + chain];
      const auto factor = all(sweep.pair_weight[closeness]);
      const T* from = closeness == adjacent ? message : message + sweep.width;
      for (int i = 0; i < count; ++i) {
        sums[chain][i] += factor * load(from + i * kLanes<T>);
      }
    }
  }
  for (; index < band.size; ++index, message += stride) {
    const auto closeness = band.closeness[index];
    const auto factor = all(sweep.pair_weight[closeness]);
    const T* from = closeness == adjacent ? message : message + sweep.width;
    for (int i = 0; i < count; ++i) {
      sums[0][i] += factor * load(from + i * kLanes<T>);
    }
  }
  for (int i = 0; i < count; ++i) {
    auto total = sums[0][i];
    for (int chain = 1; chain < chains; ++chain) {
      total += sums[chain][i];
    }
    save(sum + i * kLanes<T>, total);
  }
}

// received[node] = the messages of the nodes before it.
template <typename T>
inline void gather(const Topology& topology, const PackedSweep<T>& sweep, const SweepRun<T>& run, std::int64_t node) {
  T* sum = run.received + node * sweep.width;
  if (sweep.second_virtual.width == 0) {
    const auto global = run.first_node + node;
    for (auto edge = topology.edge_offsets[global]; edge < topology.edge_offsets[global + 1]; ++edge) {
      const auto source = topology.edge_sources[edge] - run.first_node;
      add_scaled(sum, run.messages + source * 2 * sweep.width, T(1), sweep.width);
    }
    return;
  }
  const auto band = band_of(topology, run, node);
  const auto adjacent = static_cast<std::uint8_t>(topology.cutoff);
  int done = 0;
  for (; done + 4 * kLanes<T> <= sweep.width; done += 4 * kLanes<T>) {
    gather_block<T, 4>(band, sweep, adjacent, run.messages + done, sum + done);
  }
  for (; done + 2 * kLanes<T> <= sweep.width; done += 2 * kLanes<T>) {
    gather_block<T, 2>(band, sweep, adjacent, run.messages + done, sum + done);
  }
  for (; done < sweep.width; done += kLanes<T>) {
    gather_block<T, 1>(band, sweep, adjacent, run.messages + done, sum + done);
  }
}

// received[u] += the message of `node`, for the nodes u before it: the edges reversed.
template <typename T>
inline void scatter(const Topology& topology, const PackedSweep<T>& sweep, const SweepRun<T>& run, std::int64_t node) {
  const T* message = run.messages + node * 2 * sweep.width;
  if (sweep.second_virtual.width == 0) {
    const auto global = run.first_node + node;
    for (auto edge = topology.edge_offsets[global]; edge < topology.edge_offsets[global + 1]; ++edge) {
      const auto target = topology.edge_sources[edge] - run.first_node;
      add_scaled(run.received + target * sweep.width, message, T(1), sweep.width);
    }
    return;
  }
  const auto band = band_of(topology, run, node);
  for (std::int64_t index = 0; index < band.size; ++index) {
    if (const auto closeness = band.closeness[index]) {
      const T* from = closeness == topology.cutoff ? message : message + sweep.width;
      add_scaled(run.received + (band.start + index) * sweep.width, from, sweep.pair_weight[closeness], sweep.width);
    }
  }
}

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
inline void make_messages(const PackedSweep<T>& sweep, const T* state, T* hidden, T* outputs, T* messages) {
  const int width = sweep.width;
  apply(sweep.first, state, hidden);
  relu(hidden, sweep.first.width);
  apply(sweep.second_direct, hidden, outputs);
  relu(outputs, width);
  if (sweep.second_virtual.width == 0) {
    for (int i = 0; i < width; i += kLanes<T>) {
      save(messages + i, load(outputs + i));
    }
    return;
  }
  apply(sweep.second_virtual, hidden + sweep.direct_hidden, outputs + width);
  relu(outputs + width, width);
  for (int i = 0; i < width; i += kLanes<T>) {
    const auto virtual_message = load(outputs + width + i);
    save(messages + i, load(outputs + i) + virtual_message);
    save(messages + width + i, virtual_message);
  }
}

template <typename T>
void run_sweep(const Topology& topology, const PackedSweep<T>& sweep, const SweepRun<T>& run, bool reverse) {
  const int width = sweep.width;
  for (std::int64_t step = 0; step < run.nodes; ++step) {
    const auto node = reverse ? run.nodes - 1 - step : step;
    const auto row = run.record ? node : 0;
    T* state = run.states + node * width;
    if (!reverse) {
      gather(topology, sweep, run, node);
    }
    if (run.record) {
      for (int i = 0; i < width; i += kLanes<T>) {
        save(run.before + node * width + i, load(state + i));
      }
    }
    update_state(sweep, run, run.received + node * width, state, run.gates + row * 4 * width);
    make_messages(sweep, state, run.hidden + row * sweep.first.width, run.outputs + row * 2 * width,
                  run.messages + node * 2 * width);
    if (reverse) {
      scatter(topology, sweep, run, node);
    }
  }
}

// Backward ------------------------------------------------------------------------------------------------------------

// The gradient of a node's messages from those of the sums they went into: the reverse of `gather`, node by node.
template <typename T>
inline void scatter_grad(const Topology& topology, const PackedSweep<T>& sweep, const SweepRun<T>& run,
                         const SweepGradRun<T>& grads, std::int64_t node) {
  const int width = sweep.width;
  const T* grad = grads.grad_received + node * width;
  if (sweep.second_virtual.width == 0) {
    const auto global = run.first_node + node;
    for (auto edge = topology.edge_offsets[global]; edge < topology.edge_offsets[global + 1]; ++edge) {
      add_scaled(grads.grad_outputs + (topology.edge_sources[edge] - run.first_node) * 2 * width, grad, T(1), width);
    }
    return;
  }
  const auto band = band_of(topology, run, node);
  for (std::int64_t index = 0; index < band.size; ++index) {
    if (const auto closeness = band.closeness[index]) {
      T* to = grads.grad_outputs + (band.start + index) * 2 * width;
      if (closeness == topology.cutoff) {
        add_scaled(to, grad, T(1), width);
      }
      add_scaled(to + width, grad, sweep.pair_weight[closeness], width);
    }
  }
}

// The same for the reverse sweep, whose messages went to the nodes before: the reverse of `scatter`.
template <typename T>
inline void gather_grad(const Topology& topology, const PackedSweep<T>& sweep, const SweepRun<T>& run,
                        const SweepGradRun<T>& grads, std::int64_t node) {
  const int width = sweep.width;
  T* to = grads.grad_outputs + node * 2 * width;
  if (sweep.second_virtual.width == 0) {
    const auto global = run.first_node + node;
    for (auto edge = topology.edge_offsets[global]; edge < topology.edge_offsets[global + 1]; ++edge) {
      add_scaled(to, grads.grad_received + (topology.edge_sources[edge] - run.first_node) * width, T(1), width);
    }
    return;
  }
  const auto band = band_of(topology, run, node);
  for (int i = 0; i < width; i += kLanes<T>) {
    Vector<T> direct = {}, virtual_sum = {};
    const T* from = grads.grad_received + band.start * width + i;
    for (std::int64_t index = 0; index < band.size; ++index, from += width) {
      const auto closeness = band.closeness[index];
      const auto grad = load(from);
      direct += sweep.is_adjacent[closeness] * grad;
      virtual_sum += sweep.pair_weight[closeness] * grad;
    }
    save(to + i, direct);
    save(to + width + i, virtual_sum);
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
  const T* outputs = run.outputs + node * 2 * width;
  const T* hidden = run.hidden + node * sweep.first.width;
  T* grad_outputs = grads.grad_outputs + node * 2 * width;
  T* grad_hidden = grads.grad_hidden + node * sweep.first.width;
  mask(grad_outputs, outputs, width);
  apply_transposed(sweep.second_direct, grad_outputs, grad_hidden);
  if (sweep.second_virtual.width != 0) {
    mask(grad_outputs + width, outputs + width, width);
    apply_transposed(sweep.second_virtual, grad_outputs + width, grad_hidden + sweep.direct_hidden);
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
  add_outer_products(nodes, grads.grad_outputs, 2 * width, width, run.hidden, sweep.first.width, sweep.direct_hidden,
                     grads.second_direct, grads.second_direct_bias);
  if (sweep.second_virtual.width != 0) {
    add_outer_products(nodes, grads.grad_outputs + width, 2 * width, width, run.hidden + sweep.direct_hidden,
                       sweep.first.width, sweep.first.width - sweep.direct_hidden, grads.second_virtual,
                       grads.second_virtual_bias);
  }
}

// A node is done when all nodes that it sent messages to are.
template <typename T>
void run_sweep_backward(const Topology& topology, const PackedSweep<T>& sweep, const SweepRun<T>& run,
                        const SweepGradRun<T>& grads, bool reverse) {
  for (std::int64_t step = 0; step < run.nodes; ++step) {
    const auto node = reverse ? step : run.nodes - 1 - step;
    if (reverse) {
      gather_grad(topology, sweep, run, grads, node);
    }
    messages_backward(sweep, run, grads, node);
    update_backward(sweep, run, grads, node);
    if (!reverse) {
      scatter_grad(topology, sweep, run, grads, node);
    }
  }
  weights_backward(sweep, run, grads);
}

}  // namespace

SweepKernels<float> sweep_kernels_float() { return {&run_sweep<float>, &run_sweep_backward<float>}; }
SweepKernels<double> sweep_kernels_double() { return {&run_sweep<double>, &run_sweep_backward<double>}; }

}  // namespace GHNFAST_ISA
}  // namespace ghnfast
