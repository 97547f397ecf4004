// What C++ needs to know of torch's tensors, asked through Python: the extension does not depend on torch's binaries.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <vector>

#include "core/memory.hpp"
#include "python/bindings.hpp"
#include "python/tables.hpp"

namespace ghnfast::python {
namespace {

// What tensors are asked.
struct Questions {
  py::object torch = py::module_::import("torch");
  py::object tensor = torch.attr("Tensor"), parameter = torch.attr("nn").attr("Parameter");
  py::str is_cpu = "is_cpu", is_cuda = "is_cuda", get_device = "get_device", dtype = "dtype", shape = "shape", itemsize = "itemsize";
  py::str is_contiguous = "is_contiguous", data_ptr = "data_ptr";
  py::str untyped_storage = "untyped_storage", storage_offset = "storage_offset";
  py::str nbytes = "nbytes", resizable = "resizable";
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

std::int64_t as_number(py::handle object) {
  const auto result = PyLong_AsLongLong(object.ptr());
  if (result == -1 && PyErr_Occurred() != nullptr) {
    throw py::error_already_set();
  }
  return result;
}

std::int64_t number(py::handle object, const py::str& name) { return as_number(call(object, name)); }

std::int64_t product(const py::tuple& sizes) {
  std::int64_t result = 1;
  for (const auto size : sizes) {
    result *= as_number(size);
  }
  return result;
}

bool is_true(py::handle answer) { return answer.is(py::handle(Py_True)); }

std::int64_t index_of(py::handle dtype, const py::tuple& dtypes) {
  for (std::size_t index = 0; index < dtypes.size(); ++index) {
    if (dtype.is(py::handle(PyTuple_GET_ITEM(dtypes.ptr(), static_cast<Py_ssize_t>(index))))) {
      return static_cast<std::int64_t>(index);
    }
  }
  return -1;
}

TensorMemory inspect(const Questions& ask, py::handle tensor, const py::tuple& shape, std::int64_t element,
                     std::int64_t itemsize) {
  if (!get(tensor, ask.shape).equal(shape) || !is_true(call(tensor, ask.is_contiguous))) {
    return {};
  }
  const auto bytes = product(shape) * itemsize, address = number(tensor, ask.data_ptr);
  const bool on_cpu = is_true(get(tensor, ask.is_cpu));
  const auto storage = call(tensor, ask.untyped_storage);
  const auto end = number(tensor, ask.storage_offset) * itemsize + bytes;
  // Meta tensors have no address, and neither has memory that was freed.
  if (address == 0 || number(storage, ask.nbytes) < end) {
    return {};
  }
  // What torch allocated can be written; what others did (numpy, a map of a file) need not.
  if (on_cpu && !is_true(call(storage, ask.resizable)) && !is_writable(address, bytes)) {
    return {};
  }
  if (on_cpu) {
    return {address, element, bytes, -1};
  }
  const bool on_gpu = is_true(get(tensor, ask.is_cuda));
  return {address, on_gpu ? element : -1, bytes, on_gpu ? number(tensor, ask.get_device) : -1};
}

// The memory of each tensor (or None) that is a torch.Tensor or Parameter and not of another class, dense, contiguous,
// of one of the dtypes and of the shape that is given for it, and whose storage holds all its elements and can be
// written.
std::vector<TensorMemory> inspect_all(const py::list& tensors, const py::list& shapes, const py::tuple& dtypes) {
  if (tensors.size() != shapes.size()) {
    throw std::invalid_argument("there must be one shape for each tensor");
  }
  static const auto* const ask = new Questions;  // never deleted: the interpreter may be gone by then
  std::vector<std::int64_t> itemsizes;
  for (const auto dtype : dtypes) {
    itemsizes.push_back(get(dtype, ask->itemsize).cast<std::int64_t>());
  }
  std::vector<TensorMemory> found(tensors.size());
  for (std::size_t at = 0; at < tensors.size(); ++at) {
    const py::object tensor = tensors[at];
    const auto type = py::type::handle_of(tensor);
    if (!type.is(ask->tensor) && !type.is(ask->parameter)) {
      continue;
    }
    const auto element = index_of(get(tensor, ask->dtype), dtypes);
    if (element < 0 || !PyTuple_Check(PyList_GET_ITEM(shapes.ptr(), static_cast<Py_ssize_t>(at)))) {
      continue;
    }
    try {
      found[at] = inspect(*ask, tensor, py::tuple(shapes[at]), element, itemsizes[element]);
    } catch (py::error_already_set& error) {
      // Torch raises where a tensor is no dense memory: it may be sparse, or wrap another one.
      if (!error.matches(PyExc_RuntimeError)) {
        throw;
      }
    }
  }
  return found;
}

Table<TensorMemory> inspect_tensors(const py::list& tensors, const py::list& shapes, const py::tuple& dtypes) {
  return Table<TensorMemory>(inspect_all(tensors, shapes, dtypes));
}

std::vector<std::vector<std::int64_t>> overlapping(const Table<TensorMemory>& memory) {
  return ghnfast::overlapping({memory.begin(), memory.end()});
}

}  // namespace

void bind_tensors(py::module_& module) {
  module.def(
      "inspect_tensors", &inspect_tensors, py::arg("tensors"), py::arg("shapes"), py::arg("dtypes"),
      "(tensors) TensorMemory: address, number of the dtype and bytes of each tensor that is nothing but contiguous "
      "memory, in one of these dtypes and in its shape, and that can be written; -1 for others. The second is -1 "
      "outside of the memory of the CPU and of GPUs, and the last is the number of the GPU.");
  module.def("is_writable", &ghnfast::is_writable, py::arg("address"), py::arg("bytes"),
             "Whether memory of this process can be written; it keeps its content.");
  module.def("overlapping", &overlapping, py::arg("memory"),
             "Groups of the rows of a table, as `inspect_tensors` returns it, whose memory overlaps.");
}

}  // namespace ghnfast::python
