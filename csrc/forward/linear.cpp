#include "forward/linear.hpp"

#include <algorithm>

#include "core/buffer.hpp"
#include "core/parallel.hpp"

namespace ghnfast {
namespace {

LinearKernels<float> kernels_for(float) { return GHNFAST_DISPATCH(linear_kernels_float()); }
LinearKernels<double> kernels_for(double) { return GHNFAST_DISPATCH(linear_kernels_double()); }

// Multiplications for an element of a normalized row, which is read three times.
constexpr std::int64_t kPerNormalized = 32;

}  // namespace

template <typename T>
std::int64_t panel_elements(std::int64_t inputs) {
  return inputs * kernels_for(T{}).panel_width;
}

template <typename T>
void run(const LinearJob<T>& job, T* panel) {
  kernels_for(T{}).linear(job, panel);
}

template <typename T>
void run(const LinearJob<T>& job) {
  Buffer<T> panel(panel_elements<T>(job.inputs), Fill::kNothing);
  run(job, panel.data());
}

template <typename T>
void widen(const Numbers<T>& numbers, std::int64_t count, T* to) {
  kernels_for(T{}).widen(numbers, count, to);
}

// Cuts a job by its outputs, so that each part of the weight is transposed once.
template <typename T>
void run_parallel(const LinearJob<T>& job, int threads) {
  const auto width = kernels_for(T{}).panel_width;
  const auto panels = (job.outputs + width - 1) / width;
  const auto most = std::max<std::int64_t>(8, 4 * std::int64_t{threads});
  const auto parts = job.outputs * job.inputs * job.count < worth_threads() ? 1 : std::min(panels, most);
  parallel_for(parts, threads, [&](std::int64_t part) {
    const auto from = panels * part / parts * width;
    auto piece = job;
    piece.outputs = std::min(job.outputs, panels * (part + 1) / parts * width) - from;
    piece.weight = ghnfast::from(job.weight, from * job.output_stride);
    piece.bias = job.bias == nullptr ? nullptr : job.bias + from * job.bias_stride;
    piece.y += from;
    run(piece);
  });
}

template <typename T>
void layer_norm(const Norm<T>& norm, std::int64_t inputs, const T* x, std::int64_t count, T* y, int threads) {
  const auto kernels = kernels_for(T{});
  const auto rows = std::max<std::int64_t>(1, worth_threads() / kPerNormalized / inputs);
  parallel_for((count + rows - 1) / rows, threads, [&](std::int64_t part) {
    const auto first = part * rows;
    kernels.layer_norm({norm.weight, norm.bias, norm.epsilon, inputs, std::min(rows, count - first), x + first * inputs,
                        y + first * inputs});
  });
}

template std::int64_t panel_elements<float>(std::int64_t);
template std::int64_t panel_elements<double>(std::int64_t);
template void run(const LinearJob<float>&, float*);
template void run(const LinearJob<double>&, double*);
template void run(const LinearJob<float>&);
template void run(const LinearJob<double>&);
template void widen(const Numbers<float>&, std::int64_t, float*);
template void widen(const Numbers<double>&, std::int64_t, double*);
template void run_parallel(const LinearJob<float>&, int);
template void run_parallel(const LinearJob<double>&, int);
template void layer_norm(const Norm<float>&, std::int64_t, const float*, std::int64_t, float*, int);
template void layer_norm(const Norm<double>&, std::int64_t, const double*, std::int64_t, double*, int);

}  // namespace ghnfast
