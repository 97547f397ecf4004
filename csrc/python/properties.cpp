#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "properties/path_sums.hpp"
#include "python/arrays.hpp"
#include "python/bindings.hpp"
#include "python/topology.hpp"

namespace ghnfast::python {
namespace {

Floats<double> path_sums(const TopologyArrays& arrays, const Int32Array& kinds, const Floats<double>& weights,
                         int threads) {
  check_flat(kinds.ndim(), "kinds");
  if (kinds.size() != arrays.nodes()) {
    throw std::invalid_argument("there are " + std::to_string(kinds.size()) + " kinds of " +
                                std::to_string(arrays.nodes()) + " nodes; one for each is accepted");
  }
  if (weights.ndim() != 2) {
    throw std::invalid_argument("weights must be (kinds, directions)");
  }
  const auto* const begin = kinds.data();
  if (!std::all_of(begin, begin + kinds.size(), [&](auto kind) { return kind >= 0 && kind < weights.shape(0); })) {
    throw std::invalid_argument("a kind has no row of weights");
  }
  if (!std::all_of(weights.data(), weights.data() + weights.size(),
                   [](double weight) { return std::isfinite(weight); })) {
    throw std::invalid_argument("a weight is not finite");
  }
  Floats<double> sums({py::ssize_t{arrays.topology.graphs}, weights.shape(1)});
  auto* const to = sums.mutable_data();
  const PathWeights given{weights.shape(1), begin, weights.data()};
  {
    py::gil_scoped_release released;
    ghnfast::path_sums(arrays.topology, given, to, threads);
  }
  return sums;
}

}  // namespace

void bind_properties(py::module_& module) {
  module.def("path_sums", &path_sums, py::arg("topology"), py::arg("kinds"), py::arg("weights").noconvert(),
             py::arg("threads"),
             "Of each graph the logarithms of sums over its paths, one for each direction of the weights.");
}

}  // namespace ghnfast::python
