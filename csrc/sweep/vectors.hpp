// Vectors of one node: products with matrices, and what is done to their elements.
// For files that are compiled once for each instruction set, as core/simd.hpp.
#pragma once

#include <cstdint>

#include "core/simd.hpp"
#include "sweep/sweep_kernels.hpp"

namespace ghnfast {
namespace GHNFAST_ISA {
namespace {

// y = bias + sum over k of x[k] * columns[k], for `count` vectors of y. Few vectors take several sums each, so that
// additions do not wait for each other.
template <typename T, int count>
inline void matvec_block(const T* columns, int stride, const T* x, int inputs, const T* bias, T* y) {
  constexpr int chains = count >= 8 ? 1 : count >= 4 ? 2 : 4;
  Vector<T> sums[chains][count] = {};
  int k = 0;
  for (; k + chains <= inputs; k += chains) {
    for (int chain = 0; chain < chains; ++chain, columns += stride) {
      const auto factor = all(x[k + chain]);
      for (int i = 0; i < count; ++i) {
        sums[chain][i] += factor * load(columns + i * kLanes<T>);
      }
    }
  }
  for (; k < inputs; ++k, columns += stride) {
    const auto factor = all(x[k]);
    for (int i = 0; i < count; ++i) {
      sums[0][i] += factor * load(columns + i * kLanes<T>);
    }
  }
  for (int i = 0; i < count; ++i) {
    auto total = sums[0][i];
    for (int chain = 1; chain < chains; ++chain) {
      total += sums[chain][i];
    }
    save(y + i * kLanes<T>, bias == nullptr ? total : total + load(bias + i * kLanes<T>));
  }
}

// The same for any number of whole vectors; the blocks are as many as fit the registers.
template <typename T>
inline void matvec(const T* columns, int width, const T* x, int inputs, const T* bias, T* y) {
  for (int done = 0; done < width;) {
    const int left = (width - done) / kLanes<T>;
    const T* block_bias = bias == nullptr ? nullptr : bias + done;
    if (left >= 8) {
      matvec_block<T, 8>(columns + done, width, x, inputs, block_bias, y + done);
      done += 8 * kLanes<T>;
    } else if (left >= 6) {
      matvec_block<T, 6>(columns + done, width, x, inputs, block_bias, y + done);
      done += 6 * kLanes<T>;
    } else if (left >= 4) {
      matvec_block<T, 4>(columns + done, width, x, inputs, block_bias, y + done);
      done += 4 * kLanes<T>;
    } else if (left >= 2) {
      matvec_block<T, 2>(columns + done, width, x, inputs, block_bias, y + done);
      done += 2 * kLanes<T>;
    } else {
      matvec_block<T, 1>(columns + done, width, x, inputs, block_bias, y + done);
      done += kLanes<T>;
    }
  }
}

template <typename T>
inline void apply(const PackedLayer<T>& layer, const T* x, T* y) {
  matvec(layer.columns, layer.width, x, layer.inputs, layer.bias, y);
}

// y = W^T x.
template <typename T>
inline void apply_transposed(const PackedLayer<T>& layer, const T* x, T* y) {
  matvec<T>(layer.rows, padded<T>(layer.inputs), x, layer.width, nullptr, y);
}

template <typename T>
inline void relu(T* x, int width) {
  for (int i = 0; i < width; i += kLanes<T>) {
    save(x + i, positive_part<T>(load(x + i)));
  }
}

template <typename T>
inline void add_scaled(T* to, const T* from, T factor, int width) {
  for (int i = 0; i < width; i += kLanes<T>) {
    save(to + i, load(to + i) + factor * load(from + i));
  }
}

}  // namespace
}  // namespace GHNFAST_ISA
}  // namespace ghnfast
