#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/isa.hpp"
#include "decode/decode.hpp"
#include "forward/classes.hpp"
#include "forward/ghn.hpp"
#include "python/arrays.hpp"
#include "python/bindings.hpp"
#include "python/decode_tables.hpp"
#include "python/layers.hpp"
#include "python/relations.hpp"
#include "python/sweep_weights.hpp"
#include "python/topology.hpp"

namespace ghnfast::python {
namespace {

// The weights of a GHN, kept alive and checked.
template <typename T>
class GhnArrays {
 public:
  // tables: of primitives, channels and kernel sizes. sweep: 8 or 12 weights of a gated sweep, 4 of an MLP, those of
  // Graphormer layers, or none where states come from elsewhere. norm: 0 or 2. decoder: (weight, bias) of cells,
  // hidden, products, classes, both layers for vectors, and class biases.
  GhnArrays(const std::vector<py::array>& tables, Int64Array channel_rows, Int64Array kernel_rows,
            std::vector<py::array> sweep, std::vector<py::array> norm, double norm_epsilon,
            std::vector<py::array> decoder, std::int64_t rows, std::int64_t columns, bool centred)
      : tables_(floats_of<T>(tables, "a table")),
        norm_(std::move(norm)),
        sweep_(std::move(sweep)),
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
      pointers.node_mlp[0] = layers_.linear(sweep_[0], sweep_[1], sweep_[0].shape(0), hid);
      pointers.node_mlp[1] = layers_.linear(sweep_[2], sweep_[3], hid, sweep_[0].shape(0));
    } else if (sweep_.size() > 12) {
      pointers.graphormer = layers_.graphormer(sweep_, hid);
    } else if (!sweep_.empty()) {
      gated_ = floats_of<T>(sweep_, "a weight of a sweep");
      pointers.sweep = sweep_pointers<const T>(gated_, static_cast<int>(hid));
    }
    if (!norm_.empty()) {
      pointers.norm = layers_.norm(norm_[0], norm_[1], hid, norm_epsilon);
    }
    set_decoder(rows, columns);
    pointers.centred = centred;
  }

  py::ssize_t primitives() const { return tables_[0].shape(0); }
  std::size_t sweep_weights() const { return sweep_.size(); }
  bool attends() const { return !pointers.graphormer.layers.empty(); }
  py::ssize_t vector_elements() const { return decoder_[10].shape(0); }

  GhnPointers<T> pointers;

 private:
  SizeTable<T> size_table(const Floats<T>& table, const Int64Array& rows) const {
    check_shape(table, {table.ndim() == 2 ? table.shape(0) : 0, tables_[0].shape(1) / 4}, "a table of sizes");
    check_flat(rows.ndim(), "the rows of a table of sizes");
    const auto fits = [&](std::int64_t row) { return row >= 0 && row < table.shape(0); };
    if (rows.size() < 2 || !std::all_of(rows.data(), rows.data() + rows.size(), fits)) {
      throw std::invalid_argument("rows of a table of sizes are out of range");
    }
    return {table.data(), rows.data(), rows.size()};
  }

  void set_decoder(std::int64_t rows, std::int64_t columns) {
    if (!is_within({rows, columns}, kMostElements)) {
      throw std::invalid_argument("blocks have " + std::to_string(rows) + " rows and " + std::to_string(columns) +
                                  " columns; positive numbers are accepted");
    }
    const auto hid = pointers.hid, channels = 4 * hid;
    const auto of = [&](std::size_t index, py::ssize_t outputs, py::ssize_t inputs) {
      return layers_.linear(decoder_[2 * index], decoder_[2 * index + 1], outputs, inputs);
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

  std::vector<Floats<T>> tables_, gated_;
  std::vector<py::array> norm_, sweep_, decoder_;
  Layers<T> layers_;
  Int64Array channel_rows_, kernel_rows_;
};

// Attention needs the codes of the pairs of the same graphs, none of which is beyond its table, nor a distance beyond
// that of distances.
inline void check_relations(const TopologyArrays& arrays, const RelationArrays* relations) {
  const auto& topology = arrays.topology;
  if (relations == nullptr || relations->relations.graphs != topology.graphs ||
      !std::equal(topology.graph_offsets, topology.graph_offsets + topology.graphs + 1,
                  relations->relations.graph_offsets) ||
      relations->kinds > 2 * kReach + 1 || topology.cutoff >= kInputDistances) {
    throw std::invalid_argument("attention needs the codes of the pairs of the same graphs, of 50 hops at most");
  }
}

template <typename T>
Floats<T> node_states(const GhnArrays<T>& ghn, const TopologyArrays& arrays, const Int8Array& primitives,
                      const Int64Array& shapes, int threads, const RelationArrays* relations) {
  const auto nodes = arrays.nodes();
  const auto known = [&](std::int8_t primitive) { return primitive >= 0 && primitive < ghn.primitives(); };
  check_flat(primitives.ndim(), "primitives");
  if (primitives.size() != nodes || shapes.ndim() != 2 || shapes.shape(0) != nodes || shapes.shape(1) != 4 ||
      !std::all_of(primitives.data(), primitives.data() + nodes, known)) {
    throw std::invalid_argument("primitives must be (nodes), each with an embedding, and shapes (nodes, 4)");
  }
  if (ghn.sweep_weights() == 0) {
    throw std::invalid_argument("a GHN without the weights of a sweep has no states of nodes");
  }
  if ((ghn.sweep_weights() == 12 || ghn.attends()) && arrays.topology.band_offsets == nullptr) {
    throw std::invalid_argument("virtual edges and attention need the bands of shortest paths");
  }
  if (ghn.attends()) {
    check_relations(arrays, relations);
  }
  Floats<T> states({static_cast<py::ssize_t>(nodes), static_cast<py::ssize_t>(ghn.pointers.hid)});
  const auto* primitives_data = primitives.data();
  const auto* shapes_data = shapes.data();
  T* to = states.mutable_data();
  {
    py::gil_scoped_release released;
    ghnfast::node_states(ghn.pointers, arrays.topology, relations == nullptr ? Relations{} : relations->relations,
                         primitives_data, shapes_data, nodes, to, threads);
  }
  return states;
}

// Each call reads states that are there, and writes where there is room.
template <typename T>
void check_calls(const GhnArrays<T>& ghn, const std::vector<DecoderCall>& calls, std::int64_t nodes,
                 std::int64_t hidden_rows, std::int64_t elements) {
  const auto& sizes = ghn.pointers;
  std::int64_t kernel_rows = 0;
  for (const auto& call : calls) {
    bool fits = call.begin >= 0 && call.count >= 0 && call.begin + call.count <= nodes && call.first >= 0;
    std::int64_t each = 0, room = elements;
    if (call.decoder == DecoderKind::kKernel) {
      fits &= call.height >= 1 && call.width >= 1 && call.height <= sizes.size && call.width <= sizes.size;
      fits = fits && call.cells == call.height * call.width;
      each = call.cells;
      room = hidden_rows;
      kernel_rows += call.count * call.cells;
    } else if (call.decoder == DecoderKind::kClassWeight) {
      fits &= call.columns >= 1 && call.columns <= sizes.columns && call.cells == 1;
      fits &= call.height == 1 && call.width == 1 && sizes.size >= 1;
      each = sizes.classes.outputs * call.columns;
    } else if (call.decoder == DecoderKind::kClassBias) {
      each = sizes.classes.outputs;
    } else if (call.decoder != DecoderKind::kWhole) {
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

// The rows of `hidden` that class weights are made of, behind those of kernels.
std::int64_t class_rows(const std::vector<DecoderCall>& calls) {
  std::int64_t rows = 0;
  for (const auto& call : calls) {
    rows += call.decoder == DecoderKind::kClassWeight ? call.count : 0;
  }
  return rows;
}

template <typename T>
py::tuple decode_inputs(const GhnArrays<T>& ghn, const Floats<T>& states, const Int64Array& nodes,
                        const std::vector<DecoderCall>& calls, std::int64_t hidden_rows, std::int64_t elements,
                        int threads) {
  check_shape(states, {states.shape(0), static_cast<py::ssize_t>(ghn.pointers.hid)}, "states");
  const auto chosen = to_vector(nodes, "nodes");
  const auto there = [&](std::int64_t node) { return node >= 0 && node < states.shape(0); };
  if (!std::all_of(chosen.begin(), chosen.end(), there)) {
    throw std::invalid_argument("a node is out of range");
  }
  check_calls(ghn, calls, nodes.size(), hidden_rows, elements);
  Floats<T> hidden({static_cast<py::ssize_t>(hidden_rows + class_rows(calls)),
                    static_cast<py::ssize_t>(ghn.pointers.products.inputs)});
  Floats<T> blocks(elements);
  const T* from = states.data();
  T *hidden_data = hidden.mutable_data(), *blocks_data = blocks.mutable_data();
  {
    py::gil_scoped_release released;
    ghnfast::decode_inputs(ghn.pointers, from, chosen, calls, hidden_data, blocks_data, threads);
  }
  return py::make_tuple(hidden, blocks);
}

// What `decode_inputs` gave for these calls.
template <typename T>
void check_inputs(const GhnArrays<T>& ghn, const std::vector<DecoderCall>& calls, const Floats<T>& hidden,
                  const Floats<T>& blocks) {
  check_shape(hidden, {hidden.ndim() == 2 ? hidden.shape(0) : 0, ghn.pointers.products.inputs}, "hidden");
  check_flat(blocks.ndim(), "blocks");
  check_calls(ghn, calls, kMostElements, hidden.shape(0) - class_rows(calls), blocks.size());
}

template <typename T>
void class_weights(const GhnArrays<T>& ghn, const std::vector<DecoderCall>& calls, const Floats<T>& hidden,
                   Floats<T>& blocks, int threads) {
  check_inputs(ghn, calls, hidden, blocks);
  const T* from = hidden.data();
  T* to = blocks.mutable_data();
  py::gil_scoped_release released;
  ghnfast::class_weights(ghn.pointers, calls, from, to, threads);
}

template <typename T>
std::int64_t decode_all(const GhnArrays<T>& ghn, const std::vector<DecoderCall>& calls, const Floats<T>& hidden,
                        Floats<T>& blocks, const Table<DecodeTarget>& table, const Table<DecodeMemory>& memory_table,
                        int threads, const py::object& before_writing, std::optional<double> largest_weight,
                        bool rounds) {
  check_inputs(ghn, calls, hidden, blocks);
  const auto targets = decode_targets(table);
  const auto memory = decode_memory(memory_table, targets.size());
  const auto call = callback(before_writing);
  const T* from = hidden.data();
  T* to = blocks.mutable_data();
  const auto elements = blocks.size();
  py::gil_scoped_release released;
  return ghnfast::decode_all(ghn.pointers, calls, from, to, elements, largest_weight.value_or(-1),
                             rounds && rounds_products(), targets, memory, threads, call);
}

template <typename T>
void bind_ghn(py::module_& module, const char* name) {
  using Weights = std::vector<py::array>;
  py::class_<GhnArrays<T>>(module, name, py::module_local(), "The weights of a GHN.")
      .def(py::init<const Weights&, Int64Array, Int64Array, Weights, Weights, double, Weights, std::int64_t,
                    std::int64_t, bool>(),
           py::arg("tables"), py::arg("channel_rows"), py::arg("kernel_rows"), py::arg("sweep"), py::arg("norm"),
           py::arg("norm_epsilon"), py::arg("decoder"), py::arg("rows"), py::arg("columns"),
           py::arg("centred").noconvert())
      .def("node_states", &node_states<T>, py::arg("topology"), py::arg("primitives"), py::arg("shapes"),
           py::arg("threads"), py::arg("relations") = py::none(),
           "(nodes, hid): embedding, sweep or attention, and normalization.")
      .def("decode_inputs", &decode_inputs<T>, py::arg("states").noconvert(), py::arg("nodes"), py::arg("calls"),
           py::arg("hidden_rows"), py::arg("elements"), py::arg("threads"),
           "(hidden, blocks): what the last step of decoding reads; behind the other rows of `hidden` those of class "
           "weights, whose blocks are left.")
      .def("class_weights", &class_weights<T>, py::arg("calls"), py::arg("hidden").noconvert(),
           py::arg("blocks").noconvert(), py::arg("threads"),
           "Fill the blocks of class weights that `decode_inputs` left.")
      .def("decode", &decode_all<T>, py::arg("calls"), py::arg("hidden").noconvert(), py::arg("blocks").noconvert(),
           py::arg("targets"), py::arg("memory"), py::arg("threads"), py::arg("before_writing") = py::none(),
           py::arg("largest_weight") = py::none(), py::arg("rounds").noconvert() = false,
           "Write targets to their memory, as `decode` does with check, from what `decode_inputs` gave.");
}

}  // namespace

void bind_forward(py::module_& module) {
  bind_ghn<float>(module, "GhnFloat");
  bind_ghn<double>(module, "GhnDouble");
}

}  // namespace ghnfast::python
