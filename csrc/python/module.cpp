#include <pybind11/pybind11.h>

#include "python/bindings.hpp"

// Classes are local to the module, so that a sanitized build loads beside another one.
PYBIND11_MODULE(_C, module) {
  using namespace ghnfast::python;
  module.doc() = "The C++ core of ghnfast: numpy arrays in and out.";
  bind_machine(module);
  bind_tables(module);
  bind_enums(module);
  bind_modules(module);
  bind_tensors(module);
  bind_graph(module);
  bind_sweep(module);
  bind_properties(module);
  bind_attention(module);
  bind_layout(module);
  bind_forward(module);
  bind_decode(module);
  bind_device_tables(module);
  bind_deepnets(module);
}
