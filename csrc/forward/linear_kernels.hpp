// The instruction-set specific part of linear layers, and of what stands between them.
#pragma once

#include <cstdint>

#include "core/isa.hpp"
#include "core/numbers.hpp"

namespace ghnfast {

// What is applied to the outputs of a layer. GELU: x times the share of a normal distribution below x, not its
// approximation with tanh.
enum class Activation { kNone, kRelu, kGelu };

// y[i][o] = sum over k of weight[o][k] x[row i][k], plus a bias, for `count` rows of x and `outputs` outputs; then the
// activation of it; with `add`, added to what y holds.
template <typename T>
struct LinearJob {
  Numbers<T> weight;
  std::int64_t output_stride = 0, input_stride = 1;  // of the weight
  std::int64_t outputs = 0, inputs = 0;
  const T* bias = nullptr;  // one per output, `bias_stride` apart, or null
  std::int64_t bias_stride = 1;
  const T* row_bias = nullptr;  // one per row of x, or null
  const T* x = nullptr;
  std::int64_t x_stride = 0;
  const std::int64_t* rows = nullptr;  // which rows of x, or null for the first ones
  std::int64_t count = 0;
  T* y = nullptr;
  std::int64_t y_stride = 0;
  Activation activation = Activation::kNone;
  bool add = false;
};

// y[i] = (x[i] - mean) / sqrt(variance + epsilon) * weight + bias, for `count` rows of so many inputs.
template <typename T>
struct NormJob {
  const T* weight = nullptr;
  const T* bias = nullptr;
  double epsilon = 0;
  std::int64_t inputs = 0, count = 0;
  const T* x = nullptr;
  T* y = nullptr;
};

template <typename T>
struct LinearKernels {
  std::int64_t panel_width;                       // how many outputs are computed at once
  void (*linear)(const LinearJob<T>&, T* panel);  // panel: scratch, inputs * panel_width
  void (*layer_norm)(const NormJob<T>&);
  void (*widen)(const Numbers<T>&, std::int64_t count, T* to);
};

#define GHNFAST_DECLARE_KERNELS(isa)             \
  namespace isa {                                \
  LinearKernels<float> linear_kernels_float();   \
  LinearKernels<double> linear_kernels_double(); \
  }
GHNFAST_FOR_EACH_ISA(GHNFAST_DECLARE_KERNELS)
#undef GHNFAST_DECLARE_KERNELS

}  // namespace ghnfast
