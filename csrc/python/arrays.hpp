// Arrays of numpy as arguments and results, and checks of them.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "python/integers.hpp"

namespace ghnfast::python {

namespace py = pybind11;

using Int8Array = Integers<std::int8_t>;
using Int32Array = Integers<std::int32_t>;
using Int64Array = Integers<std::int64_t>;
using UInt8Array = Integers<std::uint8_t>;
template <typename T>
using Floats = py::array_t<T, py::array::c_style>;

inline void check_flat(py::ssize_t dimensions, const char* name) {
  if (dimensions != 1) {
    throw std::invalid_argument(std::string(name) + " has " + std::to_string(dimensions) +
                                " dimensions; one is accepted");
  }
}

template <typename T>
std::vector<T> to_vector(const Integers<T>& array, const char* name) {
  check_flat(array.ndim(), name);
  return {array.data(), array.data() + array.size()};
}

template <typename T>
py::array_t<T> to_array(const std::vector<T>& values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

// A number as one of an enum's, which are numbered through up to kCount; `what` stands before it in the error.
template <typename Enum>
Enum to_enum(std::int64_t number, const char* what) {
  constexpr auto kCount = static_cast<std::int64_t>(Enum::kCount);
  if (number < 0 || number >= kCount) {
    throw std::invalid_argument(what + std::to_string(number) + "; 0 to " + std::to_string(kCount - 1) +
                                " are accepted");
  }
  return static_cast<Enum>(number);
}

// Offsets rise from 0 to `end`.
inline void check_offsets(const Int64Array& offsets, const char* name, std::int64_t end) {
  check_flat(offsets.ndim(), name);
  const auto* begin = offsets.data();
  if (offsets.size() < 1 || begin[0] != 0 || begin[offsets.size() - 1] != end ||
      !std::is_sorted(begin, begin + offsets.size())) {
    throw std::invalid_argument(std::string(name) + " must rise from 0 to " + std::to_string(end));
  }
}

inline void check_shape(const py::array& array, const std::vector<py::ssize_t>& shape, const char* name) {
  if (!std::equal(shape.begin(), shape.end(), array.shape(), array.shape() + array.ndim())) {
    throw std::invalid_argument(std::string(name) + " has another shape than the other arrays call for");
  }
}

}  // namespace ghnfast::python
