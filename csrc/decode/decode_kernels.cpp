#include "decode/decode_kernels.hpp"

#include <cstring>

#include "core/halves.hpp"
#include "core/simd.hpp"

namespace ghnfast {
namespace GHNFAST_ISA {
namespace {

inline std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// Products ------------------------------------------------------------------------------------------------------------

// Writes `row`, or zeros for null, into a column of the matrix.
template <typename T>
inline void fill_column(const T* row, std::int64_t width, std::int64_t column, T* panels) {
  T* to = panels + column / kPanelWidth<T> * width * kPanelWidth<T> + column % kPanelWidth<T>;
  for (std::int64_t k = 0; k < width; ++k) {
    to[k * kPanelWidth<T>] = row == nullptr ? T(0) : row[k];
  }
}

template <typename T>
void pack(const DecodeSource<T>& source, const ProductTile<T>& tile) {
  for (std::int64_t index = 0; index < tile.count; ++index) {
    const auto& [task, column] = tile.parts[index];
    for (std::int64_t cell = 0; cell < task->target.cells; ++cell) {
      const T* row = source.hidden + (task->target.first + cell) * source.width;
      fill_column(row, source.width, column + cell, tile.panels);
    }
  }
  for (auto column = tile.cells; column % kPanelWidth<T> != 0; ++column) {
    fill_column<T>(nullptr, source.width, column, tile.panels);
  }
}

// A matrix given by its rows, `row_stride` apart, and a bias per row.
template <typename T>
struct Rows {
  const T* weight;
  std::int64_t row_stride;
  const T* bias;
  std::int64_t bias_stride;
  std::int64_t width;

  Rows from(std::int64_t row) const {
    return {weight + row * row_stride, row_stride, bias + row * bias_stride, bias_stride, width};
  }
};

// to[r] = rows[r] . panel + bias[r], for `count` rows and `vectors` vectors of the panel. Every sum is in the order of
// the panel's rows, whatever it is computed beside: the same products are the same bits.
template <typename T, int count, int vectors>
inline void product_block(const Rows<T>& rows, const T* panel, T* to, std::int64_t to_stride) {
  Vector<T> sums[count][vectors] = {};
  for (std::int64_t k = 0; k < rows.width; ++k) {
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

// So many rows, or as many fewer as there are.
template <typename T, int count, int vectors>
inline void last_rows(const Rows<T>& rows, std::int64_t left, const T* panel, T* to, std::int64_t to_stride) {
  if constexpr (count > 0) {
    if (left < count) {
      return last_rows<T, count - 1, vectors>(rows, left, panel, to, to_stride);
    }
    product_block<T, count, vectors>(rows, panel, to, to_stride);
  }
}

template <typename T, int vectors>
void product(Rows<T> rows, std::int64_t count, const T* panel, T* to, std::int64_t to_stride) {
  for (; count >= kRowsPerBlock; count -= kRowsPerBlock) {
    product_block<T, kRowsPerBlock, vectors>(rows, panel, to, to_stride);
    rows = rows.from(kRowsPerBlock);
    to += kRowsPerBlock * to_stride;
  }
  last_rows<T, kRowsPerBlock - 1, vectors>(rows, count, panel, to, to_stride);
}

// Conversion and storing ----------------------------------------------------------------------------------------------

// Rounds to nearest even, as torch does; what is not a number stays so.
inline std::uint16_t to_bfloat16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits = (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc00000 : bits;
  return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Rounds to nearest even, as torch does.
inline std::uint16_t to_float16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000);
  bits &= 0x7fffffff;
  if (bits >= 0x47800000) {  // 65536 and more, infinite, or not a number
    return static_cast<std::uint16_t>(sign | (bits > 0x7f800000 ? 0x7e00 : 0x7c00));
  }
  if (bits < 0x38800000) {  // below the normal numbers: adding one half lets the unit in the last place be 2^-24
    float small;
    std::memcpy(&small, &bits, sizeof small);
    small += 0.5f;
    std::memcpy(&bits, &small, sizeof bits);
    return static_cast<std::uint16_t>(sign | (bits - 0x3f000000));
  }
  return static_cast<std::uint16_t>(sign | ((bits - 0x38000000 + 0xfff + ((bits >> 13) & 1)) >> 13));
}

inline std::int64_t size_of(Element element) {
  return element == Element::kFloat64 ? 8 : element == Element::kFloat32 ? 4 : 2;
}

template <typename T>
inline void convert(const T* values, std::int64_t count, Element element, char* to) {
  if (element == Element::kFloat32) {
    auto* out = reinterpret_cast<float*>(to);
    for (std::int64_t i = 0; i < count; ++i) {
      out[i] = static_cast<float>(values[i]);
    }
  } else if (element == Element::kFloat64) {
    auto* out = reinterpret_cast<double*>(to);
    for (std::int64_t i = 0; i < count; ++i) {
      out[i] = static_cast<double>(values[i]);
    }
  } else if (element == Element::kBFloat16) {
    auto* out = reinterpret_cast<std::uint16_t*>(to);
    for (std::int64_t i = 0; i < count; ++i) {
      out[i] = to_bfloat16(static_cast<float>(values[i]));
    }
  } else {
    auto* out = reinterpret_cast<std::uint16_t*>(to);
    std::int64_t i = 0;
#if defined(__F16C__)
    for (; i + 8 <= count && sizeof(T) == sizeof(float); i += 8) {
      const auto wide = _mm256_loadu_ps(reinterpret_cast<const float*>(values + i));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), _mm256_cvtps_ph(wide, _MM_FROUND_TO_NEAREST_INT));
    }
#endif
    for (; i < count; ++i) {
      out[i] = to_float16(static_cast<float>(values[i]));
    }
  }
}

constexpr std::int64_t kLine = 64;

// Stores one aligned line past the caches.
inline void stream_line(char* to, const char* from) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), _mm512_loadu_si512(from));
#elif defined(__AVX2__)
  for (int part = 0; part < kLine; part += 32) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + part),
                        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + part)));
  }
#elif defined(__SSE2__)
  for (int part = 0; part < kLine; part += 16) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + part),
                     _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + part)));
  }
#else
  std::memcpy(to, from, kLine);
#endif
}

inline void streams_done() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// Fills [to, to + bytes) with repeats of a unit, behind which its first line stands once more.
inline void repeat(char* to, std::int64_t bytes, const char* unit, std::int64_t unit_bytes, bool stream) {
  std::int64_t at = 0;  // within the unit
  if (stream && unit_bytes >= kLine) {
    const auto head = least(bytes, (kLine - reinterpret_cast<std::intptr_t>(to) % kLine) % kLine);
    std::memcpy(to, unit, static_cast<std::size_t>(head));
    to += head, bytes -= head, at = head % unit_bytes;
    for (; bytes >= kLine; to += kLine, bytes -= kLine) {
      stream_line(to, unit + at);
      at += kLine;
      at = at >= unit_bytes ? at - unit_bytes : at;
    }
  }
  while (bytes > 0) {
    const auto size = least(bytes, unit_bytes - at);
    std::memcpy(to, unit + at, static_cast<std::size_t>(size));
    to += size, bytes -= size, at = 0;
  }
}

// The unit of a run of values: in the target's type, with its first line once more.
template <typename T>
inline std::int64_t make_unit(const T* values, std::int64_t count, Element element, char* unit) {
  convert(values, count, element, unit);
  const auto bytes = count * size_of(element);
  std::memcpy(unit + bytes, unit, static_cast<std::size_t>(least(bytes, kLine)));
  return bytes;
}

// Writes a block row (columns, cells) into every row of the target that repeats it.
template <typename T>
inline void store_row(const DecodeTask& task, std::int64_t row, const RowJob<T>& job) {
  const auto& target = task.target;
  const auto& memory = task.memory;
  const auto size = size_of(memory.element);
  if (task.contiguous) {
    const auto unit_bytes = make_unit(job.values, target.columns * target.cells, memory.element, job.unit);
    const auto row_bytes = target.in * target.cells * size;
    for (auto out = row; out < target.out; out += target.rows) {
      repeat(memory.data() + out * row_bytes, row_bytes, job.unit, unit_bytes, job.stream);
    }
    return;
  }
  // Any strides: cell by cell, element by element.
  make_unit(job.values, target.columns * target.cells, memory.element, job.unit);
  for (auto out = row; out < target.out; out += target.rows) {
    for (std::int64_t in = 0; in < target.in; ++in) {
      const char* from = job.unit + (in % target.columns) * target.cells * size;
      char* to = memory.data() + (out * memory.strides[0] + in * memory.strides[1]) * size;
      for (std::int64_t cell = 0; cell < target.cells; ++cell) {
        std::memcpy(to + cell * memory.strides[2] * size, from + cell * size, static_cast<std::size_t>(size));
      }
    }
  }
}

// Rows of blocks ------------------------------------------------------------------------------------------------------

template <typename T>
inline bool within(const T* values, std::int64_t count, double limit) {
  bool fine = true;
  for (std::int64_t i = 0; i < count; ++i) {
    const double value = values[i];
    fine &= value < limit && value > -limit;
  }
  return fine;
}

// Takes a block row from products (columns, stride) that start at the target's first cell.
template <typename T>
inline bool finish_product_row(const DecodeTask& task, std::int64_t row, const T* products, std::int64_t stride,
                               const RowJob<T>& job) {
  const auto& target = task.target;
  const auto scale = static_cast<T>(target.scale);
  for (std::int64_t column = 0; column < target.columns; ++column) {
    for (std::int64_t cell = 0; cell < target.cells; ++cell) {
      job.values[column * target.cells + cell] = products[column * stride + cell] * scale;
    }
  }
  if (!job.write) {
    return within(job.values, target.columns * target.cells, task.limit);
  }
  store_row(task, row, job);
  return true;
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
template <typename T>
inline void multiply(const ProductTile<T>& tile, std::int64_t row, const Rows<T>& rows, T* products,
                     std::int64_t stride) {
  std::int64_t next = 0;
  for (std::int64_t at = 0; at < tile.cells; at += kPanelWidth<T>) {
    static_assert(kVectorsPerPanel == 2);
    const auto half = at + kLanes<T>;
    const auto left = most_columns(tile, row, at, half, next);
    const auto right = most_columns(tile, row, half, half + kLanes<T>, next);
    const auto both = least(left, right);
    const T* panel = tile.panels + at * rows.width;
    product<T, 2>(rows, both, panel, products + at, stride);
    const auto more = left > both ? at : half;
    product<T, 1>(rows.from(both), left + right - 2 * both, panel + more - at, products + both * stride + more, stride);
  }
}

// The products of several block rows with all vectors of a tile whose blocks have one column.
template <typename T>
inline void multiply_single(const ProductTile<T>& tile, const Rows<T>& rows, std::int64_t count, T* products,
                            std::int64_t stride) {
  for (std::int64_t at = 0; at < tile.cells; at += kPanelWidth<T>) {
    const T* panel = tile.panels + at * rows.width;
    if (tile.cells - at <= kLanes<T>) {
      product<T, 1>(rows, count, panel, products + at, stride);
    } else {
      product<T, 2>(rows, count, panel, products + at, stride);
    }
  }
}

// The rows of the weight that the products of block rows [row, row + count) need: where blocks have one column, the
// first of each block row; else those of one. Half-precision ones are converted to `converted`.
template <typename T>
inline Rows<T> rows_of(const DecodeSource<T>& source, const ProductTile<T>& tile, std::int64_t row, std::int64_t count,
                       T* converted) {
  const bool single = tile.most_columns == 1;
  const auto row_elements = source.max_columns * source.width;
  const T* bias = source.bias + row * source.max_columns;
  const auto bias_stride = single ? source.max_columns : 1;
  if (source.weight.stored == Stored::kSame) {
    const auto* weight = static_cast<const T*>(source.weight.data) + row * row_elements;
    return {weight, single ? row_elements : source.width, bias, bias_stride, source.width};
  }
  const auto* halves = static_cast<const std::uint16_t*>(source.weight.data) + row * row_elements;
  for (std::int64_t now = 0; now < (single ? count : 1); ++now) {
    widen<T>({halves + now * row_elements, source.weight.stored}, tile.most_columns * source.width,
             converted + now * source.width);
  }
  return {converted, source.width, bias, bias_stride, source.width};
}

template <typename T>
const DecodeTask* product_rows(const DecodeSource<T>& source, const ProductTile<T>& tile, std::int64_t from,
                               std::int64_t to, const RowJob<T>& job) {
  const auto stride = (tile.cells + kPanelWidth<T> - 1) / kPanelWidth<T> * kPanelWidth<T>;
  const DecodeTask* broken = nullptr;
  const bool single = tile.most_columns == 1;  // then several block rows are one product
  for (auto row = from; row < to;) {
    const auto rows_now = single ? least(kRowsAtOnce, to - row) : 1;
    const auto rows = rows_of(source, tile, row, rows_now, job.weights);
    if (single) {
      multiply_single(tile, rows, rows_now, job.products, stride);
    } else {
      multiply(tile, row, rows, job.products, stride);
    }
    for (std::int64_t index = 0; index < tile.count; ++index) {
      const auto& task = *tile.parts[index].task;
      for (std::int64_t now = 0; now < rows_now && row + now < task.target.rows; ++now) {
        const T* products = job.products + now * stride + tile.parts[index].column;
        if (!finish_product_row(task, row + now, products, stride, job)) {
          broken = broken == nullptr || &task < broken ? &task : broken;
        }
      }
    }
    row += rows_now;
  }
  if (job.stream) {
    streams_done();
  }
  return broken;
}

template <typename T>
inline void activate(const DecodeTarget& target, const T* from, std::int64_t count, T* to) {
  const auto scale = static_cast<T>(target.scale);
  for (std::int64_t i = 0; i < count; ++i) {
    if (target.kind == TargetKind::kScaled) {
      to[i] = from[i] * scale;
    } else if (target.kind == TargetKind::kNormWeight) {
      to[i] = T(2) / (T(1) + exponential(-from[i] / T(2)));
    } else {
      to[i] = hyperbolic_tangent(from[i] / T(5));
    }
  }
}

template <typename T>
bool given_rows(const DecodeSource<T>& source, const DecodeTask& task, std::int64_t from, std::int64_t to,
                const RowJob<T>& job) {
  const auto count = task.target.columns * task.target.cells;
  bool fine = true;
  for (auto row = from; row < to; ++row) {
    activate(task.target, source.blocks + task.target.first + row * count, count, job.values);
    if (job.write) {
      store_row(task, row, job);
    } else {
      fine &= within(job.values, count, task.limit);
    }
  }
  if (job.stream) {
    streams_done();
  }
  return fine;
}

template <typename T>
double largest(const T* values, std::int64_t count) {
  Vector<T> most[4] = {}, total = {};
  std::int64_t i = 0;
  for (; i + 4 * kLanes<T> <= count; i += 4 * kLanes<T>) {
    for (int part = 0; part < 4; ++part) {
      const auto value = load(values + i + part * kLanes<T>);
      const auto size = value < T(0) ? -value : value;
      most[part] = size > most[part] ? size : most[part];
      total += value - value;  // zero, or not a number
    }
  }
  double result = 0;
  bool is_number = true;
  for (int part = 0; part < 4; ++part) {
    for (int lane = 0; lane < kLanes<T>; ++lane) {
      result = most[part][lane] > result ? most[part][lane] : result;
      is_number &= total[lane] == total[lane];
    }
  }
  for (; i < count; ++i) {
    const double size = values[i] < T(0) ? -values[i] : values[i];
    result = size > result ? size : result;
    is_number &= values[i] - values[i] == T(0);
  }
  return is_number ? result : INFINITY;
}

template <typename T>
DecodeKernels<T> kernels() {
  return {kPanelWidth<T>, &pack<T>, &largest<T>, &widen<T>, &product_rows<T>, &given_rows<T>};
}

}  // namespace

DecodeKernels<float> decode_kernels_float() { return kernels<float>(); }
DecodeKernels<double> decode_kernels_double() { return kernels<double>(); }

}  // namespace GHNFAST_ISA
}  // namespace ghnfast
