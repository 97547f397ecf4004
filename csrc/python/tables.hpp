// Tables that Python and C++ share: one-dimensional arrays of numpy whose dtype is a struct.
//
// `bind_tables` tells numpy of the structs, and Python of their dtypes; nobody else knows their fields.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace ghnfast::python {

namespace py = pybind11;

template <typename Row>
class Table {
 public:
  using Array = py::array_t<Row, py::array::c_style>;

  Table() = default;
  explicit Table(Array array) : array_(std::move(array)) {}
  explicit Table(const std::vector<Row>& rows) : array_(static_cast<py::ssize_t>(rows.size()), rows.data()) {}

  std::size_t size() const { return static_cast<std::size_t>(array_.size()); }
  const Row* begin() const { return array_.data(); }
  const Row* end() const { return begin() + size(); }
  const Row& operator[](std::size_t index) const { return begin()[index]; }
  const Array& array() const { return array_; }

 private:
  Array array_;
};

}  // namespace ghnfast::python

namespace pybind11::detail {

// Takes no other dtype than that of the struct, and throws std::invalid_argument for another number of dimensions.
template <typename Row>
struct type_caster<ghnfast::python::Table<Row>> {
  PYBIND11_TYPE_CASTER(ghnfast::python::Table<Row>, const_name("numpy.ndarray[numpy.void]"));

  bool load(handle source, bool) {
    using Array = typename ghnfast::python::Table<Row>::Array;
    if (!isinstance<array>(source)) {
      return false;
    }
    const auto given = reinterpret_borrow<array>(source);
    if (!npy_api::get().PyArray_EquivTypes_(given.dtype().ptr(), pybind11::dtype::of<Row>().ptr())) {
      return false;
    }
    if (given.ndim() != 1) {
      throw std::invalid_argument("a table has " + std::to_string(given.ndim()) + " dimensions; one is accepted");
    }
    auto found = Array::ensure(is_aligned(given) ? given : array(given.attr("copy")()));
    if (!found) {
      throw std::bad_alloc();
    }
    value = ghnfast::python::Table<Row>(std::move(found));
    return true;
  }

  // Numpy does not know where structs may lie.
  static bool is_aligned(const array& given) {
    return reinterpret_cast<std::uintptr_t>(given.data()) % alignof(Row) == 0;
  }

  static handle cast(const ghnfast::python::Table<Row>& table, return_value_policy, handle) {
    return table.array().inc_ref();
  }
};

}  // namespace pybind11::detail
