// What C++ needs to know of torch's tensors, asked through Python: the extension does not depend on torch's binaries.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

#include "core/memory.hpp"
#include "python/bindings.hpp"
#include "python/dlpack.hpp"
#include "python/tables.hpp"

namespace ghnfast::python {
namespace {

// What tensors are asked: attributes and methods of torch's own class, looked up once.
struct Questions {
  py::object torch = py::module_::import("torch");
  py::object tensor = torch.attr("Tensor"), parameter = torch.attr("nn").attr("Parameter");
  py::object storage = torch.attr("UntypedStorage");
  py::object is_cpu = tensor.attr("is_cpu"), is_cuda = tensor.attr("is_cuda"), dtype = tensor.attr("dtype");
  py::object shape = tensor.attr("shape"), is_contiguous = tensor.attr("is_contiguous");
  py::object data_ptr = tensor.attr("data_ptr"), get_device = tensor.attr("get_device");
  py::object is_inference = tensor.attr("is_inference"), version = tensor.attr("_version");
  py::object untyped_storage = tensor.attr("untyped_storage"), storage_offset = tensor.attr("storage_offset");
  py::object nbytes = storage.attr("nbytes"), resizable = storage.attr("resizable");
  const dlpack::Exchange* exchange = dlpack::exchange_of(tensor);
};

// The value of an attribute, of a descriptor of the object's class.
py::object get(py::handle object, const py::object& descriptor) {
  auto* const getter = Py_TYPE(descriptor.ptr())->tp_descr_get;
  auto result = py::reinterpret_steal<py::object>(
      getter(descriptor.ptr(), object.ptr(), reinterpret_cast<PyObject*>(Py_TYPE(object.ptr()))));
  if (!result) {
    throw py::error_already_set();
  }
  return result;
}

py::object call(py::handle object, const py::object& method) {
  auto result = py::reinterpret_steal<py::object>(PyObject_CallOneArg(method.ptr(), object.ptr()));
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

std::int64_t number(py::handle object, const py::object& method) { return as_number(call(object, method)); }

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

const Questions& questions() {
  static const auto* const ask = new Questions;  // never deleted: the interpreter may be gone by then
  return *ask;
}

// What memory is asked about. element: -1 where the dtype is none of those that are asked for.
struct Description {
  std::int64_t address = 0, element = -1, device = -1;
  bool on_cpu = false, on_gpu = false, contiguous = false, in_shape = false;
};

// Shapes that are tuples.
bool is_shape(const dlpack::Tensor& tensor, py::handle shape) {
  if (PyTuple_GET_SIZE(shape.ptr()) != tensor.dimensions) {
    return false;
  }
  for (std::int32_t at = 0; at < tensor.dimensions; ++at) {
    if (as_number(PyTuple_GET_ITEM(shape.ptr(), at)) != tensor.shape[at]) {
      return false;
    }
  }
  return true;
}

Description describe(const dlpack::Tensor& found, py::handle shape, const std::vector<dlpack::Dtype>& dtypes) {
  Description description;
  description.address = reinterpret_cast<std::int64_t>(found.data) + static_cast<std::int64_t>(found.byte_offset);
  const auto place = std::find(dtypes.begin(), dtypes.end(), found.dtype);
  description.element = place == dtypes.end() ? -1 : place - dtypes.begin();
  description.on_cpu = found.device.type == dlpack::kCpu;
  description.on_gpu = found.device.type == dlpack::kCuda;
  description.device = description.on_gpu ? found.device.number : -1;
  description.contiguous = dlpack::is_contiguous(found);
  description.in_shape = is_shape(found, shape);
  return description;
}

// The same, asked in Python, of a torch that does not have DLPack's functions.
Description describe(const Questions& ask, py::handle tensor, py::handle shape, const py::tuple& dtypes) {
  Description description;
  description.element = index_of(get(tensor, ask.dtype), dtypes);
  description.in_shape = get(tensor, ask.shape).equal(py::reinterpret_borrow<py::object>(shape));
  description.contiguous = is_true(call(tensor, ask.is_contiguous));
  if (description.element >= 0 && description.in_shape && description.contiguous) {
    description.address = number(tensor, ask.data_ptr);
    description.on_cpu = is_true(get(tensor, ask.is_cpu));
    description.on_gpu = is_true(get(tensor, ask.is_cuda));
    description.device = description.on_gpu ? number(tensor, ask.get_device) : -1;
  }
  return description;
}

TensorMemory inspect(const Questions& ask, py::handle tensor, const Description& found, std::int64_t bytes,
                     std::int64_t itemsize) {
  // Meta tensors have no address, and neither has memory that was freed.
  if (!found.in_shape || !found.contiguous || found.address == 0) {
    return {};
  }
  const auto storage = call(tensor, ask.untyped_storage);
  if (number(storage, ask.nbytes) < number(tensor, ask.storage_offset) * itemsize + bytes) {
    return {};
  }
  // What torch allocated can be written; what others did (numpy, a map of a file) need not.
  if (found.on_cpu && !is_true(call(storage, ask.resizable)) && !is_writable(found.address, bytes)) {
    return {};
  }
  return {found.address, found.on_cpu || found.on_gpu ? found.element : -1, bytes, found.device};
}

// The dtypes as DLPack has them.
std::vector<dlpack::Dtype> described(const Questions& ask, const py::tuple& dtypes) {
  static auto* const known = new std::vector<std::pair<py::object, dlpack::Dtype>>;  // never deleted
  std::vector<dlpack::Dtype> found;
  for (const auto dtype : dtypes) {
    auto place = std::find_if(known->begin(), known->end(), [&](const auto& pair) { return pair.first.is(dtype); });
    if (place == known->end()) {
      const auto one = ask.torch.attr("empty")(1, py::arg("dtype") = dtype, py::arg("device") = "cpu");
      dlpack::Tensor tensor{};
      if (ask.exchange->describe(one.ptr(), &tensor) != 0) {
        throw py::error_already_set();
      }
      known->emplace_back(py::reinterpret_borrow<py::object>(dtype), tensor.dtype);
      place = known->end() - 1;
    }
    found.push_back(place->second);
  }
  return found;
}

// The memory of each tensor (or None) that is a torch.Tensor or Parameter and not of another class, dense, contiguous,
// of one of the dtypes and of the shape that is given for it, and whose storage holds all its elements and can be
// written.
std::vector<TensorMemory> inspect_all(const py::list& tensors, const py::list& shapes, const py::tuple& dtypes) {
  if (tensors.size() != shapes.size()) {
    throw std::invalid_argument("there must be one shape for each tensor");
  }
  const auto* const ask = &questions();
  std::vector<std::int64_t> itemsizes;
  for (const auto dtype : dtypes) {
    itemsizes.push_back(dtype.attr("itemsize").cast<std::int64_t>());
  }
  const auto asked = ask->exchange == nullptr ? std::vector<dlpack::Dtype>() : described(*ask, dtypes);
  std::vector<TensorMemory> found(tensors.size());
  for (std::size_t at = 0; at < tensors.size(); ++at) {
    const py::handle tensor = PyList_GET_ITEM(tensors.ptr(), static_cast<Py_ssize_t>(at));
    const py::handle shape = PyList_GET_ITEM(shapes.ptr(), static_cast<Py_ssize_t>(at));
    const auto* type = reinterpret_cast<PyObject*>(Py_TYPE(tensor.ptr()));
    if ((type != ask->tensor.ptr() && type != ask->parameter.ptr()) || !PyTuple_Check(shape.ptr())) {
      continue;
    }
    try {
      dlpack::Tensor seen{};
      if (ask->exchange != nullptr && ask->exchange->describe(tensor.ptr(), &seen) != 0) {
        throw py::error_already_set();
      }
      const auto description =
          ask->exchange == nullptr ? describe(*ask, tensor, shape, dtypes) : describe(seen, shape, asked);
      if (description.element >= 0) {
        const auto itemsize = itemsizes[description.element];
        const auto sizes = py::reinterpret_borrow<py::tuple>(shape);
        found[at] = inspect(*ask, tensor, description, product(sizes) * itemsize, itemsize);
      }
    } catch (py::error_already_set& error) {
      // Torch raises where a tensor is no dense memory: it may be sparse, or wrap another one.
      if (!error.matches(PyExc_RuntimeError) && !error.matches(PyExc_BufferError)) {
        throw;
      }
    }
  }
  return found;
}

Table<TensorMemory> inspect_tensors(const py::list& tensors, const py::list& shapes, const py::tuple& dtypes) {
  return Table<TensorMemory>(inspect_all(tensors, shapes, dtypes));
}

// The address and the version of each tensor, or None where torch does not count the versions of one.
py::object versions(const py::list& tensors) {
  const auto& ask = questions();
  py::list found(tensors.size());
  for (std::size_t at = 0; at < tensors.size(); ++at) {
    const py::handle tensor = PyList_GET_ITEM(tensors.ptr(), static_cast<Py_ssize_t>(at));
    if (!py::isinstance(tensor, ask.tensor)) {
      throw py::type_error("what is no tensor has no version");
    }
    try {
      found[at] = py::make_tuple(call(tensor, ask.data_ptr), get(tensor, ask.version));
    } catch (py::error_already_set& error) {
      // Torch raises for the version of a tensor that was made in inference mode.
      if (!error.matches(PyExc_RuntimeError) || !is_true(call(tensor, ask.is_inference))) {
        throw;
      }
      return py::none();
    }
  }
  return found;
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
  module.def("versions", &versions, py::arg("tensors"),
             "The address and the version of each tensor; None where torch does not count those of one.");
  module.def("is_writable", &ghnfast::is_writable, py::arg("address"), py::arg("bytes"),
             "Whether memory of this process can be written; it keeps its content.");
  module.def("overlapping", &overlapping, py::arg("memory"),
             "Groups of the rows of a table, as `inspect_tensors` returns it, whose memory overlaps.");
}

}  // namespace ghnfast::python
