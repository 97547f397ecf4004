#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "decode.hpp"
#include "ghn.hpp"
#include "graph.hpp"
#include "integers.hpp"
#include "isa.hpp"
#include "layout.hpp"
#include "modules.hpp"
#include "random.hpp"
#include "search_space.hpp"
#include "sweep.hpp"
#include "tensors.hpp"

namespace py = pybind11;

namespace {

using ghnfast::Kind;
using Int8Array = ghnfast::Integers<std::int8_t>;
using Int32Array = ghnfast::Integers<std::int32_t>;
using Int64Array = ghnfast::Integers<std::int64_t>;
using UInt8Array = ghnfast::Integers<std::uint8_t>;
template <typename T>
using Floats = py::array_t<T, py::array::c_style>;

void check_flat(py::ssize_t dimensions, const char* name) {
  if (dimensions != 1) {
    throw std::invalid_argument(std::string(name) + " has " + std::to_string(dimensions) +
                                " dimensions; one is accepted");
  }
}

template <typename T>
std::vector<T> to_vector(const ghnfast::Integers<T>& array, const char* name) {
  check_flat(array.ndim(), name);
  return {array.data(), array.data() + array.size()};
}

template <typename T>
py::array_t<T> to_array(const std::vector<T>& values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

// Offsets rise from 0 to `end`.
void check_offsets(const Int64Array& offsets, const char* name, std::int64_t end) {
  check_flat(offsets.ndim(), name);
  const auto* begin = offsets.data();
  if (offsets.size() < 1 || begin[0] != 0 || begin[offsets.size() - 1] != end ||
      !std::is_sorted(begin, begin + offsets.size())) {
    throw std::invalid_argument(std::string(name) + " must rise from 0 to " + std::to_string(end));
  }
}

py::tuple build_graph(const Int8Array& kinds, const Int32Array& input_offsets, const Int32Array& inputs,
                      const Int32Array& outputs) {
  ghnfast::TracedOperations traced;
  check_flat(kinds.ndim(), "kinds");
  traced.kinds.resize(kinds.size());
  std::transform(kinds.data(), kinds.data() + kinds.size(), traced.kinds.begin(),
                 [](std::int8_t kind) { return static_cast<Kind>(kind); });
  traced.input_offsets = to_vector(input_offsets, "input_offsets");
  traced.inputs = to_vector(inputs, "inputs");
  traced.outputs = to_vector(outputs, "outputs");
  ghnfast::Graph graph;
  {
    py::gil_scoped_release released;
    graph = ghnfast::build_graph(traced);
  }
  std::vector<std::int8_t> fates(graph.fates.size());
  std::transform(graph.fates.begin(), graph.fates.end(), fates.begin(),
                 [](ghnfast::Fate fate) { return static_cast<std::int8_t>(fate); });
  const auto edge_count = static_cast<py::ssize_t>(graph.edges.size() / 2);
  return py::make_tuple(to_array(graph.operations), to_array(graph.primitives),
                        to_array(graph.edges).reshape({edge_count, py::ssize_t{2}}), to_array(graph.level_offsets),
                        to_array(fates), graph.classifier_weight, graph.classifier_bias);
}

py::tuple hop_bands(const Int64Array& graph_offsets, const Int64Array& edge_offsets, const Int32Array& edge_sources,
                    std::int32_t cutoff, int threads) {
  check_offsets(graph_offsets, "graph_offsets", edge_offsets.size() - 1);
  check_offsets(edge_offsets, "edge_offsets", edge_sources.size());
  const auto graphs = to_vector(graph_offsets, "graph_offsets"), edges = to_vector(edge_offsets, "edge_offsets");
  const auto sources = to_vector(edge_sources, "edge_sources");
  ghnfast::HopBands bands;
  {
    py::gil_scoped_release released;
    bands = ghnfast::hop_bands(graphs, edges, sources, cutoff, threads);
  }
  return py::make_tuple(to_array(bands.starts), to_array(bands.offsets), to_array(bands.closeness));
}

py::tuple reversed_bands(const Int32Array& starts, const Int64Array& offsets, const UInt8Array& closeness) {
  check_offsets(offsets, "offsets", closeness.size());
  if (offsets.size() != starts.size() + 1) {
    throw std::invalid_argument("there are " + std::to_string(starts.size()) + " bands and " +
                                std::to_string(offsets.size()) + " offsets; one more is accepted");
  }
  const auto bands = ghnfast::reversed_bands(
      {to_vector(starts, "starts"), to_vector(offsets, "offsets"), to_vector(closeness, "closeness")});
  return py::make_tuple(to_array(bands.starts), to_array(bands.offsets), to_array(bands.closeness));
}

py::array_t<std::int64_t> inspect_tensors(const py::list& tensors, const py::list& shapes, const py::tuple& dtypes) {
  const auto found = ghnfast::inspect_tensors(tensors, shapes, dtypes);
  py::array_t<std::int64_t> table({static_cast<py::ssize_t>(found.size()), py::ssize_t{3}});
  auto rows = table.mutable_unchecked<2>();
  for (py::ssize_t index = 0; index < rows.shape(0); ++index) {
    rows(index, 0) = found[index].address;
    rows(index, 1) = found[index].element;
    rows(index, 2) = found[index].bytes;
  }
  return table;
}

std::vector<std::vector<std::int64_t>> overlapping(const Int64Array& table) {
  if (table.ndim() != 2 || table.shape(1) != 3) {
    throw std::invalid_argument("the table of memory must be (tensors, 3)");
  }
  std::vector<std::int64_t> addresses(table.shape(0)), bytes(table.shape(0));
  for (py::ssize_t index = 0; index < table.shape(0); ++index) {
    addresses[index] = *table.data(index, 0);
    bytes[index] = *table.data(index, 2);
  }
  return ghnfast::overlapping(addresses, bytes);
}

// Sweep ---------------------------------------------------------------------------------------------------------------

// The arrays of a topology, kept alive and checked.
class TopologyArrays {
 public:
  TopologyArrays(Int64Array graph_offsets, Int64Array edge_offsets, Int32Array edge_sources, Int32Array band_starts,
                 Int64Array band_offsets, UInt8Array closeness, int cutoff)
      : graph_offsets_(std::move(graph_offsets)),
        edge_offsets_(std::move(edge_offsets)),
        edge_sources_(std::move(edge_sources)),
        band_starts_(std::move(band_starts)),
        band_offsets_(std::move(band_offsets)),
        closeness_(std::move(closeness)) {
    check_offsets(graph_offsets_, "graph_offsets", edge_offsets_.size() - 1);
    check_offsets(edge_offsets_, "edge_offsets", edge_sources_.size());
    check_flat(edge_sources_.ndim(), "edge_sources");
    check_flat(band_starts_.ndim(), "band_starts");
    check_flat(closeness_.ndim(), "closeness");
    if (cutoff < 1 || cutoff > 255) {
      throw std::invalid_argument("the cutoff is " + std::to_string(cutoff) + " hops; it must be 1 to 255");
    }
    topology.graphs = graph_offsets_.size() - 1;
    topology.graph_offsets = graph_offsets_.data();
    topology.edge_offsets = edge_offsets_.data();
    topology.edge_sources = edge_sources_.data();
    topology.cutoff = cutoff;
    if (band_offsets_.size() > 0) {
      check_offsets(band_offsets_, "band_offsets", closeness_.size());
      if (band_starts_.size() != nodes() || band_offsets_.size() != nodes() + 1) {
        throw std::invalid_argument("band_starts and band_offsets do not fit the number of nodes");
      }
      topology.band_starts = band_starts_.data();
      topology.band_offsets = band_offsets_.data();
      topology.closeness = closeness_.data();
    }
    check_nodes();
  }

  std::int64_t nodes() const { return edge_offsets_.size() - 1; }

  ghnfast::Topology topology;

 private:
  // Every node receives from earlier nodes of its own graph.
  void check_nodes() const {
    for (std::int64_t graph = 0; graph < topology.graphs; ++graph) {
      const auto first = topology.graph_offsets[graph];
      for (auto node = first; node < topology.graph_offsets[graph + 1]; ++node) {
        const auto* begin = topology.edge_sources + topology.edge_offsets[node];
        const auto* end = topology.edge_sources + topology.edge_offsets[node + 1];
        bool fine = std::all_of(begin, end, [&](std::int64_t source) { return source >= first && source < node; });
        if (topology.band_offsets != nullptr) {
          const auto size = topology.band_offsets[node + 1] - topology.band_offsets[node];
          fine &= topology.band_starts[node] >= first && topology.band_starts[node] + size == node;
        }
        if (!fine) {
          throw std::invalid_argument("node " + std::to_string(node) + " receives from a node that is not earlier");
        }
      }
    }
    std::uint8_t most = 0;
    for (py::ssize_t index = 0; index < closeness_.size(); ++index) {
      most = std::max(most, closeness_.data()[index]);
    }
    if (most > topology.cutoff) {
      throw std::invalid_argument("a closeness is above the cutoff");
    }
  }

  Int64Array graph_offsets_, edge_offsets_;
  Int32Array edge_sources_, band_starts_;
  Int64Array band_offsets_;
  UInt8Array closeness_;
};

template <typename T>
void check_shape(const Floats<T>& array, const std::vector<py::ssize_t>& shape, const char* name) {
  if (!std::equal(shape.begin(), shape.end(), array.shape(), array.shape() + array.ndim())) {
    throw std::invalid_argument(std::string(name) + " has another shape than the other arrays call for");
  }
}

template <typename T>
const T* pointer(const Floats<T>& array) {
  return array.data();
}

template <typename T>
T* pointer(Floats<T>& array) {
  return array.mutable_data();
}

// Pointers to weights in the order direct MLP, GRU, MLP of virtual edges; the last four may be left out. `Value` is
// const where `Arrays` is.
template <typename Value, typename Arrays>
ghnfast::SweepPointers<Value> sweep_pointers(Arrays& weights, int hid) {
  if (weights.size() != 8 && weights.size() != 12) {
    throw std::invalid_argument(std::to_string(weights.size()) + " weights were given; 8 or 12 are accepted");
  }
  const auto mlp = [&](std::size_t at) {
    const int hidden = weights[at].ndim() == 2 ? static_cast<int>(weights[at].shape(0)) : 0;
    check_shape(weights[at], {hidden, hid}, "weight_1");
    check_shape(weights[at + 1], {hidden}, "bias_1");
    check_shape(weights[at + 2], {hid, hidden}, "weight_2");
    check_shape(weights[at + 3], {hid}, "bias_2");
    return ghnfast::MlpPointers<Value>{pointer(weights[at]), pointer(weights[at + 1]), pointer(weights[at + 2]),
                                       pointer(weights[at + 3]), hidden};
  };
  ghnfast::SweepPointers<Value> pointers;
  pointers.hid = hid;
  pointers.direct = mlp(0);
  for (const auto at : {4, 5}) {
    check_shape(weights[at], {3 * hid, hid}, "a weight of the GRU");
    check_shape(weights[at + 2], {3 * hid}, "a bias of the GRU");
  }
  pointers.gru_weight_input = pointer(weights[4]);
  pointers.gru_weight_hidden = pointer(weights[5]);
  pointers.gru_bias_input = pointer(weights[6]);
  pointers.gru_bias_hidden = pointer(weights[7]);
  if (weights.size() == 12) {
    pointers.virtual_edges = mlp(8);
  }
  return pointers;
}

template <typename T>
int check_states(const Floats<T>& states, std::size_t weights, const TopologyArrays& arrays) {
  if (states.ndim() != 2 || states.shape(0) != arrays.nodes() || states.shape(1) < 1) {
    throw std::invalid_argument("states must be (nodes, hid)");
  }
  if (weights == 12 && arrays.topology.band_offsets == nullptr) {
    throw std::invalid_argument("virtual edges need the bands of shortest paths");
  }
  return static_cast<int>(states.shape(1));
}

template <typename T>
Floats<T> gated_sweep(const Floats<T>& states, const std::vector<Floats<T>>& weights, const TopologyArrays& arrays,
                      int threads) {
  const int hid = check_states(states, weights.size(), arrays);
  const auto pointers = sweep_pointers<const T>(weights, hid);
  Floats<T> result({states.shape(0), states.shape(1)});
  const T* from = states.data();
  T* to = result.mutable_data();
  {
    py::gil_scoped_release released;
    ghnfast::gated_sweep(arrays.topology, pointers, from, to, threads);
  }
  return result;
}

template <typename T>
py::tuple gated_sweep_backward(const Floats<T>& grad, const Floats<T>& states, const std::vector<Floats<T>>& weights,
                               const TopologyArrays& arrays, int threads) {
  const int hid = check_states(states, weights.size(), arrays);
  check_shape(grad, {states.shape(0), hid}, "grad");
  const auto pointers = sweep_pointers<const T>(weights, hid);
  std::vector<Floats<T>> grad_weights;
  for (const auto& weight : weights) {
    grad_weights.emplace_back(std::vector<py::ssize_t>(weight.shape(), weight.shape() + weight.ndim()));
    std::fill_n(grad_weights.back().mutable_data(), weight.size(), T(0));
  }
  const auto grad_pointers = sweep_pointers<T>(grad_weights, hid);
  Floats<T> grad_states({states.shape(0), states.shape(1)});
  const T *grad_data = grad.data(), *states_data = states.data();
  T* to = grad_states.mutable_data();
  {
    py::gil_scoped_release released;
    ghnfast::gated_sweep_backward(arrays.topology, pointers, states_data, grad_data, to, grad_pointers, threads);
  }
  return py::make_tuple(grad_states, grad_weights);
}

// Decode --------------------------------------------------------------------------------------------------------------

// The columns of the table of targets: first, rows, columns, cells, out, in, kind. The kinds are those of
// `TargetKind` in ghnfast/ops/decode.py.
constexpr py::ssize_t kTargetFields = 7;
constexpr std::int64_t kProduct = 0;
// The columns of the table of memory: address, element type, and the strides of three dimensions in elements.
constexpr py::ssize_t kMemoryFields = 5;

std::vector<ghnfast::DecodeTarget> decode_targets(const Int64Array& table, const Floats<double>& scales) {
  if (table.ndim() != 2 || table.shape(1) != kTargetFields || scales.ndim() != 1 || scales.shape(0) != table.shape(0)) {
    throw std::invalid_argument("the table of targets must be (targets, 7), the scales (targets)");
  }
  std::vector<ghnfast::DecodeTarget> targets(table.shape(0));
  for (py::ssize_t index = 0; index < table.shape(0); ++index) {
    const auto* row = table.data(index, 0);
    const auto kind = row[6];
    if (kind < 0 || kind > 3) {
      throw std::invalid_argument("a target is of kind " + std::to_string(kind) + "; 0 to 3 are accepted");
    }
    auto& target = targets[index];
    target.first = row[0];
    target.rows = row[1];
    target.columns = row[2];
    target.cells = row[3];
    target.out = row[4];
    target.in = row[5];
    target.is_product = kind == kProduct;
    target.activation = static_cast<ghnfast::Activation>(target.is_product ? 0 : kind - 1);
    target.scale = scales.at(index);
  }
  return targets;
}

std::vector<ghnfast::DecodeMemory> decode_memory(const Int64Array& table, std::size_t targets) {
  if (table.ndim() != 2 || table.shape(1) != kMemoryFields || table.shape(0) != static_cast<py::ssize_t>(targets)) {
    throw std::invalid_argument("the table of memory must be (targets, 5)");
  }
  std::vector<ghnfast::DecodeMemory> memory(targets);
  for (std::size_t index = 0; index < targets; ++index) {
    const auto* row = table.data(static_cast<py::ssize_t>(index), 0);
    if (row[1] < 0 || row[1] > 3) {
      throw std::invalid_argument("an element type is " + std::to_string(row[1]) + "; 0 to 3 are accepted");
    }
    if (row[0] == 0) {
      throw std::invalid_argument("target " + std::to_string(index) + " has no memory");
    }
    memory[index].data = reinterpret_cast<char*>(row[0]);
    memory[index].element = static_cast<ghnfast::Element>(row[1]);
    std::copy(row + 2, row + 5, memory[index].strides);
  }
  return memory;
}

template <typename T>
ghnfast::DecodeSource<T> decode_source(const Floats<T>& hidden, const Floats<T>& weight, const Floats<T>& bias,
                                       const Floats<T>& blocks) {
  if (hidden.ndim() != 2 || weight.ndim() != 3 || blocks.ndim() != 1) {
    throw std::invalid_argument("hidden must be (rows, width), weight (out, in, width), blocks (elements)");
  }
  check_shape(weight, {weight.shape(0), weight.shape(1), hidden.shape(1)}, "weight");
  check_shape(bias, {weight.shape(0), weight.shape(1)}, "bias");
  ghnfast::DecodeSource<T> source;
  source.hidden = hidden.data();
  source.weight = weight.data();
  source.bias = bias.data();
  source.blocks = blocks.data();
  source.hidden_rows = hidden.shape(0);
  source.width = hidden.shape(1);
  source.max_rows = weight.shape(0);
  source.max_columns = weight.shape(1);
  source.block_elements = blocks.size();
  return source;
}

template <typename T>
std::int64_t decode(const Floats<T>& hidden, const Floats<T>& weight, const Floats<T>& bias, const Floats<T>& blocks,
                    const Int64Array& table, const Floats<double>& scales, const Int64Array& memory_table, bool check,
                    int threads, const py::object& before_writing) {
  const auto source = decode_source(hidden, weight, bias, blocks);
  const auto targets = decode_targets(table, scales);
  const auto memory = decode_memory(memory_table, targets.size());
  std::function<void()> call;
  if (!before_writing.is_none()) {
    call = [&before_writing] {
      const py::gil_scoped_acquire acquired;
      before_writing();
    };
  }
  py::gil_scoped_release released;
  return ghnfast::decode(source, targets, memory, check, threads, call);
}

template <typename T>
py::tuple decode_backward(const Floats<T>& grad, const Floats<T>& hidden, const Floats<T>& weight,
                          const Floats<T>& bias, const Floats<T>& blocks, const Int64Array& table,
                          const Floats<double>& scales, int threads) {
  const auto source = decode_source(hidden, weight, bias, blocks);
  const auto targets = decode_targets(table, scales);
  ghnfast::check_targets(source, targets);
  std::int64_t elements = 0, product_elements = 0;
  for (const auto& target : targets) {
    elements = std::min(elements + target.out * target.in * target.cells, ghnfast::kMostElements);
    product_elements += target.is_product ? target.rows * target.columns * target.cells : 0;
  }
  check_shape(grad, {elements}, "grad");
  Floats<T> grad_products(product_elements), grad_blocks(blocks.size());
  std::fill_n(grad_blocks.mutable_data(), grad_blocks.size(), T(0));
  const T* grad_data = grad.data();
  T *products_data = grad_products.mutable_data(), *blocks_data = grad_blocks.mutable_data();
  {
    py::gil_scoped_release released;
    ghnfast::decode_backward(source, targets, grad_data, products_data, blocks_data, threads);
  }
  return py::make_tuple(grad_products, grad_blocks);
}

template <typename T>
bool all_finite(const std::vector<Floats<T>>& arrays, int threads) {
  std::vector<std::pair<const T*, std::int64_t>> values;
  for (const auto& array : arrays) {
    values.emplace_back(array.data(), array.size());
  }
  py::gil_scoped_release released;
  return std::all_of(values.begin(), values.end(), [&](const auto& of) {
    return ghnfast::largest(of.first, of.second, threads) <= std::numeric_limits<T>::max();
  });
}

// Forward pass up to the last step of decoding ------------------------------------------------------------------------

// The columns of the table of slots in ghnfast/nn/layout.py; the last one holds the bits of a float64.
constexpr py::ssize_t kSlotFields = 12;

py::tuple lay_out(const Int64Array& table, std::int64_t vector, std::int64_t classes) {
  if (table.ndim() != 2 || table.shape(1) != kSlotFields) {
    throw std::invalid_argument("the table of slots must be (slots, 12)");
  }
  std::vector<ghnfast::Slot> slots;
  for (py::ssize_t index = 0; index < table.shape(0); ++index) {
    const auto* row = table.data(index, 0);
    if (row[1] < 0 || row[1] > static_cast<std::int64_t>(ghnfast::Decoder::kWhole)) {
      throw std::invalid_argument("a slot has decoder " + std::to_string(row[1]) + "; 0 to 5 are accepted");
    }
    const bool is_empty = std::any_of(row + 2, row + 9, [](std::int64_t size) { return size < 1; });
    if (is_empty || !ghnfast::is_within({row[4], row[5], row[6]}, ghnfast::kMostElements) ||
        !ghnfast::is_within({row[6], row[7], row[8]}, ghnfast::kMostElements)) {
      throw std::invalid_argument("slot " + std::to_string(index) + " has sizes that no parameter has");
    }
    slots.push_back({row[0], static_cast<ghnfast::Decoder>(row[1]), row[2], row[3], row[4], row[5], row[6], row[7],
                     row[8], row[9]});
    std::memcpy(&slots.back().scale, row + 11, sizeof(double));
  }
  const auto layout = ghnfast::lay_out(slots, {vector, classes});
  const auto count = static_cast<py::ssize_t>(slots.size());
  py::array_t<std::int64_t> targets({count, kTargetFields}), nodes(count);
  py::array_t<double> scales(count);
  for (py::ssize_t at = 0; at < count; ++at) {
    const auto& slot = slots[layout.order[at]];
    const std::int64_t fields[] = {layout.first[at], slot.rows, slot.columns, slot.cells, slot.out, slot.in, slot.kind};
    std::copy_n(fields, kTargetFields, targets.mutable_data(at, 0));
    nodes.mutable_at(at) = slot.node;
    scales.mutable_at(at) = slot.scale;
  }
  return py::make_tuple(to_array(layout.order), targets, scales, nodes, layout.calls, layout.hidden_rows,
                        layout.elements);
}

// A linear layer: weight (out, in), bias (out).
template <typename T>
ghnfast::Layer<T> layer(const Floats<T>& weight, const Floats<T>& bias, py::ssize_t outputs, py::ssize_t inputs) {
  check_shape(weight, {outputs, inputs}, "the weight of a layer");
  check_shape(bias, {outputs}, "the bias of a layer");
  return {weight.data(), bias.data(), outputs, inputs};
}

// The weights of a GHN, kept alive and checked.
template <typename T>
class GhnArrays {
 public:
  // tables: of primitives, channels and kernel sizes. sweep: 8 or 12 weights of a gated sweep, or 4 of an MLP. norm: 0
  // or 2. decoder: (weight, bias) of cells, hidden, products, classes, both layers for vectors, and class biases.
  GhnArrays(std::vector<Floats<T>> tables, Int64Array channel_rows, Int64Array kernel_rows,
            std::vector<Floats<T>> sweep, std::vector<Floats<T>> norm, double norm_epsilon,
            std::vector<Floats<T>> decoder, std::int64_t rows, std::int64_t columns)
      : tables_(std::move(tables)),
        sweep_(std::move(sweep)),
        norm_(std::move(norm)),
        decoder_(std::move(decoder)),
        channel_rows_(std::move(channel_rows)),
        kernel_rows_(std::move(kernel_rows)) {
    if (tables_.size() != 3 || decoder_.size() != 14 || (norm_.size() != 0 && norm_.size() != 2) ||
        tables_[0].ndim() != 2) {
      throw std::invalid_argument("these are not the weights of a GHN");
    }
    const auto hid = tables_[0].shape(1);
    if (hid < 1 || hid % 4 != 0 || rows < 1 || columns < 1) {
      throw std::invalid_argument("a GHN of width " + std::to_string(hid) + " decodes blocks of " +
                                  std::to_string(rows) + " x " + std::to_string(columns) +
                                  "; a positive multiple of 4, and positive sizes are accepted");
    }
    pointers.hid = hid;
    pointers.primitives = tables_[0].data();
    pointers.channels = size_table(tables_[1], channel_rows_);
    pointers.kernels = size_table(tables_[2], kernel_rows_);
    if (sweep_.size() == 4) {
      pointers.node_mlp[0] = layer(sweep_[0], sweep_[1], sweep_[0].shape(0), hid);
      pointers.node_mlp[1] = layer(sweep_[2], sweep_[3], hid, sweep_[0].shape(0));
    } else {
      pointers.sweep = sweep_pointers<const T>(sweep_, static_cast<int>(hid));
    }
    if (!norm_.empty()) {
      check_shape(norm_[0], {hid}, "the weight of the layer norm");
      check_shape(norm_[1], {hid}, "the bias of the layer norm");
      pointers.norm_weight = norm_[0].data();
      pointers.norm_bias = norm_[1].data();
      pointers.norm_epsilon = norm_epsilon;
    }
    set_decoder(rows, columns);
  }

  py::ssize_t primitives() const { return tables_[0].shape(0); }
  std::size_t sweep_weights() const { return sweep_.size(); }
  py::ssize_t vector_elements() const { return decoder_[10].shape(0); }

  ghnfast::GhnPointers<T> pointers;

 private:
  ghnfast::SizeTable<T> size_table(const Floats<T>& table, const Int64Array& rows) const {
    check_shape(table, {table.ndim() == 2 ? table.shape(0) : 0, tables_[0].shape(1) / 4}, "a table of sizes");
    check_flat(rows.ndim(), "the rows of a table of sizes");
    const auto fits = [&](std::int64_t row) { return row >= 0 && row < table.shape(0); };
    if (rows.size() < 2 || !std::all_of(rows.data(), rows.data() + rows.size(), fits)) {
      throw std::invalid_argument("rows of a table of sizes are out of range");
    }
    return {table.data(), rows.data(), rows.size()};
  }

  void set_decoder(std::int64_t rows, std::int64_t columns) {
    if (!ghnfast::is_within({rows, columns}, ghnfast::kMostElements)) {
      throw std::invalid_argument("blocks have " + std::to_string(rows) + " rows and " + std::to_string(columns) +
                                  " columns; positive numbers are accepted");
    }
    const auto hid = pointers.hid, channels = 4 * hid;
    const auto of = [&](std::size_t index, py::ssize_t outputs, py::ssize_t inputs) {
      return layer(decoder_[2 * index], decoder_[2 * index + 1], outputs, inputs);
    };
    while ((pointers.size + 1) * (pointers.size + 1) * channels <= decoder_[0].shape(0)) {
      ++pointers.size;
    }
    pointers.rows = rows;
    pointers.columns = columns;
    pointers.cells = of(0, channels * pointers.size * pointers.size, hid);
    pointers.hidden = of(1, 2 * channels, channels);
    pointers.products = of(2, rows * columns, 2 * channels);
    const auto classes = decoder_[6].shape(0), units = decoder_[8].shape(0), vector = std::max(rows, columns);
    pointers.classes = of(3, classes, rows);
    pointers.vectors[0] = of(4, units, hid);
    pointers.vectors[1] = of(5, 2 * vector, units);
    pointers.class_bias = of(6, classes, vector);
  }

  std::vector<Floats<T>> tables_, sweep_, norm_, decoder_;
  Int64Array channel_rows_, kernel_rows_;
};

template <typename T>
Floats<T> node_states(const GhnArrays<T>& ghn, const TopologyArrays& arrays, const Int8Array& primitives,
                      const Int64Array& shapes, int threads) {
  const auto nodes = arrays.nodes();
  const auto known = [&](std::int8_t primitive) { return primitive >= 0 && primitive < ghn.primitives(); };
  check_flat(primitives.ndim(), "primitives");
  if (primitives.size() != nodes || shapes.ndim() != 2 || shapes.shape(0) != nodes || shapes.shape(1) != 4 ||
      !std::all_of(primitives.data(), primitives.data() + nodes, known)) {
    throw std::invalid_argument("primitives must be (nodes), each with an embedding, and shapes (nodes, 4)");
  }
  if (ghn.sweep_weights() == 12 && arrays.topology.band_offsets == nullptr) {
    throw std::invalid_argument("virtual edges need the bands of shortest paths");
  }
  Floats<T> states({static_cast<py::ssize_t>(nodes), static_cast<py::ssize_t>(ghn.pointers.hid)});
  const auto* primitives_data = primitives.data();
  const auto* shapes_data = shapes.data();
  T* to = states.mutable_data();
  {
    py::gil_scoped_release released;
    ghnfast::node_states(ghn.pointers, arrays.topology, primitives_data, shapes_data, nodes, to, threads);
  }
  return states;
}

// Each call reads states that are there, and writes where there is room.
template <typename T>
void check_calls(const GhnArrays<T>& ghn, const std::vector<ghnfast::DecoderCall>& calls, std::int64_t nodes,
                 std::int64_t hidden_rows, std::int64_t elements) {
  using ghnfast::Decoder;
  const auto& sizes = ghn.pointers;
  std::int64_t kernel_rows = 0;
  for (const auto& call : calls) {
    bool fits = call.begin >= 0 && call.count >= 0 && call.begin + call.count <= nodes && call.first >= 0;
    std::int64_t each = 0, room = elements;
    if (call.decoder == Decoder::kKernel) {
      fits &= call.height >= 1 && call.width >= 1 && call.height <= sizes.size && call.width <= sizes.size;
      fits = fits && call.cells == call.height * call.width;
      each = call.cells;
      room = hidden_rows;
      kernel_rows += call.count * call.cells;
    } else if (call.decoder == Decoder::kClassWeight) {
      fits &= call.columns >= 1 && call.columns <= sizes.columns && call.cells == 1 && call.width == 1;
      each = sizes.classes.outputs * call.columns;
    } else if (call.decoder == Decoder::kClassBias) {
      each = sizes.classes.outputs;
    } else if (call.decoder != Decoder::kWhole) {
      each = ghn.vector_elements();
    }
    if (!fits || call.first + call.count * each > room) {
      throw std::invalid_argument("a call of a decoder is out of range");
    }
  }
  if (kernel_rows != hidden_rows) {
    throw std::invalid_argument("the calls give " + std::to_string(kernel_rows) + " rows of hidden states, not " +
                                std::to_string(hidden_rows));
  }
}

template <typename T>
py::tuple decode_inputs(const GhnArrays<T>& ghn, const Floats<T>& states, const Int64Array& nodes,
                        const std::vector<ghnfast::DecoderCall>& calls, std::int64_t hidden_rows, std::int64_t elements,
                        int threads) {
  check_shape(states, {states.shape(0), static_cast<py::ssize_t>(ghn.pointers.hid)}, "states");
  const auto chosen = to_vector(nodes, "nodes");
  const auto there = [&](std::int64_t node) { return node >= 0 && node < states.shape(0); };
  if (!std::all_of(chosen.begin(), chosen.end(), there)) {
    throw std::invalid_argument("a node is out of range");
  }
  check_calls(ghn, calls, nodes.size(), hidden_rows, elements);
  std::int64_t scratch_rows = 0;
  for (const auto& call : calls) {
    scratch_rows += call.decoder == ghnfast::Decoder::kClassWeight ? call.count : 0;
  }
  Floats<T> hidden(
      {static_cast<py::ssize_t>(hidden_rows + scratch_rows), static_cast<py::ssize_t>(ghn.pointers.products.inputs)});
  Floats<T> blocks(elements);
  const T* from = states.data();
  T *hidden_data = hidden.mutable_data(), *blocks_data = blocks.mutable_data();
  {
    py::gil_scoped_release released;
    ghnfast::decode_inputs(ghn.pointers, from, chosen, calls, hidden_data, blocks_data, threads);
  }
  return py::make_tuple(hidden[py::slice(0, hidden_rows, 1)], blocks);
}

template <typename T>
void define_ghn(py::module_& module, const char* name) {
  using Arrays = std::vector<Floats<T>>;
  py::class_<GhnArrays<T>>(module, name, py::module_local(), "The weights of a GHN.")
      .def(py::init<Arrays, Int64Array, Int64Array, Arrays, Arrays, double, Arrays, std::int64_t, std::int64_t>(),
           py::arg("tables"), py::arg("channel_rows"), py::arg("kernel_rows"), py::arg("sweep"), py::arg("norm"),
           py::arg("norm_epsilon"), py::arg("decoder"), py::arg("rows"), py::arg("columns"))
      .def("node_states", &node_states<T>, py::arg("topology"), py::arg("primitives"), py::arg("shapes"),
           py::arg("threads"), "(nodes, hid): embedding, sweep and normalization.")
      .def("decode_inputs", &decode_inputs<T>, py::arg("states").noconvert(), py::arg("nodes"), py::arg("calls"),
           py::arg("hidden_rows"), py::arg("elements"), py::arg("threads"),
           "(hidden, blocks): what the last step of decoding reads.");
}

// Search space --------------------------------------------------------------------------------------------------------

using ghnfast::CellGenotype;
using Edges = std::vector<std::pair<int, int>>;

Edges edges_of(const CellGenotype& cell) {
  Edges edges;
  for (const auto& edge : cell.edges) {
    edges.emplace_back(static_cast<int>(edge.operation), edge.state);
  }
  return edges;
}

CellGenotype cell_of(const Edges& edges, const std::vector<int>& concat) {
  CellGenotype cell;
  for (const auto& [operation, state] : edges) {
    if (operation < 0 || operation >= static_cast<int>(ghnfast::Operation::kCount)) {
      throw std::invalid_argument("there is no operation " + std::to_string(operation));
    }
    cell.edges.push_back({static_cast<ghnfast::Operation>(operation), state});
  }
  constexpr std::size_t kMostEdges = 1024;
  if (edges.size() % 2 != 0 || edges.size() > kMostEdges || concat.size() > kMostEdges / 2) {
    throw std::invalid_argument("a cell has two edges for each step, up to " + std::to_string(kMostEdges));
  }
  cell.concat = concat;
  return cell;
}

ghnfast::Split split_of(int split) {
  if (split < 0 || split >= static_cast<int>(ghnfast::Split::kCount)) {
    throw std::invalid_argument("there is no split " + std::to_string(split));
  }
  return static_cast<ghnfast::Split>(split);
}

py::object shape_tuple(const std::int64_t* shape, int dimensions) {
  py::tuple made(dimensions);
  for (int at = 0; at < dimensions; ++at) {
    made[at] = shape[at];
  }
  return std::move(made);
}

// The graph of a network, or None where it has no output; see NetworkGraph in _C.pyi.
py::object network_graph(const ghnfast::NetworkSettings& settings) {
  ghnfast::NetworkTrace trace;
  ghnfast::Graph graph;
  {
    py::gil_scoped_release released;
    trace = ghnfast::describe(settings, true);
    if (trace.has_output) {
      graph = ghnfast::build_graph(trace.operations);
    }
  }
  if (!trace.has_output) {
    return py::none();
  }
  const auto nodes = static_cast<py::ssize_t>(graph.operations.size());
  const auto count = trace.parameters.size();
  // Why a parameter has no node: the fate of its operation, or -1 for parameters that no operation uses.
  std::vector<int> fates(count, -1);
  for (std::size_t operation = 0; operation < trace.weights.size(); ++operation) {
    for (const auto parameter : trace.weights[operation]) {
      if (parameter >= 0) {
        fates[parameter] = static_cast<int>(graph.fates[operation]);
      }
    }
  }
  std::vector<py::object> names(count);
  py::dict parameter_shapes, skipped;
  const auto name_of = [&](std::int32_t parameter) -> py::object {
    if (parameter < 0) {
      return py::none();
    }
    if (!names[parameter]) {
      const auto& made = trace.parameters[parameter];
      names[parameter] = py::str(made.name);
      parameter_shapes[names[parameter]] = shape_tuple(made.shape.data(), made.dimensions);
    }
    return names[parameter];
  };
  py::list shapes(nodes), weights(nodes), norm_biases(nodes);
  for (py::ssize_t node = 0; node < nodes; ++node) {
    const auto operation = graph.operations[node];
    const auto& shape = trace.shapes[operation];
    shapes[node] = shape[0] == 0 ? py::object(py::none()) : shape_tuple(shape.data(), 4);
    weights[node] = name_of(trace.weights[operation][0]);
    norm_biases[node] = name_of(trace.weights[operation][1]);
  }
  for (std::size_t parameter = 0; parameter < count; ++parameter) {
    if (!names[parameter]) {
      skipped[py::str(trace.parameters[parameter].name)] = fates[parameter];
    }
  }
  const auto edge_count = static_cast<py::ssize_t>(graph.edges.size() / 2);
  return py::make_tuple(to_array(graph.primitives), to_array(graph.edges).reshape({edge_count, py::ssize_t{2}}),
                        to_array(graph.level_offsets), shapes, weights, norm_biases, parameter_shapes, skipped,
                        graph.classifier_weight, graph.classifier_bias);
}

ghnfast::TrainingRanges training_ranges(int channels_first, int channels_last, int fc_first, int fc_last) {
  constexpr int kMost = 1 << 20;
  if (channels_first < 1 || channels_last < channels_first || channels_last > kMost || fc_first < 1 ||
      fc_last < fc_first || fc_last > kMost) {
    throw std::invalid_argument("a range of widths is empty, or not within 1 to " + std::to_string(kMost));
  }
  return {channels_first, channels_last, fc_first, fc_last};
}

py::list network_parameters(const ghnfast::NetworkSettings& settings) {
  py::list parameters;
  for (const auto& parameter : ghnfast::describe(settings, true).parameters) {
    parameters.append(py::make_tuple(parameter.name, shape_tuple(parameter.shape.data(), parameter.dimensions)));
  }
  return parameters;
}

py::dict statistics(int split, std::uint64_t seed, std::uint64_t begin, std::uint64_t end,
                    const ghnfast::TrainingRanges& ranges, int threads) {
  constexpr std::uint64_t kMost = std::uint64_t{1} << 20;
  if (begin >= end || end - begin > kMost) {
    throw std::invalid_argument("the range of networks is empty, or longer than 2^20");
  }
  const auto chosen = split_of(split);
  ghnfast::GraphStatistics found;
  {
    py::gil_scoped_release released;
    found = ghnfast::statistics(chosen, seed, begin, end, ranges, threads);
  }
  using namespace py::literals;
  return py::dict("graphs"_a = found.graphs, "without_norm"_a = found.without_norm,
                  "nodes"_a = py::make_tuple(found.nodes_least, found.nodes_most),
                  "cells"_a = py::make_tuple(found.cells_least, found.cells_most),
                  "channels"_a = py::make_tuple(found.channels_least, found.channels_most),
                  "parameters"_a = py::make_tuple(found.parameters_least, found.parameters_most),
                  "primitives"_a = found.primitives, "degree"_a = py::make_tuple(found.degree, found.degree_squares),
                  "path"_a = py::make_tuple(found.path, found.path_squares));
}

void define_search_space(py::module_& module) {
  using ghnfast::NetworkSettings;
  using ghnfast::TrainingRanges;
  auto settings = py::class_<NetworkSettings>(module, "NetworkSettings", py::module_local(),
                                              "The arguments of a DeepNets-1M network.");
  settings.def(py::init<>())
      .def("set_cells",
           [](NetworkSettings& self, const Edges& normal, const std::vector<int>& normal_concat, const Edges& reduce,
              const std::vector<int>& reduce_concat) {
             self.normal = cell_of(normal, normal_concat);
             self.reduce = cell_of(reduce, reduce_concat);
           })
      .def("cells_as_lists",
           [](const NetworkSettings& self) {
             return py::make_tuple(edges_of(self.normal), self.normal.concat, edges_of(self.reduce),
                                   self.reduce.concat);
           })
      .def_readwrite("num_classes", &NetworkSettings::num_classes)
      .def_readwrite("channels", &NetworkSettings::channels)
      .def_readwrite("cells", &NetworkSettings::cells)
      .def_readwrite("kernel", &NetworkSettings::kernel)
      .def_readwrite("channel_factor", &NetworkSettings::channel_factor)
      .def_readwrite("fc_layers", &NetworkSettings::fc_layers)
      .def_readwrite("fc_width", &NetworkSettings::fc_width)
      .def_readwrite("stem_type", &NetworkSettings::stem_type)
      .def("graph", &network_graph)
      .def("parameters", &network_parameters)
      .def("elements", [](const NetworkSettings& self) { return ghnfast::describe(self, false).elements; })
      .def("node_cells", [](const NetworkSettings& self) {
        const auto trace = ghnfast::describe(self, false);
        std::vector<std::int32_t> cells;
        if (trace.has_output) {
          for (const auto operation : ghnfast::build_graph(trace.operations).operations) {
            cells.push_back(trace.cells[operation]);
          }
        }
        return to_array(cells);
      });
  const std::pair<const char*, bool NetworkSettings::*> flags[] = {{"large_images", &NetworkSettings::large_images},
                                                                   {"stem_pool", &NetworkSettings::stem_pool},
                                                                   {"normed", &NetworkSettings::normed},
                                                                   {"preprocessed", &NetworkSettings::preprocessed},
                                                                   {"global_average", &NetworkSettings::global_average},
                                                                   {"vit", &NetworkSettings::vit}};
  for (const auto& [name, flag] : flags) {
    const auto set = [member = flag](NetworkSettings& self, bool value) { self.*member = value; };
    settings.def_property(
        name, [member = flag](const NetworkSettings& self) { return self.*member; },
        py::cpp_function(set, py::is_method(settings), py::arg("value").noconvert()));
  }
  py::class_<TrainingRanges>(module, "TrainingRanges", py::module_local())
      .def(py::init(&training_ranges), py::arg("channels_first"), py::arg("channels_last"), py::arg("fc_first"),
           py::arg("fc_last"));
  module.def("philox", &ghnfast::philox, py::arg("counter"), py::arg("key"), "One block of the random stream.");
  module.def(
      "sample_network",
      [](int split, std::uint64_t seed, std::uint64_t index, const TrainingRanges& ranges, bool large_images) {
        ghnfast::SampledNetwork network;
        const auto chosen = split_of(split);
        {
          py::gil_scoped_release released;
          network = ghnfast::sample(chosen, seed, index, ranges, large_images);
        }
        return py::make_tuple(network.settings, network.small_elements, network.large_elements);
      },
      py::arg("split"), py::arg("seed"), py::arg("index"), py::arg("ranges"), py::arg("large_images").noconvert(),
      "(settings, elements of parameters for small images, and for large ones).");
  module.def(
      "draw_widths",
      [](NetworkSettings& settings, std::int64_t small_elements, std::int64_t large_elements, std::uint64_t seed,
         std::uint64_t index, const TrainingRanges& ranges, bool large_images) {
        ghnfast::SampledNetwork network{settings, small_elements, large_elements};
        ghnfast::draw_widths(seed, index, ranges, large_images, network);
        settings = network.settings;
      },
      py::arg("settings"), py::arg("small_elements"), py::arg("large_elements"), py::arg("seed"), py::arg("index"),
      py::arg("ranges"), py::arg("large_images").noconvert(), "Set channels and fc_width of a training network.");
  module.def("statistics", &statistics, py::arg("split"), py::arg("seed"), py::arg("begin"), py::arg("end"),
             py::arg("ranges"), py::arg("threads"), "Sums over the graphs of networks begin to end of a split.");
}

// Defines the functions for one type of numbers; those of an array choose the overload.
template <typename T>
void define_kernels(py::module_& module) {
  module.def("gated_sweep", &gated_sweep<T>, py::arg("states").noconvert(), py::arg("weights").noconvert(),
             py::arg("topology"), py::arg("threads"), "Node states after a sweep forward and one in reverse.");
  module.def("gated_sweep_backward", &gated_sweep_backward<T>, py::arg("grad").noconvert(),
             py::arg("states").noconvert(), py::arg("weights").noconvert(), py::arg("topology"), py::arg("threads"),
             "The gradients of a sweep: (of states, [of each weight]).");
  module.def("decode", &decode<T>, py::arg("hidden").noconvert(), py::arg("weight").noconvert(),
             py::arg("bias").noconvert(), py::arg("blocks").noconvert(), py::arg("targets"), py::arg("scales"),
             py::arg("memory"), py::arg("check").noconvert(), py::arg("threads"),
             py::arg("before_writing") = py::none(),
             "Write targets to their memory: -1; with check, or the number of one that would not be finite, and "
             "nothing is written. `before_writing` is called when nothing but it can fail any more.");
  module.def("all_finite", &all_finite<T>, py::arg("arrays").noconvert(), py::arg("threads"));
  module.def("decode_backward", &decode_backward<T>, py::arg("grad").noconvert(), py::arg("hidden").noconvert(),
             py::arg("weight").noconvert(), py::arg("bias").noconvert(), py::arg("blocks").noconvert(),
             py::arg("targets"), py::arg("scales"), py::arg("threads"),
             "The gradients of products, one behind the other, each (cells, rows, columns), and of blocks.");
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "The C++ core of ghnfast: numpy arrays in and out.";
  // The tracer has these numbers too; a test compares them. Local, so that a sanitized build loads beside another one.
  py::enum_<Kind>(module, "Kind", py::module_local())
      .value("MAX_POOL", Kind::kMaxPool)
      .value("AVG_POOL", Kind::kAvgPool)
      .value("SEP_CONV", Kind::kSepConv)
      .value("DIL_CONV", Kind::kDilConv)
      .value("CONV", Kind::kConv)
      .value("MSA", Kind::kMsa)
      .value("CSE", Kind::kCse)
      .value("SUM", Kind::kSum)
      .value("CONCAT", Kind::kConcat)
      .value("INPUT", Kind::kInput)
      .value("BIAS", Kind::kBias)
      .value("BN", Kind::kBn)
      .value("LN", Kind::kLn)
      .value("POS_ENC", Kind::kPosEnc)
      .value("GLOB_AVG", Kind::kGlobAvg)
      .value("PASS", Kind::kPass)
      .value("SOFTMAX", Kind::kSoftmax)
      .value("MATMUL", Kind::kMatmul)
      .value("GATE", Kind::kGate)
      .value("SQUEEZE_GLOB_AVG", Kind::kSqueezeGlobAvg)
      .value("SQUEEZE_AVG_POOL", Kind::kSqueezeAvgPool)
      .value("SQUEEZE_MAX_POOL", Kind::kSqueezeMaxPool)
      .value("SQUEEZE_PASS", Kind::kSqueezePass)
      .value("POINTWISE_CONV", Kind::kPointwiseConv);
  py::enum_<ghnfast::Fate>(module, "Fate", py::module_local())
      .value("NODE", ghnfast::Fate::kNode)
      .value("CONTRACTED", ghnfast::Fate::kContracted)
      .value("NO_INPUT", ghnfast::Fate::kNoInput)
      .value("NO_OUTPUT", ghnfast::Fate::kNoOutput)
      .value("ATTENTION_OFFSET", ghnfast::Fate::kAttentionOffset);
  module.def("walk_modules", &ghnfast::walk_modules, py::arg("model"),
             "(modules, names, parameters, buffers) of a module in the order of its own methods; None where one of its "
             "modules keeps them elsewhere than torch.nn.Module does.");
  module.def("open_attributes", &ghnfast::open_attributes, py::arg("modules"),
             "The values of modules' attributes that might lead to another module.");
  module.def("bare_modules", &ghnfast::bare_modules, py::arg("modules"),
             "Per module, whether a call of it is its class's forward and nothing besides.");
  module.def("copy_modules", &ghnfast::copy_modules, py::arg("modules"),
             "Copies of modules that have each other as children.");
  py::class_<ghnfast::Snapshot>(module, "Snapshot", py::module_local(),
                                "The attributes of modules, and what is in the dicts, lists and sets among them.")
      .def(py::init<const py::list&>(), py::arg("modules"))
      .def("changed", &ghnfast::Snapshot::changed,
           "(container, content) of each container that does not hold the very objects that it held.");
  module.def("build_graph", &build_graph, py::arg("kinds"), py::arg("input_offsets"), py::arg("inputs"),
             py::arg("outputs"),
             "Contract, prune and order traced operations: (operations, primitives, edges, level_offsets, fates, "
             "classifier_weight, classifier_bias).");
  module.def("hop_bands", &hop_bands, py::arg("graph_offsets"), py::arg("edge_offsets"), py::arg("edge_sources"),
             py::arg("cutoff"), py::arg("threads"),
             "Shortest paths: (starts, offsets, closeness); closeness is cutoff + 1 - distance, or 0.");
  module.def("reversed_bands", &reversed_bands, py::arg("starts"), py::arg("offsets"), py::arg("closeness"),
             "The shortest paths of `hop_bands` by where they come from: (starts, offsets, closeness).");
  module.def(
      "inspect_tensors", &inspect_tensors, py::arg("tensors"), py::arg("shapes"), py::arg("dtypes"),
      "(tensors, 3): address, number of the dtype and bytes of each tensor that is nothing but contiguous memory, in "
      "one of these dtypes and in its shape, and that can be written; -1 for others. The second is -1 outside of the "
      "memory of the CPU.");
  module.def("is_writable", &ghnfast::is_writable, py::arg("address"), py::arg("bytes"),
             "Whether memory of this process can be written; it keeps its content.");
  module.def("overlapping", &overlapping, py::arg("memory"),
             "Groups of the rows of a table (tensors, 3), as `inspect_tensors` returns it, whose memory overlaps.");
  py::class_<TopologyArrays>(module, "Topology", py::module_local())
      .def(py::init<Int64Array, Int64Array, Int32Array, Int32Array, Int64Array, UInt8Array, int>(),
           py::arg("graph_offsets"), py::arg("edge_offsets"), py::arg("edge_sources"), py::arg("band_starts"),
           py::arg("band_offsets"), py::arg("closeness"), py::arg("cutoff"));
  py::class_<ghnfast::DecoderCall>(module, "DecoderCall", py::module_local())
      .def_property_readonly("decoder",
                             [](const ghnfast::DecoderCall& call) { return static_cast<std::int64_t>(call.decoder); })
      .def_readonly("begin", &ghnfast::DecoderCall::begin)
      .def_readonly("count", &ghnfast::DecoderCall::count)
      .def_readonly("height", &ghnfast::DecoderCall::height)
      .def_readonly("width", &ghnfast::DecoderCall::width)
      .def_readonly("columns", &ghnfast::DecoderCall::columns)
      .def_readonly("rows", &ghnfast::DecoderCall::rows)
      .def_readonly("cells", &ghnfast::DecoderCall::cells)
      .def_readonly("first", &ghnfast::DecoderCall::first);
  module.def("lay_out", &lay_out, py::arg("table"), py::arg("vector"), py::arg("classes"),
             "Slots sorted by what they share: (order, targets, scales, nodes, calls, hidden rows, block elements).");
  define_ghn<float>(module, "GhnFloat");
  define_ghn<double>(module, "GhnDouble");
  define_search_space(module);
  define_kernels<float>(module);
  define_kernels<double>(module);
  module.def(
      "environment",
      [](const std::string& name) -> py::object {
        const char* value = std::getenv(name.c_str());
        return value == nullptr ? py::object(py::none()) : py::str(value);
      },
      py::arg("name"), "A variable of the environment: as os.environ.get, without its conversions.");
  module.def("instruction_sets", &ghnfast::instruction_sets, "Those that this machine has, the fastest last.");
  module.def("use_instruction_set", &ghnfast::use_instruction_set, py::arg("name"));
}
