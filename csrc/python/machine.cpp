#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdlib>
#include <string>

#include "core/isa.hpp"
#include "python/bindings.hpp"

namespace py = pybind11;

namespace ghnfast::python {

void bind_machine(py::module_& module) {
  module.def(
      "environment",
      [](const std::string& name) -> py::object {
        const char* value = std::getenv(name.c_str());
        return value == nullptr ? py::object(py::none()) : py::str(value);
      },
      py::arg("name"), "A variable of the environment: as os.environ.get, without its conversions.");
  module.def("instruction_sets", &ghnfast::instruction_sets, "Those that this machine has, the fastest last.");
  module.def("rounds_products", &ghnfast::rounds_products, "Whether products can round their operands to bfloat16.");
  module.def("use_instruction_set", &ghnfast::use_instruction_set, py::arg("name"));
}

}  // namespace ghnfast::python
