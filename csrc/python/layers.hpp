// The weights of layers as arrays, checked.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

#include "forward/graphormer.hpp"
#include "forward/linear.hpp"
#include "python/arrays.hpp"

namespace ghnfast::python {

// A linear layer: weight (out, in), bias (out).
template <typename T>
Layer<T> layer(const Floats<T>& weight, const Floats<T>& bias, py::ssize_t outputs, py::ssize_t inputs) {
  check_shape(weight, {outputs, inputs}, "the weight of a layer");
  check_shape(bias, {outputs}, "the bias of a layer");
  return {weight.data(), bias.data(), outputs, inputs};
}

template <typename T>
Norm<T> layer_norm(const Floats<T>& weight, const Floats<T>& bias, py::ssize_t inputs, double epsilon) {
  check_shape(weight, {inputs}, "the weight of a layer norm");
  check_shape(bias, {inputs}, "the bias of a layer norm");
  return {weight.data(), bias.data(), epsilon};
}

// Tables of degrees in and out, of distances and of edges, (weight, bias) of both layers of edges, and of each layer
// (weight, bias) of the first norm, the weight of queries, keys and values, (weight, bias) of what follows attention,
// of the second norm, and of both layers of the MLP.
template <typename T>
GraphormerPointers<T> graphormer_pointers(const std::vector<Floats<T>>& weights, py::ssize_t hid) {
  constexpr double kEpsilon = 1e-5;
  constexpr std::size_t kShared = 8, kPerLayer = 11;
  if (weights.size() < kShared + kPerLayer || (weights.size() - kShared) % kPerLayer != 0) {
    throw std::invalid_argument(std::to_string(weights.size()) + " weights of a Graphormer were given; " +
                                std::to_string(kShared) + ", and " + std::to_string(kPerLayer) +
                                " for each layer are accepted");
  }
  check_shape(weights[0], {kDegrees, hid}, "a table of degrees");
  check_shape(weights[1], {kDegrees, hid}, "a table of degrees");
  check_shape(weights[2], {kInputDistances, hid}, "a table of distances");
  check_shape(weights[3], {kEdgeRows, hid}, "a table of edges");
  const auto heads = weights[6].ndim() == 2 ? weights[6].shape(0) : 0;
  if (heads < 1 || hid % heads != 0) {
    throw std::invalid_argument("a Graphormer of width " + std::to_string(hid) + " has " + std::to_string(heads) +
                                " heads; a divisor of the width is accepted");
  }
  GraphormerPointers<T> pointers;
  pointers.degrees_in = weights[0].data();
  pointers.degrees_out = weights[1].data();
  pointers.distances = weights[2].data();
  pointers.edges = weights[3].data();
  pointers.edge_units = layer(weights[4], weights[5], hid, 2 * hid);
  pointers.edge_bias = layer(weights[6], weights[7], heads, hid);
  for (auto at = weights.data() + kShared; at != weights.data() + weights.size(); at += kPerLayer) {
    const auto units = at[7].ndim() == 2 ? at[7].shape(0) : 0;
    check_shape(at[2], {3 * hid, hid}, "the weight of queries, keys and values");
    GraphormerLayer<T> own;
    own.norm_1 = layer_norm(at[0], at[1], hid, kEpsilon);
    own.qkv = {at[2].data(), nullptr, 3 * hid, hid};
    own.out = layer(at[3], at[4], hid, hid);
    own.norm_2 = layer_norm(at[5], at[6], hid, kEpsilon);
    own.up = layer(at[7], at[8], units, hid);
    own.down = layer(at[9], at[10], hid, units);
    pointers.layers.push_back(own);
  }
  return pointers;
}

}  // namespace ghnfast::python
