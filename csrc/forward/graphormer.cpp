#include "forward/graphormer.hpp"

#include <algorithm>
#include <vector>

#include "core/buffer.hpp"
#include "core/parallel.hpp"

namespace ghnfast {
namespace {

template <typename T>
void add_row(const T* table, std::int64_t row, std::int64_t hid, T* to) {
  for (std::int64_t i = 0; i < hid; ++i) {
    to[i] += table[row * hid + i];
  }
}

// What degrees, and the distance from the input, add to the state of each node.
template <typename T>
void add_positions(const GraphormerPointers<T>& weights, std::int64_t hid, const Topology& topology, T* states) {
  const auto nodes = topology.graph_offsets[topology.graphs];
  std::vector<std::int64_t> degrees_out(nodes, 0);
  for (std::int64_t edge = 0; edge < topology.edge_offsets[nodes]; ++edge) {
    ++degrees_out[topology.edge_sources[edge]];
  }
  for (std::int64_t graph = 0; graph < topology.graphs; ++graph) {
    const auto input = topology.graph_offsets[graph];
    for (auto node = input; node < topology.graph_offsets[graph + 1]; ++node) {
      T* const state = states + node * hid;
      const auto degree_in = topology.edge_offsets[node + 1] - topology.edge_offsets[node];
      const auto band = topology.band_offsets[node];
      const bool reached = topology.band_starts[node] == input && topology.band_offsets[node + 1] > band;
      const int closeness = reached ? topology.closeness[band] : 0;
      add_row(weights.degrees_in, std::min(degree_in, kDegrees - 1), hid, state);
      add_row(weights.degrees_out, std::min(degrees_out[node], kDegrees - 1), hid, state);
      add_row(weights.distances, std::int64_t{closeness > 0 ? topology.cutoff + 1 - closeness : 0}, hid, state);
    }
  }
}

// (2 kReach + 1, heads): the bias of each code of a pair. A pair has a path one way at most.
template <typename T>
void fill_bias_table(const GraphormerPointers<T>& weights, std::int64_t hid, T* table, int threads) {
  constexpr std::int64_t kRows = kReach + 1, kCodes = 2 * kReach + 1;
  Buffer<T> ways(2 * kRows * hid, Fill::kNothing), units(kCodes * hid, Fill::kNothing);
  T *there = ways.data(), *back = there + kRows * hid;
  for (auto* way : {there, back}) {
    auto job = job_of<T>(weights.edge_units, weights.edges + kNoPath * hid, kRows, way, Activation::kNone);
    job.inputs = job.x_stride = hid;
    job.weight = from(job.weight, way == there ? 0 : hid);
    job.bias = way == there ? weights.edge_units.bias : nullptr;
    run_parallel(job, threads);
  }
  for (std::int64_t code = 0; code < kCodes; ++code) {
    const auto* first = there + (code <= kReach ? code : 0) * hid;
    const auto* second = back + (code <= kReach ? 0 : code - kReach) * hid;
    for (std::int64_t i = 0; i < hid; ++i) {
      const T unit = first[i] + second[i];
      units.data()[code * hid + i] = unit < T(0) ? T(0) : unit;
    }
  }
  run_parallel(job_of<T>(weights.edge_bias, units.data(), kCodes, table, Activation::kNone), threads);
}

// Fewer multiplications in all layers are not worth other threads.
constexpr std::int64_t kWorthTeam = 1 << 23;

template <typename T>
std::int64_t multiplications(const GraphormerPointers<T>& weights, std::int64_t hid, const Topology& topology) {
  std::int64_t pairs = 0;
  for (std::int64_t graph = 0; graph < topology.graphs; ++graph) {
    const auto nodes = topology.graph_offsets[graph + 1] - topology.graph_offsets[graph];
    pairs += nodes * nodes;
  }
  std::int64_t sum = 0;
  for (const auto& layer : weights.layers) {
    const auto outputs = layer.qkv.outputs + layer.out.outputs + 2 * layer.up.outputs;
    sum += (topology.graph_offsets[topology.graphs] * outputs + 2 * pairs) * hid;
  }
  return sum;
}

template <typename T>
void run_layers(const GraphormerPointers<T>& weights, std::int64_t hid, const Topology& topology,
                const Relations& relations, T* states, int threads) {
  const auto nodes = topology.graph_offsets[topology.graphs], heads = weights.edge_bias.outputs;
  Buffer<T> table((2 * kReach + 1) * heads, Fill::kNothing);
  add_positions(weights, hid, topology, states);
  fill_bias_table(weights, hid, table.data(), threads);
  std::int64_t widest = 3 * hid;
  for (const auto& layer : weights.layers) {
    widest = std::max(widest, layer.up.outputs);
  }
  Buffer<T> normalized(nodes * hid, Fill::kNothing), units(nodes * widest, Fill::kNothing);
  AttentionInputs<T> inputs;
  inputs.heads = static_cast<int>(heads);
  inputs.width = static_cast<int>(hid / heads);
  inputs.kinds = static_cast<int>(2 * kReach + 1);
  inputs.qkv = units.data();
  inputs.table = table.data();
  const auto add = [&](const Layer<T>& layer, const T* x) {
    auto job = job_of<T>(layer, x, nodes, states, Activation::kNone);
    job.add = true;
    run_parallel(job, threads);
  };
  for (const auto& layer : weights.layers) {
    layer_norm(layer.norm_1, hid, states, nodes, normalized.data(), threads);
    run_parallel(job_of<T>(layer.qkv, normalized.data(), nodes, units.data(), Activation::kNone), threads);
    attention<T>(relations, inputs, normalized.data(), nullptr, threads);
    add(layer.out, normalized.data());
    layer_norm(layer.norm_2, hid, states, nodes, normalized.data(), threads);
    run_parallel(job_of<T>(layer.up, normalized.data(), nodes, units.data(), Activation::kGelu), threads);
    add(layer.down, units.data());
  }
}

}  // namespace

template <typename T>
void graphormer(const GraphormerPointers<T>& weights, std::int64_t hid, const Topology& topology,
                const Relations& relations, T* states, int threads) {
  threads = multiplications(weights, hid, topology) < kWorthTeam ? 1 : threads;
  with_team(threads, [&] { run_layers(weights, hid, topology, relations, states, threads); });
}

template void graphormer(const GraphormerPointers<float>&, std::int64_t, const Topology&, const Relations&, float*,
                         int);
template void graphormer(const GraphormerPointers<double>&, std::int64_t, const Topology&, const Relations&, double*,
                         int);

}  // namespace ghnfast
