// Arrays of integers as arguments from Python: of any integer type that can be converted without a loss.
#pragma once

#include <pybind11/numpy.h>

#include <algorithm>
#include <cstdint>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

namespace ghnfast {

template <typename T>
class Integers {
 public:
  using Array = pybind11::array_t<T, pybind11::array::c_style>;

  Integers() = default;
  explicit Integers(Array array) : array_(std::move(array)) {}

  const T* data() const { return array_.data(); }
  const T* data(pybind11::ssize_t row, pybind11::ssize_t column) const { return array_.data(row, column); }
  pybind11::ssize_t size() const { return array_.size(); }
  pybind11::ssize_t ndim() const { return array_.ndim(); }
  pybind11::ssize_t shape(pybind11::ssize_t dimension) const { return array_.shape(dimension); }

 private:
  Array array_;
};

// `source` as an array of T. Throws std::invalid_argument where a number does not fit one.
template <typename T>
Integers<T> converted(const pybind11::array& source, char kind) {
  namespace py = pybind11;
  using Wide = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>;
  const auto wide = Wide::ensure(source);
  auto narrow = py::array_t<T, py::array::c_style | py::array::forcecast>::ensure(source);
  if (!wide || !narrow) {
    throw std::bad_alloc();
  }
  const bool fits = std::equal(wide.data(), wide.data() + wide.size(), narrow.data(), [&](std::int64_t a, T b) {
    return a == static_cast<std::int64_t>(b) && (kind == 'i' || a >= 0);
  });
  if (!fits) {
    throw std::invalid_argument("an array holds integers that do not fit " + std::to_string(8 * sizeof(T)) + " bits");
  }
  return Integers<T>(py::reinterpret_steal<typename Integers<T>::Array>(narrow.release()));
}

}  // namespace ghnfast

namespace pybind11::detail {

template <typename T>
struct type_caster<ghnfast::Integers<T>> {
  PYBIND11_TYPE_CASTER(ghnfast::Integers<T>,
                       const_name("numpy.ndarray[") + npy_format_descriptor<T>::name + const_name("]"));

  bool load(handle source, bool convert) {
    using Array = typename ghnfast::Integers<T>::Array;
    if (Array::check_(source)) {
      value = ghnfast::Integers<T>(reinterpret_borrow<Array>(source));
      return true;
    }
    if (!convert) {
      return false;
    }
    const auto found = array::ensure(source);
    if (!found) {
      return false;
    }
    const char kind = found.dtype().kind();
    if (kind != 'i' && kind != 'u' && found.size() != 0) {  // an empty array of numpy's is one of floats
      return false;
    }
    value = ghnfast::converted<T>(found, kind);
    return true;
  }
};

}  // namespace pybind11::detail
