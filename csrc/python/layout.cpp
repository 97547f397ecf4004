#include "decode/layout.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "decode/decode.hpp"
#include "python/arrays.hpp"
#include "python/bindings.hpp"
#include "python/tables.hpp"

namespace ghnfast::python {
namespace {

// The columns of the table of slots in ghnfast/prediction/layout.py; the last one holds the bits of a float64.
constexpr py::ssize_t kSlotFields = 12;

py::tuple lay_out(const Int64Array& table, std::int64_t vector, std::int64_t classes) {
  if (table.ndim() != 2 || table.shape(1) != kSlotFields) {
    throw std::invalid_argument("the table of slots must be (slots, 12)");
  }
  std::vector<Slot> slots;
  for (py::ssize_t index = 0; index < table.shape(0); ++index) {
    const auto* row = table.data(index, 0);
    const bool is_empty = std::any_of(row + 2, row + 9, [](std::int64_t size) { return size < 1; });
    if (is_empty || !is_within({row[4], row[5], row[6]}, kMostElements) ||
        !is_within({row[6], row[7], row[8]}, kMostElements)) {
      throw std::invalid_argument("slot " + std::to_string(index) + " has sizes that no parameter has");
    }
    slots.push_back({row[0], to_enum<DecoderKind>(row[1], "a slot has decoder "), row[2], row[3], row[4], row[5],
                     row[6], row[7], row[8], row[9]});
    std::memcpy(&slots.back().scale, row + 11, sizeof(double));
  }
  const auto layout = ghnfast::lay_out(slots, {vector, classes});
  const auto count = static_cast<py::ssize_t>(slots.size());
  py::array_t<std::int64_t> targets({count, kTargetFields}), nodes(count);
  py::array_t<double> scales(count);
  for (py::ssize_t at = 0; at < count; ++at) {
    const auto& slot = slots[layout.order[at]];
    const std::int64_t fields[] = {layout.first[at], slot.rows, slot.columns, slot.cells, slot.out, slot.in, slot.kind};
    std::copy_n(fields, kTargetFields, targets.mutable_data(at, 0));
    nodes.mutable_at(at) = slot.node;
    scales.mutable_at(at) = slot.scale;
  }
  return py::make_tuple(to_array(layout.order), targets, scales, nodes, layout.calls, layout.hidden_rows,
                        layout.elements);
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
             "Slots sorted by what they share: (order, targets, scales, nodes, calls, hidden rows, block elements).");
}

}  // namespace ghnfast::python
