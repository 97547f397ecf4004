// Squares of numbers transposed in registers, for kernels: see core/simd.hpp for what may be here.
#pragma once

#include <cstdint>

#include "core/simd.hpp"

namespace ghnfast {
namespace GHNFAST_ISA {

// A vector of numbers of 32 bits, whatever they are.
#if defined(__AVX512F__)
typedef __m512i Line;
inline Line line_of(const float* from) { return _mm512_loadu_si512(from); }
inline Line no_line() { return _mm512_setzero_si512(); }

// As many lines as each has numbers, as columns of a panel. Takes turns in steps of one, two, four and eight lines.
inline void transpose_lines(Line (&lines)[16], std::uint32_t* to) {
  __m512i other[16];
  for (int i = 0; i < 16; i += 2) {
    other[i] = _mm512_unpacklo_epi32(lines[i], lines[i + 1]);
    other[i + 1] = _mm512_unpackhi_epi32(lines[i], lines[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    for (int half = 0; half < 2; ++half) {
      lines[i + 2 * half] = _mm512_unpacklo_epi64(other[i + half], other[i + half + 2]);
      lines[i + 2 * half + 1] = _mm512_unpackhi_epi64(other[i + half], other[i + half + 2]);
    }
  }
  for (int i = 0; i < 4; ++i) {  // lane l of lines[4 q + i] has row 4 q, ..., 4 q + 3 of column 4 l + i
    const auto even_low = _mm512_shuffle_i32x4(lines[i], lines[4 + i], 0x88);
    const auto odd_low = _mm512_shuffle_i32x4(lines[i], lines[4 + i], 0xdd);
    const auto even_high = _mm512_shuffle_i32x4(lines[8 + i], lines[12 + i], 0x88);
    const auto odd_high = _mm512_shuffle_i32x4(lines[8 + i], lines[12 + i], 0xdd);
    _mm512_storeu_si512(to + i * kPanelWidth<float>, _mm512_shuffle_i32x4(even_low, even_high, 0x88));
    _mm512_storeu_si512(to + (4 + i) * kPanelWidth<float>, _mm512_shuffle_i32x4(odd_low, odd_high, 0x88));
    _mm512_storeu_si512(to + (8 + i) * kPanelWidth<float>, _mm512_shuffle_i32x4(even_low, even_high, 0xdd));
    _mm512_storeu_si512(to + (12 + i) * kPanelWidth<float>, _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd));
  }
}
#elif defined(__AVX2__)
typedef __m256i Line;
inline Line line_of(const float* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
inline Line no_line() { return _mm256_setzero_si256(); }

inline void save_line(std::uint32_t* to, Line line) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), line); }

inline void transpose_lines(Line (&lines)[8], std::uint32_t* to) {
  Line other[8];
  for (int i = 0; i < 8; i += 2) {
    other[i] = _mm256_unpacklo_epi32(lines[i], lines[i + 1]);
    other[i + 1] = _mm256_unpackhi_epi32(lines[i], lines[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int half = 0; half < 2; ++half) {
      lines[i + 2 * half] = _mm256_unpacklo_epi64(other[i + half], other[i + half + 2]);
      lines[i + 2 * half + 1] = _mm256_unpackhi_epi64(other[i + half], other[i + half + 2]);
    }
  }
  for (int i = 0; i < 4; ++i) {  // lane l of lines[4 q + i] has row 4 q, ..., 4 q + 3 of column 4 l + i
    save_line(to + i * kPanelWidth<float>, _mm256_permute2x128_si256(lines[i], lines[4 + i], 0x20));
    save_line(to + (4 + i) * kPanelWidth<float>, _mm256_permute2x128_si256(lines[i], lines[4 + i], 0x31));
  }
}
#endif

}  // namespace GHNFAST_ISA
}  // namespace ghnfast
