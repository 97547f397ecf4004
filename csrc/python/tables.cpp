#include "python/tables.hpp"

#include "core/memory.hpp"
#include "decode/decode.hpp"
#include "decode/device_tables.hpp"
#include "decode/layout.hpp"
#include "python/bindings.hpp"

namespace ghnfast::python {
namespace {

// Where another build of the extension is loaded beside this one, it has told numpy of its structs already.
template <typename Row>
bool is_known() {
  return py::detail::get_numpy_internals().get_type_info<Row>(false) != nullptr;
}

void register_rows() {
  if (!is_known<Slot>()) {
    PYBIND11_NUMPY_DTYPE(Slot, node, decoder, height, width, columns, rows, cells, out, in, kind, kept, scale);
  }
  if (!is_known<DecodeTarget>()) {
    PYBIND11_NUMPY_DTYPE(DecodeTarget, first, rows, columns, cells, out, in, kind, scale);
  }
  if (!is_known<DecodeMemory>()) {
    PYBIND11_NUMPY_DTYPE(DecodeMemory, address, element, strides);
  }
  if (!is_known<DeviceTarget>()) {
    PYBIND11_NUMPY_DTYPE(DeviceTarget, target, memory, product);
  }
  if (!is_known<TensorMemory>()) {
    PYBIND11_NUMPY_DTYPE(TensorMemory, address, element, bytes, device);
  }
}

// {struct: its dtype}
py::dict dtypes() {
  py::dict found;
  found["Slot"] = py::dtype::of<Slot>();
  found["DecodeTarget"] = py::dtype::of<DecodeTarget>();
  found["DecodeMemory"] = py::dtype::of<DecodeMemory>();
  found["DeviceTarget"] = py::dtype::of<DeviceTarget>();
  found["TensorMemory"] = py::dtype::of<TensorMemory>();
  return found;
}

}  // namespace

void bind_tables(py::module_& module) {
  register_rows();
  module.def("dtypes", &dtypes, "{name: dtype} of the rows of tables.");
}

}  // namespace ghnfast::python
