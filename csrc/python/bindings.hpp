// What the extension offers Python, a function a subject; each is defined in the file of its name.
#pragma once

#include <pybind11/pybind11.h>

namespace ghnfast::python {

void bind_attention(pybind11::module_& module);
void bind_decode(pybind11::module_& module);
void bind_deepnets(pybind11::module_& module);
void bind_device_tables(pybind11::module_& module);
void bind_enums(pybind11::module_& module);
void bind_forward(pybind11::module_& module);
void bind_graph(pybind11::module_& module);
void bind_layout(pybind11::module_& module);
void bind_machine(pybind11::module_& module);
void bind_modules(pybind11::module_& module);
void bind_properties(pybind11::module_& module);
void bind_sweep(pybind11::module_& module);
void bind_tables(pybind11::module_& module);
void bind_tensors(pybind11::module_& module);

}  // namespace ghnfast::python
