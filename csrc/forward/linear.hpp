// Linear layers on several threads, and layer norms.
#pragma once

#include <cstdint>

#include "forward/linear_kernels.hpp"

namespace ghnfast {

// A linear layer in torch's layout: weight (out, in), bias (out), or null for none.
template <typename T>
struct Layer {
  Numbers<T> weight;
  const T* bias = nullptr;
  std::int64_t outputs = 0, inputs = 0;
};

// A layer norm over `inputs`: weight and bias (inputs).
template <typename T>
struct Norm {
  const T* weight = nullptr;
  const T* bias = nullptr;
  double epsilon = 0;
};

// A layer's outputs for `count` rows of x, next to each other.
template <typename T>
LinearJob<T> job_of(const Layer<T>& layer, const T* x, std::int64_t count, T* y, Activation activation) {
  LinearJob<T> job;
  job.weight = layer.weight;
  job.output_stride = job.inputs = job.x_stride = layer.inputs;
  job.outputs = job.y_stride = layer.outputs;
  job.bias = layer.bias;
  job.x = x;
  job.count = count;
  job.y = y;
  job.activation = activation;
  return job;
}

// What a job with so many inputs needs of scratch.
template <typename T>
std::int64_t panel_elements(std::int64_t inputs);

template <typename T>
void run(const LinearJob<T>& job, T* panel);

template <typename T>
void run(const LinearJob<T>& job);

// The next `count` numbers as they are computed with.
template <typename T>
void widen(const Numbers<T>& numbers, std::int64_t count, T* to);

// The same on up to `threads` threads; every number of them gives the same bits.
template <typename T>
void run_parallel(const LinearJob<T>& job, int threads);

// Of `count` rows of x; y may be x.
template <typename T>
void layer_norm(const Norm<T>& norm, std::int64_t inputs, const T* x, std::int64_t count, T* y, int threads);

}  // namespace ghnfast
