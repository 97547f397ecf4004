#include "decode/device_tables.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "python/arrays.hpp"
#include "python/bindings.hpp"
#include "python/decode_tables.hpp"
#include "python/tables.hpp"

namespace ghnfast::python {
namespace {

// Targets whose sizes parameters can have, so that no number overflows.
std::vector<DecodeTarget> sized_targets(const Table<DecodeTarget>& table) {
  const auto targets = decode_targets(table);
  std::int64_t elements = 0;
  for (const auto& target : targets) {
    const auto least = std::min({target.rows, target.columns, target.cells});
    if (least < 1 || target.rows > target.out || target.columns > target.in ||
        !is_within({target.out, target.in, target.cells}, kMostElements - elements)) {
      throw std::invalid_argument("targets have sizes that no parameters have");
    }
    if (target.first < 0 || target.first > kMostElements) {
      throw std::invalid_argument("targets begin where no hidden states or blocks are");
    }
    elements += target.out * target.in * target.cells;
  }
  return targets;
}

std::int64_t positive(std::int64_t size) {
  if (size < 1) {
    throw std::invalid_argument("a size is " + std::to_string(size) + "; a positive one is accepted");
  }
  return size;
}

// (rows, columns)
template <typename T, std::size_t columns>
py::array_t<T> matrix(const std::vector<std::array<std::int64_t, columns>>& rows) {
  py::array_t<T> found({static_cast<py::ssize_t>(rows.size()), static_cast<py::ssize_t>(columns)});
  auto* out = found.mutable_data();
  for (const auto& row : rows) {
    out = std::transform(row.begin(), row.end(), out, [](std::int64_t number) { return static_cast<T>(number); });
  }
  return found;
}

template <typename T>
py::array item_matrix(const std::vector<DeviceItem>& items) {
  py::array_t<T> found({static_cast<py::ssize_t>(items.size()), py::ssize_t{4}});
  auto* out = found.mutable_data();
  for (const auto& item : items) {
    for (const auto number : {item.target, item.tile, item.part, item.parts}) {
      *out++ = static_cast<T>(number);
    }
  }
  return found;
}

py::array as_matrix(const std::vector<DeviceItem>& items, bool wide) {
  return wide ? item_matrix<std::int64_t>(items) : item_matrix<std::int32_t>(items);
}

Table<DeviceTarget> device_targets(const Table<DecodeTarget>& table, const std::optional<Table<DecodeMemory>>& memory) {
  const auto targets = sized_targets(table);
  std::vector<DecodeMemory> places;
  if (memory) {
    places = decode_memory(*memory, targets.size());
  }
  return Table<DeviceTarget>(ghnfast::device_targets(targets, places));
}

py::tuple device_items(const Table<DecodeTarget>& table, std::int64_t tile, std::int64_t stored, bool wide) {
  const auto targets = sized_targets(table);
  const ItemSizes sizes{positive(tile), positive(stored)};
  return py::make_tuple(as_matrix(ghnfast::device_items(targets, sizes), wide),
                        as_matrix(ghnfast::backward_items(targets, tile), wide));
}

std::int64_t largest_count(const Table<DecodeTarget>& table) { return ghnfast::largest_count(sized_targets(table)); }

py::array_t<std::int64_t> product_runs(const Table<DecodeTarget>& table) {
  std::vector<std::array<std::int64_t, 5>> runs;
  for (const auto& run : ghnfast::product_runs(sized_targets(table))) {
    runs.push_back({run.rows, run.columns, run.first, run.last, run.start});
  }
  return matrix<std::int64_t>(runs);
}

py::array_t<std::int32_t> run_items(const Int64Array& runs, std::int64_t rows, std::int64_t elements) {
  if (runs.ndim() != 2 || runs.shape(1) != 5) {
    throw std::invalid_argument("runs have another shape than (runs, 5)");
  }
  positive(rows), positive(elements);
  std::vector<std::array<std::int64_t, 4>> items;
  std::int64_t before = 0;
  for (py::ssize_t run = 0; run < runs.shape(0); ++run) {
    const auto height = *runs.data(run, 0), width = *runs.data(run, 1);
    const auto first = *runs.data(run, 2), last = *runs.data(run, 3);
    if (first < 0 || last < first || height < 1 || width < 1 || !is_within({height, width}, kMostElements)) {
      throw std::invalid_argument("runs have hidden rows or blocks that no products have");
    }
    const auto down = (last - first) / rows + ((last - first) % rows != 0);
    const auto along = (height * width - 1) / elements + 1;
    if (!is_within({down, along}, kMostItems - static_cast<std::int64_t>(items.size()))) {
      throw std::invalid_argument("runs take more than " + std::to_string(kMostItems) + " items of these sizes");
    }
    for (std::int64_t tile = 0; tile < down; ++tile) {
      for (std::int64_t part = 0; part < along; ++part) {
        items.push_back({run, tile, part, before + tile * rows});
      }
    }
    before += last - first;
  }
  return matrix<std::int32_t>(items);
}

}  // namespace

void bind_device_tables(py::module_& module) {
  module.def("device_targets", &device_targets, py::arg("targets"), py::arg("memory"),
             "(targets) DeviceTarget; without memory of targets one behind the other.");
  module.def("device_items", &device_items, py::arg("targets"), py::arg("tile"), py::arg("stored"),
             py::arg("wide").noconvert(),
             "Items, (items, 4): the target, the tile of its block, the part of its repeats, of how many; and those of "
             "the backward pass. int32, or where they are wide int64. The sizes are the most that an item does.");
  module.def("largest_count", &largest_count, py::arg("targets"),
             "The most rows, columns, repeats or elements of a block that a target has.");
  module.def("product_runs", &product_runs, py::arg("targets"),
             "Products with blocks of equal size, from hidden rows side by side, (runs, 5): the rows and columns of a "
             "block, the first hidden row, the one behind the last, and where the products begin.");
  module.def(
      "run_items", &run_items, py::arg("runs"), py::arg("rows"), py::arg("elements"),
      "(items, 4) int32: runs, tiles of so many of their hidden rows, and of so many elements of their blocks; and "
      "how many rows all runs have before the first one of the tile.");
}

}  // namespace ghnfast::python
