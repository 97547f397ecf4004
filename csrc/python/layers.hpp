// The weights of layers as arrays, checked.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "forward/graphormer.hpp"
#include "forward/linear.hpp"
#include "python/arrays.hpp"

namespace ghnfast::python {

// The numbers of an array: of T, or for float also float16, or int16, which stands for bfloat16.
template <typename T>
Numbers<T> numbers_of(const py::array& array, const char* name) {
  const auto type = array.dtype();
  const bool half = std::is_same_v<T, float> && type.itemsize() == 2;
  const bool known = type.is(py::dtype::of<T>()) || (half && (type.kind() == 'f' || type.kind() == 'i'));
  if (!known || (array.flags() & py::array::c_style) == 0) {
    throw py::type_error(std::string(name) + " is no contiguous array of the dtype that is computed with" +
                         (std::is_same_v<T, float> ? ", of float16, or of int16 for bfloat16" : ""));
  }
  return {array.data(), !half ? Stored::kSame : type.kind() == 'f' ? Stored::kFloat16 : Stored::kBFloat16};
}

// The same array, or one of T with its half-precision numbers.
template <typename T>
Floats<T> floats_of(const py::array& array, const char* name) {
  const auto numbers = numbers_of<T>(array, name);
  if (numbers.stored == Stored::kSame) {
    return py::cast<Floats<T>>(array);
  }
  Floats<T> floats(std::vector<py::ssize_t>(array.shape(), array.shape() + array.ndim()));
  widen(numbers, array.size(), floats.mutable_data());
  return floats;
}

template <typename T>
std::vector<Floats<T>> floats_of(const std::vector<py::array>& arrays, const char* name) {
  std::vector<Floats<T>> floats;
  for (const auto& array : arrays) {
    floats.push_back(floats_of<T>(array, name));
  }
  return floats;
}

// Makes layers of arrays, which have to stay, and keeps what it has to make of them.
template <typename T>
class Layers {
 public:
  const T* elements(const py::array& array, const std::vector<py::ssize_t>& shape, const char* name) {
    check_shape(array, shape, name);
    kept_.push_back(floats_of<T>(array, name));
    return kept_.back().data();
  }

  // A linear layer: weight (out, in), which stays as it is, and bias (out).
  Layer<T> linear(const py::array& weight, const py::array& bias, py::ssize_t outputs, py::ssize_t inputs) {
    check_shape(weight, {outputs, inputs}, "the weight of a layer");
    return {numbers_of<T>(weight, "the weight of a layer"), elements(bias, {outputs}, "the bias of a layer"), outputs,
            inputs};
  }

  Norm<T> norm(const py::array& weight, const py::array& bias, py::ssize_t inputs, double epsilon) {
    return {elements(weight, {inputs}, "the weight of a layer norm"),
            elements(bias, {inputs}, "the bias of a layer norm"), epsilon};
  }

  GraphormerPointers<T> graphormer(const std::vector<py::array>& weights, py::ssize_t hid);

 private:
  std::vector<Floats<T>> kept_;
};

// Tables of degrees in and out, of distances and of edges, (weight, bias) of both layers of edges, and of each layer
// (weight, bias) of the first norm, the weight of queries, keys and values, (weight, bias) of what follows attention,
// of the second norm, and of both layers of the MLP.
template <typename T>
GraphormerPointers<T> Layers<T>::graphormer(const std::vector<py::array>& weights, py::ssize_t hid) {
  constexpr double kEpsilon = 1e-5;
  constexpr std::size_t kShared = 8, kPerLayer = 11;
  if (weights.size() < kShared + kPerLayer || (weights.size() - kShared) % kPerLayer != 0) {
    throw std::invalid_argument(std::to_string(weights.size()) + " weights of a Graphormer were given; " +
                                std::to_string(kShared) + ", and " + std::to_string(kPerLayer) +
                                " for each layer are accepted");
  }
  const auto heads = weights[6].ndim() == 2 ? weights[6].shape(0) : 0;
  if (heads < 1 || hid % heads != 0) {
    throw std::invalid_argument("a Graphormer of width " + std::to_string(hid) + " has " + std::to_string(heads) +
                                " heads; a divisor of the width is accepted");
  }
  GraphormerPointers<T> pointers;
  pointers.degrees_in = elements(weights[0], {kDegrees, hid}, "a table of degrees");
  pointers.degrees_out = elements(weights[1], {kDegrees, hid}, "a table of degrees");
  pointers.distances = elements(weights[2], {kInputDistances, hid}, "a table of distances");
  pointers.edges = elements(weights[3], {kEdgeRows, hid}, "a table of edges");
  pointers.edge_units = linear(weights[4], weights[5], hid, 2 * hid);
  pointers.edge_bias = linear(weights[6], weights[7], heads, hid);
  for (auto at = weights.data() + kShared; at != weights.data() + weights.size(); at += kPerLayer) {
    const auto units = at[7].ndim() == 2 ? at[7].shape(0) : 0;
    check_shape(at[2], {3 * hid, hid}, "the weight of queries, keys and values");
    GraphormerLayer<T> own;
    own.norm_1 = norm(at[0], at[1], hid, kEpsilon);
    own.qkv = {numbers_of<T>(at[2], "the weight of queries, keys and values"), nullptr, 3 * hid, hid};
    own.out = linear(at[3], at[4], hid, hid);
    own.norm_2 = norm(at[5], at[6], hid, kEpsilon);
    own.up = linear(at[7], at[8], units, hid);
    own.down = linear(at[9], at[10], hid, units);
    pointers.layers.push_back(own);
  }
  return pointers;
}

}  // namespace ghnfast::python
