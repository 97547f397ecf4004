#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>

#include "graph.hpp"

namespace py = pybind11;

namespace {

using ghnfast::Kind;
using Int32Array = py::array_t<std::int32_t, py::array::c_style | py::array::forcecast>;
using Int8Array = py::array_t<std::int8_t, py::array::c_style | py::array::forcecast>;

std::vector<std::int32_t> to_vector(const Int32Array& array) { return {array.data(), array.data() + array.size()}; }

template <typename T>
py::array_t<T> to_array(const std::vector<T>& values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

py::tuple build_graph(const Int8Array& kinds, const Int32Array& input_offsets, const Int32Array& inputs,
                      const Int32Array& outputs) {
  ghnfast::TracedOperations traced;
  traced.kinds.resize(kinds.size());
  std::transform(kinds.data(), kinds.data() + kinds.size(), traced.kinds.begin(),
                 [](std::int8_t kind) { return static_cast<Kind>(kind); });
  traced.input_offsets = to_vector(input_offsets);
  traced.inputs = to_vector(inputs);
  traced.outputs = to_vector(outputs);
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

py::array_t<std::uint8_t> shortest_paths(std::int32_t node_count, const Int32Array& edges, std::int32_t cutoff) {
  if (edges.size() % 2 != 0) {
    throw std::invalid_argument("edges must be pairs (from, to)");
  }
  const auto pairs = to_vector(edges);
  auto* distances = new std::vector<std::uint8_t>();
  // The array owns the vector from here on, so that nothing leaks if the search throws.
  py::capsule owner(distances, [](void* pointer) { delete static_cast<std::vector<std::uint8_t>*>(pointer); });
  {
    py::gil_scoped_release released;
    *distances = ghnfast::shortest_paths(node_count, pairs, cutoff);
  }
  const auto size = static_cast<py::ssize_t>(node_count);
  return py::array_t<std::uint8_t>({size, size}, distances->data(), owner);
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
      .value("POINTWISE_CONV", Kind::kPointwiseConv)
      .value("HARDSWISH", Kind::kHardswish)
      .value("VIEW", Kind::kView);
  py::enum_<ghnfast::Fate>(module, "Fate", py::module_local())
      .value("NODE", ghnfast::Fate::kNode)
      .value("CONTRACTED", ghnfast::Fate::kContracted)
      .value("NO_INPUT", ghnfast::Fate::kNoInput)
      .value("NO_OUTPUT", ghnfast::Fate::kNoOutput)
      .value("ATTENTION_OFFSET", ghnfast::Fate::kAttentionOffset);
  module.def("build_graph", &build_graph, py::arg("kinds"), py::arg("input_offsets"), py::arg("inputs"),
             py::arg("outputs"),
             "Contract, prune and order traced operations: (operations, primitives, edges, level_offsets, fates, "
             "classifier_weight, classifier_bias).");
  module.def("shortest_paths", &shortest_paths, py::arg("node_count"), py::arg("edges"), py::arg("cutoff"),
             "Shortest-path distances in hops as a (node_count, node_count) uint8 matrix; 0 where there is no path "
             "within the cutoff.");
}
