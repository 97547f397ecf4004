// Numbers of weights that may be of half precision, for kernels: see simd.hpp for what may be here.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/numbers.hpp"
#include "core/simd.hpp"

namespace ghnfast {
namespace GHNFAST_ISA {

inline float float_of(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline float from_bfloat16(std::uint16_t half) { return float_of(static_cast<std::uint32_t>(half) << 16); }

inline float from_float16(std::uint16_t half) {
  const auto magnitude = static_cast<std::uint32_t>(half & 0x7fff) << 13;
  const auto sign = static_cast<std::uint32_t>(half & 0x8000) << 16;
  const float value = (half & 0x7c00) == 0x7c00 ? float_of(magnitude | 0x7f800000) : float_of(magnitude) * 0x1p112f;
  return sign != 0 ? -value : value;
}

// Rounds to nearest even, as torch does; what is not a number stays so.
inline std::uint16_t to_bfloat16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits = (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc00000 : bits;
  return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Element `index` of memory that holds such numbers.
template <typename T, Stored stored>
inline T number(const void* data, std::int64_t index) {
  if constexpr (stored == Stored::kSame) {
    return static_cast<const T*>(data)[index];
  } else {
    const auto half = static_cast<const std::uint16_t*>(data)[index];
    return static_cast<T>(stored == Stored::kFloat16 ? from_float16(half) : from_bfloat16(half));
  }
}

// A vector of elements, from `index` on.
template <typename T, Stored stored>
inline Vector<T> numbers(const void* data, std::int64_t index) {
  if constexpr (stored == Stored::kSame) {
    return load(static_cast<const T*>(data) + index);
  } else {
    const auto* halves = static_cast<const std::uint16_t*>(data) + index;
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == sizeof(float)) {
      const auto bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves));
      return stored == Stored::kFloat16 ? _mm512_cvtph_ps(bits)
                                        : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
    }
#elif defined(__AVX2__)
    if constexpr (sizeof(T) == sizeof(float)) {
      const auto bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(halves));
      return stored == Stored::kFloat16 ? _mm256_cvtph_ps(bits)
                                        : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    }
#endif
    Vector<T> found;
    for (int lane = 0; lane < kLanes<T>; ++lane) {
      found[lane] = number<T, stored>(halves, lane);
    }
    return found;
  }
}

template <typename T, Stored stored>
inline void widen_as(const void* data, std::int64_t count, T* to) {
  std::int64_t i = 0;
  for (; i + kLanes<T> <= count; i += kLanes<T>) {
    save(to + i, numbers<T, stored>(data, i));
  }
  for (; i < count; ++i) {
    to[i] = number<T, stored>(data, i);
  }
}

// The next `count` numbers as they are computed with.
template <typename T>
inline void widen(const Numbers<T>& from, std::int64_t count, T* to) {
  switch (from.stored) {
    case Stored::kFloat16:
      return widen_as<T, Stored::kFloat16>(from.data, count, to);
    case Stored::kBFloat16:
      return widen_as<T, Stored::kBFloat16>(from.data, count, to);
    default:
      return widen_as<T, Stored::kSame>(from.data, count, to);
  }
}

}  // namespace GHNFAST_ISA
}  // namespace ghnfast
