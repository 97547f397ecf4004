// Products of the last weight's rows with the hidden states of a tile, for kernels: see core/simd.hpp for what may be
// here.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/halves.hpp"
#include "core/simd.hpp"
#include "core/transpose.hpp"
#include "decode/decode_kernels.hpp"

// GCC and clang compile single functions for instructions that not every machine with AVX-512 has.
#if defined(__AVX512F__)
#define GHNFAST_PAIRS 1
#define GHNFAST_FOR_PAIRS __attribute__((target("avx512bf16")))
#else
#define GHNFAST_PAIRS 0
#endif

namespace ghnfast {
namespace GHNFAST_ISA {

inline std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// Two neighbouring operands of a product, rounded to bfloat16, the first in the lower half.
typedef std::uint32_t Pair;

// How many numbers an operand is.
template <typename Operand>
constexpr std::int64_t kNumbers = 1;
template <>
inline constexpr std::int64_t kNumbers<Pair> = 2;

// Whether products of such numbers can be of pairs.
template <typename T>
constexpr bool kTakesPairs = GHNFAST_PAIRS == 1 && sizeof(T) == sizeof(float);

// Operand `index` of a row; zero for null.
template <typename T>
inline void make_operand(const T* row, std::int64_t index, T& to) {
  to = row == nullptr ? T(0) : row[index];
}

inline void make_operand(const float* row, std::int64_t index, Pair& to) {
  to = row == nullptr ? 0 : to_bfloat16(row[2 * index]) | static_cast<Pair>(to_bfloat16(row[2 * index + 1])) << 16;
}

// The operands of a row of the weight, side by side.
template <typename T>
inline void make_rows(const Numbers<T>& row, std::int64_t width, T* to) {
  widen(row, width, to);
}

#if GHNFAST_PAIRS
GHNFAST_FOR_PAIRS inline void make_rows(const Numbers<float>& row, std::int64_t width, Pair* to) {
  if (row.stored == Stored::kBFloat16) {
    std::memcpy(to, row.data, static_cast<std::size_t>(width) * sizeof(std::uint16_t));
    return;
  }
  if (row.stored == Stored::kFloat16) {
    const auto* halves = static_cast<const std::uint16_t*>(row.data);
    for (std::int64_t k = 0; k < width; k += 2) {
      const Pair first = to_bfloat16(from_float16(halves[k]));
      to[k / 2] = first | static_cast<Pair>(to_bfloat16(from_float16(halves[k + 1]))) << 16;
    }
    return;
  }
  const auto* values = static_cast<const float*>(row.data);
  std::int64_t k = 0;
  for (; k + 32 <= width; k += 32) {
    const auto pairs = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(values + k + 16), _mm512_loadu_ps(values + k));
    _mm512_storeu_si512(to + k / 2, reinterpret_cast<__m512i>(pairs));
  }
  for (; k < width; k += 2) {
    make_operand(values, k / 2, to[k / 2]);
  }
}
#endif

// `kLanes<T>` operands of as many rows each, from `index` on, as columns of a panel; zeros for null.
template <typename T, typename Operand>
inline void transpose(const T* const* rows, std::int64_t index, Operand* to) {
  for (int k = 0; k < kLanes<T>; ++k) {
    for (int at = 0; at < kLanes<T>; ++at) {
      make_operand(rows[at], index + k, to[k * kPanelWidth<T> + at]);
    }
  }
}

#if defined(__AVX2__)
inline void transpose(const float* const* rows, std::int64_t index, float* to) {
  Line lines[kLanes<float>];
  for (int at = 0; at < kLanes<float>; ++at) {
    lines[at] = rows[at] == nullptr ? no_line() : line_of(rows[at] + index);
  }
  transpose_lines(lines, reinterpret_cast<std::uint32_t*>(to));
}
#endif

#if GHNFAST_PAIRS
// Sixteen pairs of a row.
GHNFAST_FOR_PAIRS inline Line pairs_of(const float* row, std::int64_t index) {
  if (row == nullptr) {
    return no_line();
  }
  row += 2 * index;
  return reinterpret_cast<Line>(_mm512_cvtne2ps_pbh(_mm512_loadu_ps(row + 16), _mm512_loadu_ps(row)));
}

GHNFAST_FOR_PAIRS inline void transpose(const float* const* rows, std::int64_t index, Pair* to) {
  Line lines[kLanes<float>];
  for (int at = 0; at < kLanes<float>; ++at) {
    lines[at] = pairs_of(rows[at], index);
  }
  transpose_lines(lines, to);
}
#endif

// Fills the panels of a tile with the hidden states of its cells, each a column.
template <typename T, typename Operand>
inline void pack_as(const DecodeSource<T>& source, const ProductTile<T>& tile) {
  const auto depth = source.width / kNumbers<Operand>;
  auto* to = reinterpret_cast<Operand*>(tile.panels);
  std::int64_t index = 0, cell = 0;
  for (std::int64_t column = 0; column < tile.cells; column += kPanelWidth<T>, to += depth * kPanelWidth<T>) {
    const T* rows[kPanelWidth<T>] = {};
    for (std::int64_t at = 0; at < kPanelWidth<T> && index < tile.count; ++at) {
      const auto& target = tile.parts[index].task->target;
      rows[at] = source.hidden + (target.first + cell) * source.width;
      cell = cell + 1 < target.cells ? cell + 1 : 0;
      index += cell == 0;
    }
    std::int64_t k = 0;
    for (; k + kLanes<T> <= depth; k += kLanes<T>) {
      for (std::int64_t at = 0; at < kPanelWidth<T>; at += kLanes<T>) {
        transpose(rows + at, k, to + k * kPanelWidth<T> + at);
      }
    }
    for (; k < depth; ++k) {
      for (std::int64_t at = 0; at < kPanelWidth<T>; ++at) {
        make_operand(rows[at], k, to[k * kPanelWidth<T> + at]);
      }
    }
  }
}

// A matrix given by its rows of `depth` operands, `row_stride` apart, and a bias per row.
template <typename T, typename Operand>
struct Rows {
  const Operand* weight;
  std::int64_t row_stride;
  const T* bias;
  std::int64_t bias_stride;
  std::int64_t depth;

  Rows from(std::int64_t row) const {
    return {weight + row * row_stride, row_stride, bias + row * bias_stride, bias_stride, depth};
  }
};

// to[r] = rows[r] . panel + bias[r], for `count` rows and `vectors` vectors of the panel. Every sum is in the order of
// the panel's rows, whatever it is computed beside: the same products are the same bits.
template <int count, int vectors, typename T>
inline void product_block(const Rows<T, T>& rows, const T* panel, T* to, std::int64_t to_stride) {
  Vector<T> sums[count][vectors];  // `= {}` clears them in memory, which takes as long as some products
  for (int r = 0; r < count; ++r) {
    for (int v = 0; v < vectors; ++v) {
      sums[r][v] = Vector<T>{};
    }
  }
  for (std::int64_t k = 0; k < rows.depth; ++k) {
    const T* at = panel + k * kPanelWidth<T>;
    Vector<T> values[vectors];
    for (int v = 0; v < vectors; ++v) {
      values[v] = load(at + v * kLanes<T>);
    }
    for (int r = 0; r < count; ++r) {
      const auto factor = all(rows.weight[r * rows.row_stride + k]);
      for (int v = 0; v < vectors; ++v) {
        sums[r][v] += factor * values[v];
      }
    }
  }
  for (int r = 0; r < count; ++r) {
    for (int v = 0; v < vectors; ++v) {
      save(to + r * to_stride + v * kLanes<T>, sums[r][v] + rows.bias[r * rows.bias_stride]);
    }
  }
}

#if GHNFAST_PAIRS
template <int count, int vectors>
GHNFAST_FOR_PAIRS void product_block(const Rows<float, Pair>& rows, const Pair* panel, float* to,
                                     std::int64_t to_stride) {
  __m512 sums[count][vectors];
  for (int r = 0; r < count; ++r) {
    for (int v = 0; v < vectors; ++v) {
      sums[r][v] = _mm512_setzero_ps();
    }
  }
  for (std::int64_t k = 0; k < rows.depth; ++k) {
    __m512i values[vectors];
    for (int v = 0; v < vectors; ++v) {
      values[v] = _mm512_loadu_si512(panel + k * kPanelWidth<float> + v * kLanes<float>);
    }
    for (int r = 0; r < count; ++r) {
      const auto factor = _mm512_set1_epi32(static_cast<int>(rows.weight[r * rows.row_stride + k]));
      for (int v = 0; v < vectors; ++v) {
        sums[r][v] =
            _mm512_dpbf16_ps(sums[r][v], reinterpret_cast<__m512bh>(factor), reinterpret_cast<__m512bh>(values[v]));
      }
    }
  }
  for (int r = 0; r < count; ++r) {
    const auto bias = _mm512_set1_ps(rows.bias[r * rows.bias_stride]);
    for (int v = 0; v < vectors; ++v) {
      _mm512_storeu_ps(to + r * to_stride + v * kLanes<float>, _mm512_add_ps(sums[r][v], bias));
    }
  }
}
#endif

// So many rows, or as many fewer as there are.
template <int count, int vectors, typename T, typename Operand>
inline void some_rows(const Rows<T, Operand>& rows, std::int64_t left, const Operand* panel, T* to,
                      std::int64_t to_stride) {
  if constexpr (count > 0) {
    if (left < count) {
      return some_rows<count - 1, vectors>(rows, left, panel, to, to_stride);
    }
    product_block<count, vectors>(rows, panel, to, to_stride);
  }
}

template <int vectors, typename T, typename Operand>
void product(Rows<T, Operand> rows, std::int64_t count, const Operand* panel, T* to, std::int64_t to_stride) {
  while (count > 0) {
    const auto now = rows_of_next_block(count);
    some_rows<kRowsPerBlock, vectors>(rows, now, panel, to, to_stride);
    rows = rows.from(now);
    to += now * to_stride;
    count -= now;
  }
}

// The most columns of the blocks that have more than `row` rows and a cell from `from` to before `to`. `first`: a part
// of the tile; the ones before it have no such cell.
template <typename T>
inline std::int64_t most_columns(const ProductTile<T>& tile, std::int64_t row, std::int64_t from, std::int64_t to,
                                 std::int64_t& first) {
  while (first < tile.count && tile.parts[first].column + tile.parts[first].task->target.cells <= from) {
    ++first;
  }
  std::int64_t columns = 0;
  for (auto index = first; index < tile.count && tile.parts[index].column < to; ++index) {
    const auto& target = tile.parts[index].task->target;
    columns = target.rows > row && target.columns > columns ? target.columns : columns;
  }
  return columns;
}

// The products of the weight's rows with all vectors of a tile; with each those alone that a block with more than `row`
// rows has columns for.
template <typename T, typename Operand>
inline void multiply(const ProductTile<T>& tile, std::int64_t row, const Rows<T, Operand>& rows, T* products,
                     std::int64_t stride) {
  std::int64_t next = 0;
  for (std::int64_t at = 0; at < tile.cells; at += kPanelWidth<T>) {
    static_assert(kVectorsPerPanel == 2);
    const auto half = at + kLanes<T>;
    const auto left = most_columns(tile, row, at, half, next);
    const auto right = most_columns(tile, row, half, half + kLanes<T>, next);
    const auto both = least(left, right);
    const auto* panel = reinterpret_cast<const Operand*>(tile.panels) + at * rows.depth;
    product<2>(rows, both, panel, products + at, stride);
    const auto more = left > both ? at : half;
    product<1>(rows.from(both), left + right - 2 * both, panel + more - at, products + both * stride + more, stride);
  }
}

// The products of several block rows with all vectors of a tile whose blocks have one column.
template <typename T, typename Operand>
inline void multiply_single(const ProductTile<T>& tile, const Rows<T, Operand>& rows, std::int64_t count, T* products,
                            std::int64_t stride) {
  for (std::int64_t at = 0; at < tile.cells; at += kPanelWidth<T>) {
    const auto* panel = reinterpret_cast<const Operand*>(tile.panels) + at * rows.depth;
    if (tile.cells - at <= kLanes<T>) {
      product<1>(rows, count, panel, products + at, stride);
    } else {
      product<2>(rows, count, panel, products + at, stride);
    }
  }
}

// The rows of the weight that the products of block rows [row, row + count) need: where blocks have one column, the
// first of each block row; else those of one. `made_here`: memory for those that have to be converted.
template <typename T, typename Operand>
inline Rows<T, Operand> rows_of(const DecodeSource<T>& source, const ProductTile<T>& tile, std::int64_t row,
                                std::int64_t count, T* made_here) {
  const bool single = tile.most_columns == 1;
  const auto row_elements = source.max_columns * source.width;
  const T* bias = source.bias + row * source.max_columns;
  const auto bias_stride = single ? source.max_columns : 1;
  const auto depth = source.width / kNumbers<Operand>;
  const auto numbers = row * row_elements;
  if (kNumbers<Operand> == 1 && source.weight.stored == Stored::kSame) {
    const auto* weight = reinterpret_cast<const Operand*>(source.weight.data) + numbers;
    return {weight, single ? row_elements : source.width, bias, bias_stride, depth};
  }
  if (kNumbers<Operand> == 2 && source.weight.stored == Stored::kBFloat16 &&
      reinterpret_cast<std::uintptr_t>(source.weight.data) % alignof(Operand) == 0) {
    const auto* weight = reinterpret_cast<const Operand*>(source.weight.data) + numbers / 2;
    return {weight, (single ? row_elements : source.width) / 2, bias, bias_stride, depth};
  }
  auto* made = reinterpret_cast<Operand*>(made_here);
  for (std::int64_t now = 0; now < (single ? count : 1); ++now) {
    make_rows(from(source.weight, numbers + now * row_elements), tile.most_columns * source.width, made + now * depth);
  }
  return {made, depth, bias, bias_stride, depth};
}

}  // namespace GHNFAST_ISA
}  // namespace ghnfast
