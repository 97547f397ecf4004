#include "decode/decode.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "python/arrays.hpp"
#include "python/bindings.hpp"
#include "python/tables.hpp"

namespace ghnfast::python {
namespace {

// The columns of the table of memory: address, element type, and the strides of three dimensions in elements.
constexpr py::ssize_t kMemoryFields = 5;

std::vector<DecodeTarget> decode_targets(const Int64Array& table, const Floats<double>& scales) {
  if (table.ndim() != 2 || table.shape(1) != kTargetFields || scales.ndim() != 1 || scales.shape(0) != table.shape(0)) {
    throw std::invalid_argument("the table of targets must be (targets, 7), the scales (targets)");
  }
  std::vector<DecodeTarget> targets(table.shape(0));
  for (py::ssize_t index = 0; index < table.shape(0); ++index) {
    const auto* row = table.data(index, 0);
    auto& target = targets[index];
    target.first = row[0];
    target.rows = row[1];
    target.columns = row[2];
    target.cells = row[3];
    target.out = row[4];
    target.in = row[5];
    target.kind = to_enum<TargetKind>(row[6], "a target is of kind ");
    target.scale = scales.at(index);
  }
  return targets;
}

std::vector<DecodeMemory> decode_memory(const Int64Array& table, std::size_t targets) {
  if (table.ndim() != 2 || table.shape(1) != kMemoryFields || table.shape(0) != static_cast<py::ssize_t>(targets)) {
    throw std::invalid_argument("the table of memory must be (targets, 5)");
  }
  std::vector<DecodeMemory> memory(targets);
  for (std::size_t index = 0; index < targets; ++index) {
    const auto* row = table.data(static_cast<py::ssize_t>(index), 0);
    if (row[0] == 0) {
      throw std::invalid_argument("target " + std::to_string(index) + " has no memory");
    }
    memory[index].data = reinterpret_cast<char*>(row[0]);
    memory[index].element = to_enum<Element>(row[1], "an element type is ");
    std::copy(row + 2, row + 5, memory[index].strides);
  }
  return memory;
}

template <typename T>
DecodeSource<T> decode_source(const Floats<T>& hidden, const Floats<T>& weight, const Floats<T>& bias,
                              const Floats<T>& blocks) {
  if (hidden.ndim() != 2 || weight.ndim() != 3 || blocks.ndim() != 1) {
    throw std::invalid_argument("hidden must be (rows, width), weight (out, in, width), blocks (elements)");
  }
  check_shape(weight, {weight.shape(0), weight.shape(1), hidden.shape(1)}, "weight");
  check_shape(bias, {weight.shape(0), weight.shape(1)}, "bias");
  DecodeSource<T> source;
  source.hidden = hidden.data();
  source.weight = weight.data();
  source.bias = bias.data();
  source.blocks = blocks.data();
  source.hidden_rows = hidden.shape(0);
  source.width = hidden.shape(1);
  source.max_rows = weight.shape(0);
  source.max_columns = weight.shape(1);
  source.block_elements = blocks.size();
  return source;
}

template <typename T>
std::int64_t decode(const Floats<T>& hidden, const Floats<T>& weight, const Floats<T>& bias, const Floats<T>& blocks,
                    const Int64Array& table, const Floats<double>& scales, const Int64Array& memory_table, bool check,
                    int threads, const py::object& before_writing) {
  const auto source = decode_source(hidden, weight, bias, blocks);
  const auto targets = decode_targets(table, scales);
  const auto memory = decode_memory(memory_table, targets.size());
  std::function<void()> call;
  if (!before_writing.is_none()) {
    call = [&before_writing] {
      const py::gil_scoped_acquire acquired;
      before_writing();
    };
  }
  py::gil_scoped_release released;
  return ghnfast::decode(source, targets, memory, check, threads, call);
}

template <typename T>
py::tuple decode_backward(const Floats<T>& grad, const Floats<T>& hidden, const Floats<T>& weight,
                          const Floats<T>& bias, const Floats<T>& blocks, const Int64Array& table,
                          const Floats<double>& scales, int threads) {
  const auto source = decode_source(hidden, weight, bias, blocks);
  const auto targets = decode_targets(table, scales);
  check_targets(source, targets);
  std::int64_t elements = 0, product_elements = 0;
  for (const auto& target : targets) {
    elements = std::min(elements + target.out * target.in * target.cells, kMostElements);
    product_elements += target.is_product() ? target.rows * target.columns * target.cells : 0;
  }
  check_shape(grad, {elements}, "grad");
  Floats<T> grad_products(product_elements), grad_blocks(blocks.size());
  std::fill_n(grad_blocks.mutable_data(), grad_blocks.size(), T(0));
  const T* grad_data = grad.data();
  T *products_data = grad_products.mutable_data(), *blocks_data = grad_blocks.mutable_data();
  {
    py::gil_scoped_release released;
    ghnfast::decode_backward(source, targets, grad_data, products_data, blocks_data, threads);
  }
  return py::make_tuple(grad_products, grad_blocks);
}

template <typename T>
bool all_finite(const std::vector<Floats<T>>& arrays, int threads) {
  std::vector<std::pair<const T*, std::int64_t>> values;
  for (const auto& array : arrays) {
    values.emplace_back(array.data(), array.size());
  }
  py::gil_scoped_release released;
  return std::all_of(values.begin(), values.end(), [&](const auto& of) {
    return ghnfast::largest(of.first, of.second, threads) <= std::numeric_limits<T>::max();
  });
}

// For one type of numbers; those of an array choose the overload.
template <typename T>
void bind_kernels(py::module_& module) {
  module.def("decode", &decode<T>, py::arg("hidden").noconvert(), py::arg("weight").noconvert(),
             py::arg("bias").noconvert(), py::arg("blocks").noconvert(), py::arg("targets"), py::arg("scales"),
             py::arg("memory"), py::arg("check").noconvert(), py::arg("threads"),
             py::arg("before_writing") = py::none(),
             "Write targets to their memory: -1; with check, or the number of one that would not be finite, and "
             "nothing is written. `before_writing` is called when nothing but it can fail any more.");
  module.def("all_finite", &all_finite<T>, py::arg("arrays").noconvert(), py::arg("threads"));
  module.def("decode_backward", &decode_backward<T>, py::arg("grad").noconvert(), py::arg("hidden").noconvert(),
             py::arg("weight").noconvert(), py::arg("bias").noconvert(), py::arg("blocks").noconvert(),
             py::arg("targets"), py::arg("scales"), py::arg("threads"),
             "The gradients of products, one behind the other, each (cells, rows, columns), and of blocks.");
}

}  // namespace

void bind_decode(py::module_& module) {
  bind_kernels<float>(module);
  bind_kernels<double>(module);
}

}  // namespace ghnfast::python
