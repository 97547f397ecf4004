// Squares of numbers transposed in registers, for kernels: see core/simd.hpp for what may be here.
#pragma once

#include <cstdint>

#include "core/simd.hpp"

namespace ghnfast {
namespace GHNFAST_ISA {

#if defined(__AVX512F__)
// Sixteen lines of 32 bits each, as columns of a panel. Takes turns in steps of one, two, four and eight lines.
inline void transpose_lines(__m512i (&lines)[16], std::uint32_t* to) {
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
#endif

}  // namespace GHNFAST_ISA
}  // namespace ghnfast
