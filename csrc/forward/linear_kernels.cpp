#include "forward/linear_kernels.hpp"

#include <cstring>

#include "core/simd.hpp"

namespace ghnfast {
namespace GHNFAST_ISA {
namespace {

template <typename T>
inline const T* row_of(const LinearJob<T>& job, std::int64_t index) {
  return job.x + (job.rows == nullptr ? index : job.rows[index]) * job.x_stride;
}

template <typename T>
inline T bias_of(const LinearJob<T>& job, std::int64_t index, std::int64_t output) {
  return (job.bias == nullptr ? T(0) : job.bias[output * job.bias_stride]) +
         (job.row_bias == nullptr ? T(0) : job.row_bias[index]);
}

// Few rows: each output is a product along its own row of the weight, whose inputs lie next to each other.
// -------------

// The products of a row of x with `count` rows of the weight.
template <typename T, int count>
inline void dot_block(const LinearJob<T>& job, std::int64_t index, std::int64_t output) {
  const T* x = row_of(job, index);
  const T* weight = job.weight + output * job.output_stride;
  Vector<T> sums[count] = {};
  std::int64_t k = 0;
  for (; k + kLanes<T> <= job.inputs; k += kLanes<T>) {
    const auto values = load(x + k);
    for (int o = 0; o < count; ++o) {
      sums[o] += values * load(weight + o * job.output_stride + k);
    }
  }
  for (int o = 0; o < count; ++o) {
    T total = bias_of(job, index, output + o);
    for (int lane = 0; lane < kLanes<T>; ++lane) {
      total += sums[o][lane];
    }
    for (auto rest = k; rest < job.inputs; ++rest) {
      total += x[rest] * weight[o * job.output_stride + rest];
    }
    job.y[index * job.y_stride + output + o] = job.relu && total < T(0) ? T(0) : total;
  }
}

template <typename T>
inline void linear_of_few(const LinearJob<T>& job) {
  for (std::int64_t index = 0; index < job.count; ++index) {
    std::int64_t output = 0;
    for (; output + 8 <= job.outputs; output += 8) {
      dot_block<T, 8>(job, index, output);
    }
    for (; output < job.outputs; ++output) {
      dot_block<T, 1>(job, index, output);
    }
  }
}

// Many rows: outputs are computed side by side, from a transposed copy of their weights.
// -------------------------------

template <typename T>
inline void fill_panel(const LinearJob<T>& job, std::int64_t output, std::int64_t width, T* panel) {
  for (std::int64_t k = 0; k < job.inputs; ++k) {
    const T* from = job.weight + output * job.output_stride + k * job.input_stride;
    T* to = panel + k * kPanelWidth<T>;
    for (std::int64_t o = 0; o < width; ++o) {
      to[o] = from[o * job.output_stride];
    }
    for (auto o = width; o < kPanelWidth<T>; ++o) {
      to[o] = T(0);
    }
  }
}

template <typename T, int count>
inline void panel_block(const LinearJob<T>& job, std::int64_t index, std::int64_t output, std::int64_t width,
                        const T* panel) {
  const T* x[count];
  for (int r = 0; r < count; ++r) {
    x[r] = row_of(job, index + r);
  }
  Vector<T> sums[count][kVectorsPerPanel] = {};
  for (std::int64_t k = 0; k < job.inputs; ++k) {
    Vector<T> weights[kVectorsPerPanel];
    for (int v = 0; v < kVectorsPerPanel; ++v) {
      weights[v] = load(panel + k * kPanelWidth<T> + v * kLanes<T>);
    }
    for (int r = 0; r < count; ++r) {
      const auto factor = all(x[r][k]);
      for (int v = 0; v < kVectorsPerPanel; ++v) {
        sums[r][v] += factor * weights[v];
      }
    }
  }
  T values[kPanelWidth<T>];
  for (int r = 0; r < count; ++r) {
    for (int v = 0; v < kVectorsPerPanel; ++v) {
      save(values + v * kLanes<T>, sums[r][v]);
    }
    T* y = job.y + (index + r) * job.y_stride + output;
    for (std::int64_t o = 0; o < width; ++o) {
      const T total = values[o] + bias_of(job, index + r, output + o);
      y[o] = job.relu && total < T(0) ? T(0) : total;
    }
  }
}

template <typename T>
inline void linear_of_many(const LinearJob<T>& job, T* panel) {
  for (std::int64_t output = 0; output < job.outputs; output += kPanelWidth<T>) {
    const auto left = job.outputs - output;
    const auto width = left < kPanelWidth<T> ? left : kPanelWidth<T>;
    fill_panel(job, output, width, panel);
    std::int64_t index = 0;
    for (; index + kRowsPerBlock <= job.count; index += kRowsPerBlock) {
      panel_block<T, kRowsPerBlock>(job, index, output, width, panel);
    }
    for (; index < job.count; ++index) {
      panel_block<T, 1>(job, index, output, width, panel);
    }
  }
}

template <typename T>
void linear(const LinearJob<T>& job, T* panel) {
  if (job.count <= 3 && job.input_stride == 1) {
    linear_of_few(job);
  } else {
    linear_of_many(job, panel);
  }
}

}  // namespace

LinearKernels<float> linear_kernels_float() { return {kPanelWidth<float>, &linear<float>}; }
LinearKernels<double> linear_kernels_double() { return {kPanelWidth<double>, &linear<double>}; }

}  // namespace GHNFAST_ISA
}  // namespace ghnfast
