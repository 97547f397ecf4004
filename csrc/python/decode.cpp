#include "decode/decode.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/isa.hpp"
#include "python/arrays.hpp"
#include "python/bindings.hpp"
#include "python/decode_tables.hpp"
#include "python/layers.hpp"
#include "python/tables.hpp"

namespace ghnfast::python {
namespace {

template <typename T>
DecodeSource<T> decode_source(const Floats<T>& hidden, const py::array& weight, const Floats<T>& bias,
                              const Floats<T>& blocks) {
  if (hidden.ndim() != 2 || weight.ndim() != 3 || blocks.ndim() != 1) {
    throw std::invalid_argument("hidden must be (rows, width), weight (out, in, width), blocks (elements)");
  }
  check_shape(weight, {weight.shape(0), weight.shape(1), hidden.shape(1)}, "weight");
  check_shape(bias, {weight.shape(0), weight.shape(1)}, "bias");
  DecodeSource<T> source;
  source.hidden = hidden.data();
  source.weight = numbers_of<T>(weight, "weight");
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
std::int64_t decode(const Floats<T>& hidden, const py::array& weight, const py::array& given_bias,
                    const Floats<T>& blocks, const Table<DecodeTarget>& table, const Table<DecodeMemory>& memory_table,
                    bool check, int threads, const py::object& before_writing, std::optional<double> largest_weight,
                    bool rounds) {
  const auto bias = floats_of<T>(given_bias, "bias");
  auto source = decode_source(hidden, weight, bias, blocks);
  const auto targets = decode_targets(table);
  const auto memory = decode_memory(memory_table, targets.size());
  source.largest_weight = largest_weight.value_or(-1);
  source.rounds = rounds && rounds_products();
  const auto call = callback(before_writing);
  py::gil_scoped_release released;
  return ghnfast::decode(source, targets, memory, check, threads, call);
}

template <typename T>
py::tuple decode_backward(const Floats<T>& grad, const Floats<T>& hidden, const Floats<T>& weight,
                          const Floats<T>& bias, const Floats<T>& blocks, const Table<DecodeTarget>& table,
                          int threads) {
  const auto source = decode_source(hidden, weight, bias, blocks);
  const auto targets = decode_targets(table);
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

double largest_of(const py::array& array, int threads) {
  const auto find = [&](const auto& numbers) {
    const auto count = array.size();
    py::gil_scoped_release released;
    return ghnfast::largest(numbers, count, threads);
  };
  return array.dtype().is(py::dtype::of<double>()) ? find(numbers_of<double>(array, "an array"))
                                                   : find(numbers_of<float>(array, "an array"));
}

std::vector<double> largest(const std::vector<py::array>& arrays, int threads) {
  std::vector<double> found;
  for (const auto& array : arrays) {
    found.push_back(largest_of(array, threads));
  }
  return found;
}

// For one type of numbers; those of an array choose the overload.
template <typename T>
void bind_decode_kernels(py::module_& module) {
  module.def(
      "decode", &decode<T>, py::arg("hidden").noconvert(), py::arg("weight").noconvert(), py::arg("bias").noconvert(),
      py::arg("blocks").noconvert(), py::arg("targets"), py::arg("memory"), py::arg("check").noconvert(),
      py::arg("threads"), py::arg("before_writing") = py::none(), py::arg("largest_weight") = py::none(),
      py::arg("rounds").noconvert() = false,
      "Write targets to their memory: -1; with check, or the number of one that would not be finite, and "
      "nothing is written. `before_writing` is called when nothing but it can fail any more. `largest_weight`: "
      "the largest absolute value of the weight, where it is known. `rounds`: operands of products to bfloat16, where "
      "`rounds_products`.");
  module.def("decode_backward", &decode_backward<T>, py::arg("grad").noconvert(), py::arg("hidden").noconvert(),
             py::arg("weight").noconvert(), py::arg("bias").noconvert(), py::arg("blocks").noconvert(),
             py::arg("targets"), py::arg("threads"),
             "The gradients of products, one behind the other, each (cells, rows, columns), and of blocks.");
}

}  // namespace

void bind_decode(py::module_& module) {
  module.def("largest", &largest, py::arg("arrays"), py::arg("threads"),
             "The largest absolute value of each array; infinite where a value is not a number.");
  bind_decode_kernels<float>(module);
  bind_decode_kernels<double>(module);
}

}  // namespace ghnfast::python
