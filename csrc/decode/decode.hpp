// The last step of decoding: the product that gives blocks of parameters, their normalization, and the parameters that
// repeat them; forward and backward.
//
// Source: Parameter Prediction for Unseen Deep Architectures (NeurIPS 2021), section 3.3 and appendix B.2.
// ghnfast/ops/decode/naive.py has the same in plain PyTorch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <vector>

#include "core/numbers.hpp"

namespace ghnfast {

// Where a target's block comes from, and how its values become a parameter's.
enum class TargetKind : std::int64_t {
  kProduct,     // a product, times the scale
  kScaled,      // a given block, times the scale
  kNormWeight,  // a given block, 2 sigmoid(x / 2)
  kBias,        // a given block, tanh(x / 5)
  kCount
};

// What numbers a parameter has.
enum class Element : std::int64_t { kFloat32, kFloat64, kFloat16, kBFloat16, kCount };

// One parameter, seen as (out, in, cells), which repeats a block (rows, columns, cells) in its first two dimensions.
// The block is either a product, block[i][j][c] = weight[i][j] . hidden[first + c] + bias[i][j], or given.
//
// The row of a table, which Python sees as a numpy dtype: see python/tables.hpp, as for all that are.
struct DecodeTarget {
  std::int64_t first = 0;  // a product's first row of `hidden`, or where a given block starts in `blocks`
  std::int64_t rows = 0, columns = 0, cells = 0;
  std::int64_t out = 0, in = 0;
  TargetKind kind = TargetKind::kScaled;
  double scale = 1;

  bool is_product() const { return kind == TargetKind::kProduct; }
};

// Where a parameter lies: the address of its first element, and the distances between elements in its three
// dimensions, counted in elements. The row of a table.
struct DecodeMemory {
  std::int64_t address = 0;
  Element element = Element::kFloat32;
  std::int64_t strides[3] = {0, 0, 0};

  char* data() const { return reinterpret_cast<char*>(address); }
};

// What all targets are decoded from. Row-major.
template <typename T>
struct DecodeSource {
  const T* hidden = nullptr;  // (hidden_rows, width)
  Numbers<T> weight;          // (max_rows, max_columns, width)
  const T* bias = nullptr;    // (max_rows, max_columns)
  const T* blocks = nullptr;  // (block_elements): each block (rows, columns, cells)
  std::int64_t hidden_rows = 0, width = 0, max_rows = 0, max_columns = 0, block_elements = 0;
  double largest_weight = -1;  // the largest absolute value of `weight`; negative where it is not known
  bool rounds = false;         // operands of products to bfloat16, with sums in float; see `rounds_products`
};

// What an array that tables describe may have: offsets in bytes, and sums over many arrays, fit 64 bits.
constexpr std::int64_t kMostElements = std::int64_t{1} << 48;

// Whether numbers are positive and their product, which need not fit 64 bits, is at most `most`.
bool is_within(std::initializer_list<std::int64_t> factors, std::int64_t most);

// Throws std::invalid_argument where targets do not fit the source, or are too large to be.
template <typename T>
void check_targets(const DecodeSource<T>& source, const std::vector<DecodeTarget>& targets);

// Targets with given blocks that are made of products: `make`, which must not fail, fills the blocks when all products
// are written. The caller knows that their values are finite.
struct LateTargets {
  std::vector<std::size_t> targets;  // rising
  std::function<void()> make;
};

// Writes every target into its memory and returns -1. With `check`: or returns the number of a target that would get a
// value that is not finite in its type, and writes nothing. What can fail comes before the first write: allocations,
// and `before_writing`, if it is not empty, which is called last.
template <typename T>
std::int64_t decode(const DecodeSource<T>& source, const std::vector<DecodeTarget>& targets,
                    const std::vector<DecodeMemory>& memory, bool check, int threads,
                    const std::function<void()>& before_writing = {}, const LateTargets& late = {});

// What no product is larger than: the sum of |w| |h| is at most width * max |w| * max |h|.
template <typename T>
double bound_of_products(const DecodeSource<T>& source, int threads);

// The least absolute value that a type does not hold.
double limit_of(Element element);

// The largest absolute value; infinite where a value is not a number.
template <typename T>
double largest(const Numbers<T>& values, std::int64_t count, int threads);

// The gradient of a target's block before its activation, from that of the target: the sum over its repeats.
// `grad` holds the gradients of all targets, one behind the other, each contiguous. `grad_products` gets those of the
// products, one behind the other, each (cells, rows, columns); `grad_blocks` those of the given blocks, in the
// layout of `blocks`.
template <typename T>
void decode_backward(const DecodeSource<T>& source, const std::vector<DecodeTarget>& targets, const T* grad,
                     T* grad_products, T* grad_blocks, int threads);

}  // namespace ghnfast
