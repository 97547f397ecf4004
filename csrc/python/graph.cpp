#include "graph/graph.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "graph/paths.hpp"
#include "python/arrays.hpp"
#include "python/bindings.hpp"

namespace ghnfast::python {
namespace {

py::tuple build_graph(const Int8Array& kinds, const Int32Array& input_offsets, const Int32Array& inputs,
                      const Int32Array& outputs) {
  TracedOperations traced;
  check_flat(kinds.ndim(), "kinds");
  traced.kinds.resize(kinds.size());
  std::transform(kinds.data(), kinds.data() + kinds.size(), traced.kinds.begin(),
                 [](std::int8_t kind) { return static_cast<Kind>(kind); });
  traced.input_offsets = to_vector(input_offsets, "input_offsets");
  traced.inputs = to_vector(inputs, "inputs");
  traced.outputs = to_vector(outputs, "outputs");
  Graph graph;
  {
    py::gil_scoped_release released;
    graph = ghnfast::build_graph(traced);
  }
  std::vector<std::int8_t> fates(graph.fates.size());
  std::transform(graph.fates.begin(), graph.fates.end(), fates.begin(),
                 [](Fate fate) { return static_cast<std::int8_t>(fate); });
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
  HopBands bands;
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

}  // namespace

void bind_graph(py::module_& module) {
  module.def("build_graph", &build_graph, py::arg("kinds"), py::arg("input_offsets"), py::arg("inputs"),
             py::arg("outputs"),
             "Contract, prune and order traced operations: (operations, primitives, edges, level_offsets, fates, "
             "classifier_weight, classifier_bias).");
  module.def("hop_bands", &hop_bands, py::arg("graph_offsets"), py::arg("edge_offsets"), py::arg("edge_sources"),
             py::arg("cutoff"), py::arg("threads"),
             "Shortest paths: (starts, offsets, closeness); closeness is cutoff + 1 - distance, or 0.");
  module.def("reversed_bands", &reversed_bands, py::arg("starts"), py::arg("offsets"), py::arg("closeness"),
             "The shortest paths of `hop_bands` by where they come from: (starts, offsets, closeness).");
}

}  // namespace ghnfast::python
