// Vectors of the instruction set that a file is compiled for. Files that include this are compiled once for each
// instruction set, with GHNFAST_ISA set to the name of a namespace of its own; everything they define lies in that
// namespace, and they use no templates of the standard library, of which the linker might keep the copy with the newest
// instructions for everybody.
#pragma once

#include <math.h>

#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace ghnfast {
namespace GHNFAST_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename T>
struct VectorOf {
  typedef T Type __attribute__((vector_size(kVectorBytes)));
  // The same without an alignment of its own, for loads and stores anywhere.
  typedef T Anywhere __attribute__((vector_size(kVectorBytes), aligned(alignof(T)), may_alias));
};

template <typename T>
using Vector = typename VectorOf<T>::Type;

template <typename T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

// Products of matrices take the columns of one of them in panels, and this many rows of the other at once.
constexpr int kVectorsPerPanel = 2;
#if defined(__AVX512F__)
constexpr int kRowsPerBlock = 8;  // 16 of 32 registers hold sums
#else
constexpr int kRowsPerBlock = 6;  // 12 of 16
#endif

// Of so many that are left. The last two blocks share theirs: with few sums, each waits for itself.
inline std::int64_t rows_of_next_block(std::int64_t left) {
  return left > 2 * kRowsPerBlock ? kRowsPerBlock : left > kRowsPerBlock ? (left + 1) / 2 : left;
}

template <typename T>
constexpr std::int64_t kPanelWidth = kVectorsPerPanel * kLanes<T>;

template <typename T>
inline Vector<T> load(const T* from) {
  return *reinterpret_cast<const typename VectorOf<T>::Anywhere*>(from);
}

template <typename T>
inline void save(T* to, Vector<T> value) {
  *reinterpret_cast<typename VectorOf<T>::Anywhere*>(to) = value;
}

template <typename T>
inline Vector<T> all(T value) {
  return value - Vector<T>{};  // unlike value + 0, which would make 0 of -0, this costs no instruction
}

// Keeps what is not a number.
template <typename T>
inline Vector<T> positive_part(Vector<T> x) {
  return x < T(0) ? Vector<T>{} : x;
}

// Half of a vector from each.
#if defined(__AVX512F__)
inline Vector<float> joined(const float* a, const float* b) {
  return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(a)), _mm256_loadu_ps(b), 1);
}
inline Vector<double> joined(const double* a, const double* b) {
  return _mm512_insertf64x4(_mm512_castpd256_pd512(_mm256_loadu_pd(a)), _mm256_loadu_pd(b), 1);
}
#elif defined(__AVX2__)
inline Vector<float> joined(const float* a, const float* b) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(a)), _mm_loadu_ps(b), 1);
}
inline Vector<double> joined(const double* a, const double* b) {
  return _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(a)), _mm_loadu_pd(b), 1);
}
#else
template <typename T>
inline Vector<T> joined(const T* a, const T* b) {
  Vector<T> found;
  for (int lane = 0; lane < kLanes<T>; ++lane) {
    found[lane] = lane < kLanes<T> / 2 ? a[lane] : b[lane - kLanes<T> / 2];
  }
  return found;
}
#endif

// The larger one; `a` where either is not a number.
#if defined(__AVX512F__)
inline Vector<float> maximum(Vector<float> a, Vector<float> b) { return _mm512_max_ps(b, a); }
inline Vector<double> maximum(Vector<double> a, Vector<double> b) { return _mm512_max_pd(b, a); }
#elif defined(__AVX2__)
inline Vector<float> maximum(Vector<float> a, Vector<float> b) { return _mm256_max_ps(b, a); }
inline Vector<double> maximum(Vector<double> a, Vector<double> b) { return _mm256_max_pd(b, a); }
#elif defined(__SSE2__)
inline Vector<float> maximum(Vector<float> a, Vector<float> b) { return _mm_max_ps(b, a); }
inline Vector<double> maximum(Vector<double> a, Vector<double> b) { return _mm_max_pd(b, a); }
#else
inline Vector<float> maximum(Vector<float> a, Vector<float> b) { return b > a ? b : a; }
inline Vector<double> maximum(Vector<double> a, Vector<double> b) { return b > a ? b : a; }
#endif

// Overloads of our own: those of <cmath> are templates or inline.
inline float exponential(float x) { return ::expf(x); }
inline double exponential(double x) { return ::exp(x); }
inline float hyperbolic_tangent(float x) { return ::tanhf(x); }
inline double hyperbolic_tangent(double x) { return ::tanh(x); }

// e^x. Relative error below 3e-7 in float; arguments beyond the range of finite results give its ends.
inline Vector<float> exponential(Vector<float> x) {
  typedef std::int32_t Integers __attribute__((vector_size(kVectorBytes)));
  const float highest = 88.0f, lowest = -87.0f;
  const auto finite = x == x;
  const auto input = x;
  x = x < lowest ? all(lowest) : x;
  x = x > highest ? all(highest) : x;
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the lowest bits.
  const auto shifted = x * 1.44269504088896341f + 12582912.0f;
  const auto power = shifted - 12582912.0f;
  const auto r = (x - power * 0.693359375f) + power * 2.12194440e-4f;
  auto p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const auto bits = reinterpret_cast<Integers>(p) + (reinterpret_cast<Integers>(shifted) << 23);
  return finite ? reinterpret_cast<Vector<float>>(bits) : input;
}

inline Vector<double> exponential(Vector<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane) {
    x[lane] = exponential(static_cast<double>(x[lane]));
  }
  return x;
}

// 2^x for x of at most 0; below the least normal number some number below it. Relative error below 2e-7 in float, 2e-15
// in double.
inline Vector<float> power_of_two(Vector<float> x) {
  typedef std::int32_t Integers __attribute__((vector_size(kVectorBytes)));
  const float lowest = -127.0f;  // its bits come out as those of 0
  x = maximum(x, all(lowest));
  const auto power = __builtin_convertvector(x - 0.5f, Integers);  // the nearest one, for it is cut towards 0
  const auto r = x - __builtin_convertvector(power, Vector<float>);
  auto p = all(1.326472731307149e-3f);
  p = p * r + 9.671512991189957e-3f;
  p = p * r + 5.550733581185341e-2f;
  p = p * r + 2.402224242687225e-1f;
  p = p * r + 6.931470036506653e-1f;
  p = p * r + 1.0f;
  return reinterpret_cast<Vector<float>>(reinterpret_cast<Integers>(p) + (power << 23));
}

inline Vector<double> power_of_two(Vector<double> x) {
  typedef std::int64_t Integers __attribute__((vector_size(kVectorBytes)));
  const double lowest = -1023.0;
  const auto number = x == x;
  const auto input = x;
  x = maximum(x, all(lowest));
  // Adding 1.5 * 2^52 rounds to an integer and leaves it in the lowest bits: not every set converts to 64 bits.
  const auto shifted = x + 6755399441055744.0;
  const auto r = x - (shifted - 6755399441055744.0);
  auto p = all(2.5678435993488196e-11);
  p = p * r + 4.44553827187081e-10;
  p = p * r + 7.054911620801121e-09;
  p = p * r + 1.0178086009239696e-07;
  p = p * r + 1.3215486790144305e-06;
  p = p * r + 1.5252733804059838e-05;
  p = p * r + 0.00015403530393381606;
  p = p * r + 0.0013333558146428441;
  p = p * r + 0.009618129107628477;
  p = p * r + 0.055504108664821576;
  p = p * r + 0.2402265069591007;
  p = p * r + 0.6931471805599453;
  p = p * r + 1.0;
  const auto bits = reinterpret_cast<Integers>(p) + (reinterpret_cast<Integers>(shifted) << 52);
  return number ? reinterpret_cast<Vector<double>>(bits) : input;
}

template <typename T>
inline Vector<T> sigmoid(Vector<T> x) {
  return T(1) / (T(1) + exponential(-x));
}

template <typename T>
inline Vector<T> hyperbolic_tangent(Vector<T> x) {
  return T(1) - T(2) / (exponential(x + x) + T(1));
}

}  // namespace GHNFAST_ISA
}  // namespace ghnfast
