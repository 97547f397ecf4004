#include "decode/layout.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/memory.hpp"
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

// Where the targets of a layout lie, and the number of their GPU or -1: what is known of their slots' parameters, in
// the order of the layout, with strides of targets that are contiguous. None where one cannot be written to as it is,
// or on another device than the first.
py::object memory_of(const Table<TensorMemory>& found, const Int64Array& order, const Table<DecodeMemory>& empty,
                     const std::optional<Int64Array>& kept, const std::vector<std::int64_t>& bytes) {
  const auto count = empty.size();
  if (static_cast<std::size_t>(order.size()) != count || (kept && static_cast<std::size_t>(kept->size()) != count)) {
    throw std::invalid_argument("there must be one place for each target");
  }
  std::vector<DecodeMemory> memory(empty.begin(), empty.end());
  std::int64_t device = -1;
  for (std::size_t at = 0; at < count; ++at) {
    const auto row = order.data()[at];
    if (row < 0 || static_cast<std::size_t>(row) >= found.size()) {
      throw std::invalid_argument("a target is of row " + std::to_string(row) + " of " + std::to_string(found.size()));
    }
    const auto& own = found[static_cast<std::size_t>(row)];
    device = at == 0 ? own.device : device;
    if (own.element < 0 || own.device != device) {
      return py::none();
    }
    const auto element = to_enum<Element>(own.element, "an element type is ");
    const auto size = bytes.at(static_cast<std::size_t>(own.element));
    const auto skipped = kept ? kept->data()[at] : 0;
    if (size < 1 || size > 8 || skipped < 0 || skipped > kMostElements) {
      throw std::invalid_argument("a target begins behind elements that no parameter has");
    }
    // An address is a number like any other, and may be wrong.
    memory[at].address =
        static_cast<std::int64_t>(static_cast<std::uint64_t>(own.address) + static_cast<std::uint64_t>(skipped * size));
    memory[at].element = element;
  }
  return py::make_tuple(Table<DecodeMemory>(memory), device);
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
  module.def(
      "memory_of", &memory_of, py::arg("found"), py::arg("order"), py::arg("empty"), py::arg("kept"), py::arg("bytes"),
      "Where targets lie, (targets) DecodeMemory, and on which GPU, or -1: by the rows of `inspect_tensors` that "
      "they are, with the strides of `empty`, behind so many elements that are `kept`, of so many `bytes` by "
      "dtype. None where they cannot all be written to as they are, on one device.");
  module.def("lay_out", &lay_out, py::arg("table"), py::arg("vector"), py::arg("classes"),
             "Slots sorted by what they share: (order, targets, nodes, calls, hidden rows, block elements).");
}

}  // namespace ghnfast::python
