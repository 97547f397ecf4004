#include <algorithm>
#include <vector>

#include "core/buffer.hpp"
#include "core/parallel.hpp"
#include "decode/decode.hpp"
#include "decode/decode_kernels.hpp"

namespace ghnfast {
namespace {

DecodeKernels<float> kernels_for(float) { return GHNFAST_DISPATCH(decode_kernels_float()); }
DecodeKernels<double> kernels_for(double) { return GHNFAST_DISPATCH(decode_kernels_double()); }

}  // namespace

template <typename T>
double bound_of_products(const DecodeSource<T>& source, int threads) {
  const auto count = source.max_rows * source.max_columns;
  const auto hidden = largest<T>({source.hidden}, source.hidden_rows * source.width, threads);
  const auto weight =
      source.largest_weight < 0 ? largest(source.weight, count * source.width, threads) : source.largest_weight;
  const auto bias = largest<T>({source.bias}, count, threads);
  return static_cast<double>(source.width) * weight * hidden + bias;
}

template <typename T>
double largest(const Numbers<T>& values, std::int64_t count, int threads) {
  constexpr std::int64_t kChunk = 1 << 16;
  const auto kernels = kernels_for(T{});
  std::vector<double> found((count + kChunk - 1) / kChunk);
  parallel_for(static_cast<std::int64_t>(found.size()), count > 4 * kChunk ? threads : 1, [&](std::int64_t chunk) {
    const auto part = from(values, chunk * kChunk);
    const auto size = std::min(kChunk, count - chunk * kChunk);
    const bool widened = values.stored != Stored::kSame;
    Buffer<T> memory(widened ? size : 0, Fill::kNothing);
    if (widened) {
      kernels.widen(part, size, memory.data());
    }
    found[chunk] = kernels.largest(widened ? memory.data() : static_cast<const T*>(part.data), size);
  });
  return found.empty() ? 0.0 : *std::max_element(found.begin(), found.end());
}

template double bound_of_products(const DecodeSource<float>&, int);
template double bound_of_products(const DecodeSource<double>&, int);
template double largest(const Numbers<float>&, std::int64_t, int);
template double largest(const Numbers<double>&, std::int64_t, int);

}  // namespace ghnfast
