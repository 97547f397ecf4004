#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "core/parallel.hpp"
#include "decode/decode.hpp"

namespace ghnfast {
namespace {

// The sum over the repeats of block row `row`: (columns, cells).
template <typename T>
void fold_row(const DecodeTarget& target, std::int64_t row, const T* grad, T* sum) {
  const auto unit = target.columns * target.cells, row_elements = target.in * target.cells;
  std::fill(sum, sum + unit, T(0));
  for (auto out = row; out < target.out; out += target.rows) {
    for (std::int64_t at = 0; at < row_elements; at += unit) {
      const T* from = grad + out * row_elements + at;
      const auto size = std::min(unit, row_elements - at);
      for (std::int64_t i = 0; i < size; ++i) {
        sum[i] += from[i];
      }
    }
  }
}

template <typename T>
T derivative(const DecodeTarget& target, T x) {
  if (target.kind == TargetKind::kNormWeight) {
    const auto sigmoid = T(1) / (T(1) + std::exp(-x / T(2)));
    return sigmoid * (T(1) - sigmoid);
  }
  if (target.kind == TargetKind::kBias) {
    const auto tanh = std::tanh(x / T(5));
    return (T(1) - tanh * tanh) / T(5);
  }
  return static_cast<T>(target.scale);
}

template <typename T>
void fold(const DecodeSource<T>& source, const DecodeTarget& target, const T* grad, T* result) {
  const auto unit = target.columns * target.cells;
  std::vector<T> sum(unit);
  for (std::int64_t row = 0; row < target.rows; ++row) {
    fold_row(target, row, grad, sum.data());
    for (std::int64_t i = 0; i < unit; ++i) {
      const auto column = i / target.cells, cell = i % target.cells;
      if (target.is_product()) {
        result[(cell * target.rows + row) * target.columns + column] = sum[i] * static_cast<T>(target.scale);
      } else {
        result[row * unit + i] = sum[i] * derivative(target, source.blocks[target.first + row * unit + i]);
      }
    }
  }
}

}  // namespace

template <typename T>
void decode_backward(const DecodeSource<T>& source, const std::vector<DecodeTarget>& targets, const T* grad,
                     T* grad_products, T* grad_blocks, int threads) {
  check_targets(source, targets);
  std::vector<const T*> grads;
  std::vector<T*> results;
  for (const auto& target : targets) {
    grads.push_back(grad);
    grad += target.out * target.in * target.cells;
    results.push_back(target.is_product() ? grad_products : grad_blocks + target.first);
    grad_products += target.is_product() ? target.rows * target.columns * target.cells : 0;
  }
  parallel_for(static_cast<std::int64_t>(targets.size()), threads,
               [&](std::int64_t index) { fold(source, targets[index], grads[index], results[index]); });
}

template void decode_backward(const DecodeSource<float>&, const std::vector<DecodeTarget>&, const float*, float*,
                              float*, int);
template void decode_backward(const DecodeSource<double>&, const std::vector<DecodeTarget>&, const double*, double*,
                              double*, int);

}  // namespace ghnfast
