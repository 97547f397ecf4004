#include "attention/attention.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "attention/relations.hpp"
#include "python/arrays.hpp"
#include "python/bindings.hpp"
#include "python/relations.hpp"
#include "python/topology.hpp"

namespace ghnfast::python {
namespace {

constexpr std::int64_t kMostNodes = std::int64_t{1} << 30;

template <typename T>
AttentionInputs<T> inputs_of(const Floats<T>& qkv, const Floats<T>& table, const RelationArrays& relations) {
  if (table.ndim() != 2 || table.shape(0) < relations.kinds || table.shape(0) > 256 || table.shape(1) < 1 ||
      table.shape(1) > std::numeric_limits<int>::max()) {
    throw std::invalid_argument("table must be (kinds, heads), with a row for each code, and at most 256");
  }
  const auto heads = table.shape(1);
  if (qkv.ndim() != 2 || qkv.shape(0) != relations.nodes || qkv.shape(1) < 1 || qkv.shape(1) % (3 * heads) != 0 ||
      qkv.shape(1) > std::numeric_limits<int>::max()) {
    throw std::invalid_argument("qkv must be (nodes, 3 heads width)");
  }
  AttentionInputs<T> inputs;
  inputs.heads = static_cast<int>(heads);
  inputs.width = static_cast<int>(qkv.shape(1) / 3 / heads);
  inputs.kinds = static_cast<int>(table.shape(0));
  inputs.qkv = qkv.data();
  inputs.table = table.data();
  return inputs;
}

template <typename T>
py::tuple attention(const Floats<T>& qkv, const Floats<T>& table, const RelationArrays& relations, bool keep,
                    int threads) {
  const auto inputs = inputs_of(qkv, table, relations);
  Floats<T> result({qkv.shape(0), qkv.shape(1) / 3}), log_sums({keep ? qkv.shape(0) : 0, table.shape(1)});
  T *to = result.mutable_data(), *kept = keep ? log_sums.mutable_data() : nullptr;
  {
    py::gil_scoped_release released;
    ghnfast::attention(relations.relations, inputs, to, kept, threads);
  }
  return py::make_tuple(result, log_sums);
}

template <typename T>
py::tuple attention_backward(const Floats<T>& grad, const Floats<T>& qkv, const Floats<T>& table,
                             const RelationArrays& relations, const Floats<T>& result, const Floats<T>& log_sums,
                             int threads) {
  const auto inputs = inputs_of(qkv, table, relations);
  check_shape(grad, {qkv.shape(0), qkv.shape(1) / 3}, "grad");
  check_shape(result, {qkv.shape(0), qkv.shape(1) / 3}, "result");
  check_shape(log_sums, {qkv.shape(0), table.shape(1)}, "log_sums");
  Floats<T> grad_qkv({qkv.shape(0), qkv.shape(1)}), grad_table({table.shape(0), table.shape(1)});
  const T *given = result.data(), *sums = log_sums.data(), *from = grad.data();
  T *to_qkv = grad_qkv.mutable_data(), *to_table = grad_table.mutable_data();
  {
    py::gil_scoped_release released;
    ghnfast::attention_backward(relations.relations, inputs, given, sums, from, to_qkv, to_table, threads);
  }
  return py::make_tuple(grad_qkv, grad_table);
}

py::array_t<std::uint8_t> pair_codes(const TopologyArrays& arrays, int reach, int threads) {
  std::vector<std::uint8_t> codes;
  {
    py::gil_scoped_release released;
    codes = ghnfast::pair_codes(arrays.topology, reach, threads);
  }
  return to_array(codes);
}

// For one type of numbers; those of an array choose the overload.
template <typename T>
void bind_kernels(py::module_& module) {
  module.def("attention", &attention<T>, py::arg("qkv").noconvert(), py::arg("table").noconvert(), py::arg("relations"),
             py::arg("keep").noconvert(), py::arg("threads"),
             "Attention within graphs: (result, logarithms of the sums of exponentials; none unless `keep`).");
  module.def("attention_backward", &attention_backward<T>, py::arg("grad").noconvert(), py::arg("qkv").noconvert(),
             py::arg("table").noconvert(), py::arg("relations"), py::arg("result").noconvert(),
             py::arg("log_sums").noconvert(), py::arg("threads"), "The gradients of attention: (of qkv, of table).");
}

}  // namespace

RelationArrays::RelationArrays(Int64Array graph_offsets, UInt8Array codes)
    : graph_offsets_(std::move(graph_offsets)), codes_(std::move(codes)) {
  check_flat(graph_offsets_.ndim(), "graph_offsets");
  check_flat(codes_.ndim(), "codes");
  if (graph_offsets_.size() < 1) {
    throw std::invalid_argument("graph_offsets is empty; one more than there are graphs is accepted");
  }
  const auto* offsets = graph_offsets_.data();
  nodes = offsets[graph_offsets_.size() - 1];
  check_offsets(graph_offsets_, "graph_offsets", nodes);
  pair_offsets_.push_back(0);
  for (py::ssize_t graph = 0; graph + 1 < graph_offsets_.size(); ++graph) {
    const auto count = std::min<std::int64_t>(offsets[graph + 1] - offsets[graph], kMostNodes);
    pair_offsets_.push_back(pair_offsets_.back() + count * count);
    if (pair_offsets_.back() > codes_.size()) {
      break;
    }
  }
  if (static_cast<py::ssize_t>(pair_offsets_.size()) != graph_offsets_.size() ||
      pair_offsets_.back() != codes_.size()) {
    throw std::invalid_argument("there are " + std::to_string(codes_.size()) +
                                " codes; one for each pair of nodes of each graph is accepted");
  }
  const auto* most = std::max_element(codes_.data(), codes_.data() + codes_.size());
  kinds = codes_.size() == 0 ? 0 : *most + 1;
  relations.graphs = graph_offsets_.size() - 1;
  relations.graph_offsets = offsets;
  relations.pair_offsets = pair_offsets_.data();
  relations.codes = codes_.data();
}

void bind_attention(py::module_& module) {
  py::class_<RelationArrays>(module, "Relations", py::module_local())
      .def(py::init<Int64Array, UInt8Array>(), py::arg("graph_offsets"), py::arg("codes"));
  module.def("pair_codes", &pair_codes, py::arg("topology"), py::arg("reach"), py::arg("threads"),
             "What the nodes of each pair of a graph are to each other; of each graph an (n, n) matrix.");
  bind_kernels<float>(module);
  bind_kernels<double>(module);
}

}  // namespace ghnfast::python
