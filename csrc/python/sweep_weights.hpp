// The arrays of a sweep's weights, or of their gradients.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

#include "python/arrays.hpp"
#include "sweep/sweep.hpp"

namespace ghnfast::python {

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
SweepPointers<Value> sweep_pointers(Arrays& weights, int hid) {
  if (weights.size() != 8 && weights.size() != 12) {
    throw std::invalid_argument(std::to_string(weights.size()) + " weights were given; 8 or 12 are accepted");
  }
  const auto mlp = [&](std::size_t at) {
    const int hidden = weights[at].ndim() == 2 ? static_cast<int>(weights[at].shape(0)) : 0;
    check_shape(weights[at], {hidden, hid}, "weight_1");
    check_shape(weights[at + 1], {hidden}, "bias_1");
    check_shape(weights[at + 2], {hid, hidden}, "weight_2");
    check_shape(weights[at + 3], {hid}, "bias_2");
    return MlpPointers<Value>{pointer(weights[at]), pointer(weights[at + 1]), pointer(weights[at + 2]),
                              pointer(weights[at + 3]), hidden};
  };
  SweepPointers<Value> pointers;
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

}  // namespace ghnfast::python
