#include "decode/layout.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "decode/decode.hpp"
#include "python/arrays.hpp"
#include "python/bindings.hpp"
#include "python/tables.hpp"

namespace ghnfast::python {
namespace {

py::tuple lay_out(const Table<Slot>& table, std::int64_t vector, std::int64_t classes) {
  for (std::size_t index = 0; index < table.size(); ++index) {
    const auto& slot = table[index];
    to_enum<DecoderKind>(static_cast<std::int64_t>(slot.decoder), "a slot has decoder ");
    const auto least = std::min({slot.height, slot.width, slot.columns, slot.rows, slot.cells, slot.out, slot.in});
    if (least < 1 || !is_within({slot.columns, slot.rows, slot.cells}, kMostElements) ||
        !is_within({slot.cells, slot.out, slot.in}, kMostElements)) {
      throw std::invalid_argument("slot " + std::to_string(index) + " has sizes that no parameter has");
    }
  }
  const auto layout = ghnfast::lay_out({table.begin(), table.end()}, {vector, classes});
  return py::make_tuple(to_array(layout.order), Table<DecodeTarget>(layout.targets), to_array(layout.nodes),
                        layout.calls, layout.hidden_rows, layout.elements);
}

}  // namespace

void bind_layout(py::module_& module) {
  py::class_<DecoderCall>(module, "DecoderCall", py::module_local())
      .def_property_readonly("decoder", [](const DecoderCall& call) { return static_cast<std::int64_t>(call.decoder); })
      .def_readonly("begin", &DecoderCall::begin)
      .def_readonly("count", &DecoderCall::count)
      .def_readonly("height", &DecoderCall::height)
      .def_readonly("width", &DecoderCall::width)
      .def_readonly("columns", &DecoderCall::columns)
      .def_readonly("rows", &DecoderCall::rows)
      .def_readonly("cells", &DecoderCall::cells)
      .def_readonly("first", &DecoderCall::first);
  module.def("lay_out", &lay_out, py::arg("table"), py::arg("vector"), py::arg("classes"),
             "Slots sorted by what they share: (order, targets, nodes, calls, hidden rows, block elements).");
}

}  // namespace ghnfast::python
