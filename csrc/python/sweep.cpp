#include "sweep/sweep.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "python/arrays.hpp"
#include "python/bindings.hpp"
#include "python/sweep_weights.hpp"
#include "python/topology.hpp"

namespace ghnfast::python {
namespace {

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

// For one type of numbers; those of an array choose the overload.
template <typename T>
void bind_sweep_kernels(py::module_& module) {
  module.def("gated_sweep", &gated_sweep<T>, py::arg("states").noconvert(), py::arg("weights").noconvert(),
             py::arg("topology"), py::arg("threads"), "Node states after a sweep forward and one in reverse.");
  module.def("gated_sweep_backward", &gated_sweep_backward<T>, py::arg("grad").noconvert(),
             py::arg("states").noconvert(), py::arg("weights").noconvert(), py::arg("topology"), py::arg("threads"),
             "The gradients of a sweep: (of states, [of each weight]).");
}

}  // namespace

void bind_sweep(py::module_& module) {
  py::class_<TopologyArrays>(module, "Topology", py::module_local())
      .def(py::init<Int64Array, Int64Array, Int32Array, Int32Array, Int64Array, UInt8Array, int>(),
           py::arg("graph_offsets"), py::arg("edge_offsets"), py::arg("edge_sources"), py::arg("band_starts"),
           py::arg("band_offsets"), py::arg("closeness"), py::arg("cutoff"));
  bind_sweep_kernels<float>(module);
  bind_sweep_kernels<double>(module);
}

}  // namespace ghnfast::python
