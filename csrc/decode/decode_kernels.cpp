#include "decode/decode_kernels.hpp"

#include <cstring>

#include "core/halves.hpp"
#include "core/simd.hpp"
#include "decode/products.hpp"

namespace ghnfast {
namespace GHNFAST_ISA {
namespace {

// Conversion and storing ----------------------------------------------------------------------------------------------

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

// Whether a target has numbers of the type that is computed with.
template <typename T>
inline bool is_own(Element element) {
  return element == (sizeof(T) == sizeof(float) ? Element::kFloat32 : Element::kFloat64);
}

// The unit of a run of values: in the target's type, with its first line once more.
template <typename T>
inline std::int64_t make_unit(const T* values, std::int64_t count, Element element, char* unit) {
  if (reinterpret_cast<const char*>(values) != unit) {
    convert(values, count, element, unit);
  }
  const auto bytes = count * size_of(element);
  std::memcpy(unit + bytes, unit, static_cast<std::size_t>(least(bytes, kLine)));
  return bytes;
}

// Writes a block row of values (columns, cells) into every row of the target that repeats it.
template <typename T>
inline void store_row(const DecodeTask& task, std::int64_t row, const T* values, const RowJob<T>& job) {
  const auto& target = task.target;
  const auto& memory = task.memory;
  const auto size = size_of(memory.element);
  if (task.contiguous) {
    const auto unit_bytes = make_unit(values, target.columns * target.cells, memory.element, job.unit);
    const auto row_bytes = target.in * target.cells * size;
    for (auto out = row; out < target.out; out += target.rows) {
      repeat(memory.data() + out * row_bytes, row_bytes, job.unit, unit_bytes, job.stream);
    }
    return;
  }
  // Any strides: cell by cell, element by element.
  make_unit(values, target.columns * target.cells, memory.element, job.unit);
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

// to[i] = from[i] * scale: few numbers, most often.
template <typename T>
inline void scaled(const T* from, std::int64_t count, T scale, T* to) {
  std::int64_t i = 0;
  for (; i + kLanes<T> <= count; i += kLanes<T>) {
    save(to + i, load(from + i) * scale);
  }
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == sizeof(float)) {
    const auto some = static_cast<__mmask16>((1u << (count - i)) - 1);
    _mm512_mask_storeu_ps(to + i, some, _mm512_mul_ps(_mm512_maskz_loadu_ps(some, from + i), _mm512_set1_ps(scale)));
    return;
  }
#endif
  for (; i < count; ++i) {
    to[i] = from[i] * scale;
  }
}

// Takes a block row from products (columns, stride) that start at the target's first cell.
template <typename T>
inline bool finish_product_row(const DecodeTask& task, std::int64_t row, const T* products, std::int64_t stride,
                               const RowJob<T>& job) {
  const auto& target = task.target;
  const auto scale = static_cast<T>(target.scale);
  T* values = job.write && is_own<T>(task.memory.element) ? reinterpret_cast<T*>(job.unit) : job.values;
  if (target.cells == 1) {
    for (std::int64_t column = 0; column < target.columns; ++column) {
      values[column] = products[column * stride] * scale;
    }
  } else {
    for (std::int64_t column = 0; column < target.columns; ++column) {
      scaled(products + column * stride, target.cells, scale, values + column * target.cells);
    }
  }
  if (!job.write) {
    return within(values, target.columns * target.cells, task.limit);
  }
  store_row(task, row, values, job);
  return true;
}

template <typename T, typename Operand>
inline const DecodeTask* product_rows_as(const DecodeSource<T>& source, const ProductTile<T>& tile, std::int64_t from,
                                         std::int64_t to, const RowJob<T>& job) {
  const auto stride = (tile.cells + kPanelWidth<T> - 1) / kPanelWidth<T> * kPanelWidth<T>;
  const DecodeTask* broken = nullptr;
  const bool single = tile.most_columns == 1;  // then several block rows are one product
  for (auto row = from; row < to;) {
    const auto rows_now = single ? least(kRowsAtOnce, to - row) : 1;
    const auto rows = rows_of<T, Operand>(source, tile, row, rows_now, job.weights);
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
void pack(const DecodeSource<T>& source, const ProductTile<T>& tile) {
  if constexpr (kTakesPairs<T>) {
    if (source.rounds) {
      return pack_as<T, Pair>(source, tile);
    }
  }
  pack_as<T, T>(source, tile);
}

template <typename T>
const DecodeTask* product_rows(const DecodeSource<T>& source, const ProductTile<T>& tile, std::int64_t from,
                               std::int64_t to, const RowJob<T>& job) {
  if constexpr (kTakesPairs<T>) {
    if (source.rounds) {
      return product_rows_as<T, Pair>(source, tile, from, to, job);
    }
  }
  return product_rows_as<T, T>(source, tile, from, to, job);
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
      store_row(task, row, job.values, job);
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
void round_numbers(const Numbers<T>& numbers, std::int64_t count, std::uint16_t* to) {
  if constexpr (kTakesPairs<T>) {
    make_rows(numbers, count, reinterpret_cast<Pair*>(to));
  }
}

template <typename T>
DecodeKernels<T> kernels() {
  return {kPanelWidth<T>,   &pack<T>,      &largest<T>, &widen<T>, kTakesPairs<T> ? &round_numbers<T> : nullptr,
          &product_rows<T>, &given_rows<T>};
}

}  // namespace

DecodeKernels<float> decode_kernels_float() { return kernels<float>(); }
DecodeKernels<double> decode_kernels_double() { return kernels<double>(); }

}  // namespace GHNFAST_ISA
}  // namespace ghnfast
