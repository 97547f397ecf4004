#include "tensors.hpp"

namespace py = pybind11;

namespace ghnfast {
namespace {

// What tensors are asked.
struct Questions {
  py::object torch = py::module_::import("torch");
  py::object tensor = torch.attr("Tensor"), parameter = torch.attr("nn").attr("Parameter");
  py::object strided = torch.attr("strided");
  py::str layout = "layout", is_cpu = "is_cpu", dtype = "dtype", shape = "shape";
  py::str is_contiguous = "is_contiguous", data_ptr = "data_ptr";
};

py::object get(py::handle object, const py::str& name) {
  auto result = py::reinterpret_steal<py::object>(PyObject_GetAttr(object.ptr(), name.ptr()));
  if (!result) {
    throw py::error_already_set();
  }
  return result;
}

py::object call(py::handle object, const py::str& name) {
  auto result = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(object.ptr(), name.ptr()));
  if (!result) {
    throw py::error_already_set();
  }
  return result;
}

std::int64_t index_of(py::handle dtype, const py::tuple& dtypes) {
  for (std::size_t index = 0; index < dtypes.size(); ++index) {
    if (dtype.is(py::handle(PyTuple_GET_ITEM(dtypes.ptr(), static_cast<Py_ssize_t>(index))))) {
      return static_cast<std::int64_t>(index);
    }
  }
  return -1;
}

}  // namespace

std::vector<std::int64_t> inspect_tensors(const py::list& tensors, const py::list& shapes, const py::tuple& dtypes) {
  if (tensors.size() != shapes.size()) {
    throw std::invalid_argument("there must be one shape for each tensor");
  }
  static const auto* const ask = new Questions;  // never deleted: the interpreter may be gone by then
  std::vector<std::int64_t> found(2 * tensors.size(), -1);
  for (std::size_t at = 0; at < tensors.size(); ++at) {
    const py::object tensor = tensors[at];
    const auto type = py::type::handle_of(tensor);
    if (!type.is(ask->tensor) && !type.is(ask->parameter)) {
      continue;
    }
    const auto dtype = index_of(get(tensor, ask->dtype), dtypes);
    if (dtype < 0 || !get(tensor, ask->layout).is(ask->strided) || !get(tensor, ask->is_cpu).is(py::handle(Py_True)) ||
        !get(tensor, ask->shape).equal(shapes[at]) || !call(tensor, ask->is_contiguous).is(py::handle(Py_True))) {
      continue;
    }
    found[2 * at] = call(tensor, ask->data_ptr).cast<std::int64_t>();
    found[2 * at + 1] = dtype;
  }
  return found;
}

}  // namespace ghnfast
