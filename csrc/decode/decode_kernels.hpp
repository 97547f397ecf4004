// What the instruction-set specific part of decoding works on.
#pragma once

#include <cstdint>

#include "core/isa.hpp"
#include "decode/decode.hpp"

namespace ghnfast {

// A target and where it lies; `limit` is the least absolute value that its type does not hold.
struct DecodeTask {
  DecodeTarget target;
  DecodeMemory memory;
  double limit = 0;
  bool contiguous = false;
};

// A product, and its first column in the matrix of its tile.
struct TilePart {
  const DecodeTask* task = nullptr;
  std::int64_t column = 0;
};

// Block rows [from, to) of products, the widest blocks first; their rows of `hidden` are the columns of a matrix small
// enough for a cache.
template <typename T>
struct ProductTile {
  const TilePart* parts = nullptr;
  std::int64_t count = 0;
  std::int64_t from = 0, to = 0;
  std::int64_t cells = 0;         // of all parts
  std::int64_t most_columns = 0;  // of any part
  T* panels = nullptr;            // the matrix: (panels, width, panel width), padded with zeros
};

// What to do with the values of a block row, and scratch memory for it.
template <typename T>
struct RowJob {
  bool write = false;     // else check only
  bool stream = false;    // write past the caches
  T* products = nullptr;  // (rows_at_once or max_columns, panels * panel width)
  T* weights = nullptr;   // (rows_at_once or max_columns, width), where they are not computed with as they lie
  T* values = nullptr;    // (columns * cells)
  char* unit = nullptr;   // the values in the target's type, and the first 64 bytes of them once more
};

template <typename T>
struct DecodeKernels {
  std::int64_t panel_width;
  // Fills the panels of a tile.
  void (*pack)(const DecodeSource<T>&, const ProductTile<T>&);
  // The largest absolute value; infinite where a value is not a number.
  double (*largest)(const T* values, std::int64_t count);
  void (*widen)(const Numbers<T>&, std::int64_t count, T* to);
  // Makes bfloat16 of an even count of numbers; null where products are not of such.
  void (*round)(const Numbers<T>&, std::int64_t count, std::uint16_t* to);
  // Block rows [from, to) of the targets of a tile: the first task with a value that is not finite, or null.
  const DecodeTask* (*product_rows)(const DecodeSource<T>&, const ProductTile<T>&, std::int64_t from, std::int64_t to,
                                    const RowJob<T>&);
  // Block rows [from, to) of a target with a given block: whether all values are finite.
  bool (*given_rows)(const DecodeSource<T>&, const DecodeTask&, std::int64_t from, std::int64_t to, const RowJob<T>&);
};

// How many block rows `product_rows` takes in one product where blocks have one column only.
constexpr std::int64_t kRowsAtOnce = 8;

#define GHNFAST_DECLARE_KERNELS(isa)             \
  namespace isa {                                \
  DecodeKernels<float> decode_kernels_float();   \
  DecodeKernels<double> decode_kernels_double(); \
  }
GHNFAST_FOR_EACH_ISA(GHNFAST_DECLARE_KERNELS)
#undef GHNFAST_DECLARE_KERNELS

}  // namespace ghnfast
