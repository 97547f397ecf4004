#include "forward/linear_kernels.hpp"

#include "core/halves.hpp"
#include "core/simd.hpp"
#include "core/transpose.hpp"

namespace ghnfast {
namespace GHNFAST_ISA {
namespace {

template <typename T>
inline const T* row_of(const LinearJob<T>& job, std::int64_t index) {
  return job.x + (job.rows == nullptr ? index : job.rows[index]) * job.x_stride;
}

inline float error_function(float x) { return ::erff(x); }
inline double error_function(double x) { return ::erf(x); }
inline float square_root(float x) { return ::sqrtf(x); }
inline double square_root(double x) { return ::sqrt(x); }

template <typename T>
inline T activated(Activation activation, T x) {
  switch (activation) {
    case Activation::kRelu:
      return x < T(0) ? T(0) : x;
    case Activation::kGelu:
      return T(0.5) * x * (T(1) + error_function(x * T(0.70710678118654752440)));
    default:
      return x;
  }
}

// x times the share of a normal distribution below x; the share is off by less than 1e-7.
inline Vector<float> gelu(Vector<float> x) {
  const auto most = all(5.5f);
  const auto z = -maximum(-maximum(x, -most), -most);
  const auto u = z * z;
  auto above = all(2.2750708963379268e-8f);
  above = above * u + 6.351839122601259e-6f;
  above = above * u + 1.6879922423370343e-4f;
  above = above * u + 4.6770979737502045e-3f;
  above = above * u + 3.385015378539243e-2f;
  above = above * u + 3.989422347832255e-1f;
  auto below = all(1.197522867011143e-6f);
  below = below * u + 7.363853000455201e-5f;
  below = below * u + 1.884295142148492e-3f;
  below = below * u + 2.8644419394574367e-2f;
  below = below * u + 2.5151567310638556e-1f;
  below = below * u + 1.0f;
  return x * (z * above / below + 0.5f);
}

inline Vector<double> gelu(Vector<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane) {
    x[lane] = activated(Activation::kGelu, static_cast<double>(x[lane]));
  }
  return x;
}

template <typename T>
inline Vector<T> activated(Activation activation, Vector<T> x) {
  switch (activation) {
    case Activation::kRelu:
      return positive_part<T>(x);
    case Activation::kGelu:
      return gelu(x);
    default:
      return x;
  }
}

template <typename T>
inline T bias_of(const LinearJob<T>& job, std::int64_t index, std::int64_t output) {
  return (job.bias == nullptr ? T(0) : job.bias[output * job.bias_stride]) +
         (job.row_bias == nullptr ? T(0) : job.row_bias[index]);
}

// Few rows: each output is a product along its own row of the weight, whose inputs lie next to each other.
// -------------

// The products of a row of x with `count` rows of the weight.
template <typename T, Stored stored, int count>
inline void dot_block(const LinearJob<T>& job, std::int64_t index, std::int64_t output) {
  const T* x = row_of(job, index);
  const auto row = output * job.output_stride;
  Vector<T> sums[count] = {};
  std::int64_t k = 0;
  for (; k + kLanes<T> <= job.inputs; k += kLanes<T>) {
    const auto values = load(x + k);
    for (int o = 0; o < count; ++o) {
      sums[o] += values * numbers<T, stored>(job.weight.data, row + o * job.output_stride + k);
    }
  }
  for (int o = 0; o < count; ++o) {
    T total = bias_of(job, index, output + o);
    for (int lane = 0; lane < kLanes<T>; ++lane) {
      total += sums[o][lane];
    }
    for (auto rest = k; rest < job.inputs; ++rest) {
      total += x[rest] * number<T, stored>(job.weight.data, row + o * job.output_stride + rest);
    }
    T& y = job.y[index * job.y_stride + output + o];
    total = activated(job.activation, total);
    y = job.add ? y + total : total;
  }
}

template <typename T, Stored stored>
inline void linear_of_few(const LinearJob<T>& job) {
  for (std::int64_t index = 0; index < job.count; ++index) {
    std::int64_t output = 0;
    for (; output + 8 <= job.outputs; output += 8) {
      dot_block<T, stored, 8>(job, index, output);
    }
    for (; output < job.outputs; ++output) {
      dot_block<T, stored, 1>(job, index, output);
    }
  }
}

// Many rows: outputs are computed side by side, from a transposed copy of their weights.
// -------------------------------

// The first inputs of some outputs, in squares as far as there are such; how many.
template <typename T>
inline std::int64_t fill_squares(const LinearJob<T>&, std::int64_t, std::int64_t, T*) {
  return 0;
}

#if defined(__AVX2__)
inline std::int64_t fill_squares(const LinearJob<float>& job, std::int64_t output, std::int64_t width, float* panel) {
  if (job.input_stride != 1) {
    return 0;
  }
  std::int64_t k = 0;
  for (; k + kLanes<float> <= job.inputs; k += kLanes<float>) {
    for (std::int64_t from = 0; from < kPanelWidth<float>; from += kLanes<float>) {
      const auto* first = static_cast<const float*>(job.weight.data) + (output + from) * job.output_stride + k;
      Line lines[kLanes<float>];
      for (std::int64_t o = 0; o < kLanes<float>; ++o) {
        lines[o] = from + o < width ? line_of(first + o * job.output_stride) : no_line();
      }
      transpose_lines(lines, reinterpret_cast<std::uint32_t*>(panel + k * kPanelWidth<float> + from));
    }
  }
  return k;
}
#endif

// With the biases of the outputs.
template <typename T, Stored stored>
inline void fill_panel(const LinearJob<T>& job, std::int64_t output, std::int64_t width, T* panel, T* biases) {
  for (std::int64_t o = 0; o < kPanelWidth<T>; ++o) {
    biases[o] = o < width && job.bias != nullptr ? job.bias[(output + o) * job.bias_stride] : T(0);
  }
  for (auto k = stored == Stored::kSame ? fill_squares(job, output, width, panel) : 0; k < job.inputs; ++k) {
    const auto first = output * job.output_stride + k * job.input_stride;
    T* to = panel + k * kPanelWidth<T>;
    for (std::int64_t o = 0; o < width; ++o) {
      to[o] = number<T, stored>(job.weight.data, first + o * job.output_stride);
    }
    for (auto o = width; o < kPanelWidth<T>; ++o) {
      to[o] = T(0);
    }
  }
}

template <typename T, int count>
inline void panel_block(const LinearJob<T>& job, std::int64_t index, std::int64_t output, std::int64_t width,
                        const T* panel, const T* biases) {
  const T* x[count];
  for (int r = 0; r < count; ++r) {
    x[r] = row_of(job, index + r);
  }
  Vector<T> sums[count][kVectorsPerPanel];  // `= {}` clears them in memory, which takes as long as some products
  for (int r = 0; r < count; ++r) {
    for (int v = 0; v < kVectorsPerPanel; ++v) {
      sums[r][v] = Vector<T>{};
    }
  }
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
  for (int r = 0; r < count; ++r) {
    T* y = job.y + (index + r) * job.y_stride + output;
    const T row_bias = job.row_bias == nullptr ? T(0) : job.row_bias[index + r];
    T values[kPanelWidth<T>];
    for (int v = 0; v < kVectorsPerPanel; ++v) {
      const auto at = v * kLanes<T>;
      const auto value = activated<T>(job.activation, sums[r][v] + (load(biases + at) + row_bias));
      if (width < kPanelWidth<T>) {
        save(values + at, value);
      } else {
        save(y + at, job.add ? load(y + at) + value : value);
      }
    }
    for (std::int64_t o = 0; width < kPanelWidth<T> && o < width; ++o) {
      y[o] = job.add ? y[o] + values[o] : values[o];
    }
  }
}

// So many rows, or as many fewer as are left.
template <typename T, int count>
inline void some_rows(const LinearJob<T>& job, std::int64_t index, std::int64_t left, std::int64_t output,
                      std::int64_t width, const T* panel, const T* biases) {
  if constexpr (count > 0) {
    if (left < count) {
      return some_rows<T, count - 1>(job, index, left, output, width, panel, biases);
    }
    panel_block<T, count>(job, index, output, width, panel, biases);
  }
}

template <typename T, Stored stored>
inline void linear_of_many(const LinearJob<T>& job, T* panel) {
  for (std::int64_t output = 0; output < job.outputs; output += kPanelWidth<T>) {
    const auto left = job.outputs - output;
    const auto width = left < kPanelWidth<T> ? left : kPanelWidth<T>;
    T biases[kPanelWidth<T>];
    fill_panel<T, stored>(job, output, width, panel, biases);
    for (std::int64_t index = 0, now; index < job.count; index += now) {
      now = rows_of_next_block(job.count - index);
      some_rows<T, kRowsPerBlock>(job, index, now, output, width, panel, biases);
    }
  }
}

template <typename T, Stored stored>
inline void linear_as(const LinearJob<T>& job, T* panel) {
  if (job.count <= 3 && job.input_stride == 1) {
    linear_of_few<T, stored>(job);
  } else {
    linear_of_many<T, stored>(job, panel);
  }
}

template <typename T>
void linear(const LinearJob<T>& job, T* panel) {
  switch (job.weight.stored) {
    case Stored::kFloat16:
      return linear_as<T, Stored::kFloat16>(job, panel);
    case Stored::kBFloat16:
      return linear_as<T, Stored::kBFloat16>(job, panel);
    default:
      return linear_as<T, Stored::kSame>(job, panel);
  }
}

// The sum of function(vector of inputs) and of function(input) for those that fill none.
template <typename T, typename Function>
inline T sum_of(const T* x, std::int64_t inputs, Function function) {
  Vector<T> sums[2] = {};
  std::int64_t i = 0;
  for (; i + 2 * kLanes<T> <= inputs; i += 2 * kLanes<T>) {
    sums[0] += function(load(x + i));
    sums[1] += function(load(x + i + kLanes<T>));
  }
  sums[0] += sums[1];
  T total = 0;
  for (int lane = 0; lane < kLanes<T>; ++lane) {
    total += sums[0][lane];
  }
  for (; i < inputs; ++i) {
    total += function(all(x[i]))[0];
  }
  return total;
}

template <typename T>
void layer_norm(const NormJob<T>& job) {
  const auto inputs = static_cast<T>(job.inputs);
  for (std::int64_t index = 0; index < job.count; ++index) {
    const T* x = job.x + index * job.inputs;
    T* y = job.y + index * job.inputs;
    const T mean = sum_of(x, job.inputs, [](Vector<T> value) { return value; }) / inputs;
    const T squares = sum_of(x, job.inputs, [mean](Vector<T> value) { return (value - mean) * (value - mean); });
    const T factor = T(1) / square_root(squares / inputs + static_cast<T>(job.epsilon));
    std::int64_t i = 0;
    for (; i + kLanes<T> <= job.inputs; i += kLanes<T>) {
      save(y + i, (load(x + i) - mean) * factor * load(job.weight + i) + load(job.bias + i));
    }
    for (; i < job.inputs; ++i) {
      y[i] = (x[i] - mean) * factor * job.weight[i] + job.bias[i];
    }
  }
}

template <typename T>
constexpr LinearKernels<T> kKernels = {kPanelWidth<T>, &linear<T>, &layer_norm<T>, &widen<T>};

}  // namespace

LinearKernels<float> linear_kernels_float() { return kKernels<float>; }
LinearKernels<double> linear_kernels_double() { return kKernels<double>; }

}  // namespace GHNFAST_ISA
}  // namespace ghnfast
