// Vectors of one instruction set: GCC/Clang vector types, with intrinsics only for what those lack.
//
// This header is compiled once for each instruction set, inside a namespace of its own, so that
// the linker never mixes the code of two.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__) || defined(__SSE2__)
#include <immintrin.h>
#elif defined(TG_NEON)
#include <arm_neon.h>
#endif

#define TG_INLINE inline __attribute__((always_inline))

namespace tg {
namespace TG_ISA {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
constexpr int MAX_ROWS = 6;  // 6 rows x 4 vectors of accumulators, of 32 registers
#elif defined(__AVX2__)
constexpr int VECTOR_BYTES = 32;
constexpr int MAX_ROWS = 3;  // 3 rows x 4 vectors, of 16 registers
#elif defined(TG_NEON)
constexpr int VECTOR_BYTES = 16;
constexpr int MAX_ROWS = 5;  // 20 sums, 4 vectors of weights and 5 operands, of 32 registers
#else
constexpr int VECTOR_BYTES = 16;
constexpr int MAX_ROWS = 3;
#endif

typedef float vf __attribute__((vector_size(VECTOR_BYTES)));
typedef double vd __attribute__((vector_size(VECTOR_BYTES)));
typedef int32_t vi __attribute__((vector_size(VECTOR_BYTES)));
typedef uint32_t vu __attribute__((vector_size(VECTOR_BYTES)));
typedef int64_t vl __attribute__((vector_size(VECTOR_BYTES)));
typedef uint64_t vq __attribute__((vector_size(VECTOR_BYTES)));
typedef uint16_t vh __attribute__((vector_size(VECTOR_BYTES / 2)));

struct bf16 {
  uint16_t bits;
};

// S storage, A accumulation, N lanes of A in a vector, PAIR elements of S that one product takes.
template <class S>
struct Types;
template <>
struct Types<float> {
  using A = float;
  using V = vf;
  static constexpr int N = VECTOR_BYTES / 4, PAIR = 1;
};
template <>
struct Types<double> {
  using A = double;
  using V = vd;
  static constexpr int N = VECTOR_BYTES / 8, PAIR = 1;
};
template <>
struct Types<bf16> {
  using A = float;
  using V = vf;
  static constexpr int N = VECTOR_BYTES / 4, PAIR = 2;
};

// Lanes K of a followed by b. GCC before 12 has another name for it.
template <size_t... K, class V>
TG_INLINE V shuffle(V a, V b) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, K...);
#else
  return __builtin_shuffle(a, b, decltype(a < b){K...});
#endif
}

// All lanes x: less nothing, as compilers keep the addition of zero, which turns -0 into 0, in the innermost loop.
TG_INLINE vf splat(float x) { return x - vf{}; }
TG_INLINE vd splat(double x) { return x - vd{}; }

#if defined(__AVX512F__)
TG_INLINE vf fma(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
TG_INLINE vd fma(vd a, vd b, vd c) { return (vd)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c); }
#elif defined(__AVX2__)
TG_INLINE vf fma(vf a, vf b, vf c) { return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
TG_INLINE vd fma(vd a, vd b, vd c) { return (vd)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c); }
#elif defined(TG_NEON)
TG_INLINE vf fma(vf a, vf b, vf c) { return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
TG_INLINE vd fma(vd a, vd b, vd c) { return (vd)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b); }
#elif defined(__FP_FAST_FMAF) && defined(__FP_FAST_FMA)
TG_INLINE vf fma(vf a, vf b, vf c) {
  for (int n = 0; n < VECTOR_BYTES / 4; ++n) c[n] = __builtin_fmaf(a[n], b[n], c[n]);
  return c;
}
TG_INLINE vd fma(vd a, vd b, vd c) {
  for (int n = 0; n < VECTOR_BYTES / 8; ++n) c[n] = __builtin_fma(a[n], b[n], c[n]);
  return c;
}
#else
TG_INLINE vf fma(vf a, vf b, vf c) { return a * b + c; }
TG_INLINE vd fma(vd a, vd b, vd c) { return a * b + c; }
#endif

// Clamped to [lo, hi]; NaN stays NaN.
#if defined(__AVX512F__)
TG_INLINE vf clamp(vf x, float lo, float hi) {
  return (vf)_mm512_min_ps(_mm512_set1_ps(hi), _mm512_max_ps(_mm512_set1_ps(lo), (__m512)x));
}
TG_INLINE vd clamp(vd x, double lo, double hi) {
  return (vd)_mm512_min_pd(_mm512_set1_pd(hi), _mm512_max_pd(_mm512_set1_pd(lo), (__m512d)x));
}
#elif defined(__AVX2__)
TG_INLINE vf clamp(vf x, float lo, float hi) {
  return (vf)_mm256_min_ps(_mm256_set1_ps(hi), _mm256_max_ps(_mm256_set1_ps(lo), (__m256)x));
}
TG_INLINE vd clamp(vd x, double lo, double hi) {
  return (vd)_mm256_min_pd(_mm256_set1_pd(hi), _mm256_max_pd(_mm256_set1_pd(lo), (__m256d)x));
}
#elif defined(TG_NEON)
TG_INLINE vf clamp(vf x, float lo, float hi) {
  return (vf)vminq_f32(vmaxq_f32((float32x4_t)x, vdupq_n_f32(lo)), vdupq_n_f32(hi));
}
TG_INLINE vd clamp(vd x, double lo, double hi) {
  return (vd)vminq_f64(vmaxq_f64((float64x2_t)x, vdupq_n_f64(lo)), vdupq_n_f64(hi));
}
#else
TG_INLINE vf clamp(vf x, float lo, float hi) {
  x = x < splat(lo) ? splat(lo) : x;
  return x > splat(hi) ? splat(hi) : x;
}
TG_INLINE vd clamp(vd x, double lo, double hi) {
  x = x < splat(lo) ? splat(lo) : x;
  return x > splat(hi) ? splat(hi) : x;
}
#endif

template <class T>
TG_INLINE T load_bits(const void* p) {
  T v;
  std::memcpy(&v, p, sizeof(T));
  return v;
}
TG_INLINE vf load(const float* p) { return load_bits<vf>(p); }
TG_INLINE vd load(const double* p) { return load_bits<vd>(p); }
TG_INLINE void store(float* p, vf v) { std::memcpy(p, &v, sizeof v); }
TG_INLINE void store(double* p, vd v) { std::memcpy(p, &v, sizeof v); }

// bfloat16 is the upper half of a float.
TG_INLINE vf widen(vu bits) {
  vf v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}
TG_INLINE vf load(const bf16* p) { return widen(__builtin_convertvector(load_bits<vh>(p), vu) << 16); }
TG_INLINE vh round_bf16(vf v) {  // to nearest, ties to even; NaN stays NaN
#if defined(__AVX512BF16__)
  __m256bh rounded = _mm512_cvtneps_pbh((__m512)v);
  return (vh)rounded;
#else
  vu bits;
  std::memcpy(&bits, &v, sizeof v);
  vu rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  vi nan = v != v;
  rounded = nan ? (bits >> 16) | 0x40 : rounded;
  return __builtin_convertvector(rounded, vh);
#endif
}
TG_INLINE void store(bf16* p, vf v) {
  vh half = round_bf16(v);
  std::memcpy(p, &half, sizeof half);
}

// Past the caches, for what would not stay there and only push other things out: whole lines of 64 bytes.
#if defined(__AVX512F__)
TG_INLINE void stream(float* p, vf v) { _mm512_stream_ps(p, (__m512)v); }
TG_INLINE void stream(double* p, vd v) { _mm512_stream_pd(p, (__m512d)v); }
TG_INLINE void stream_end() { _mm_sfence(); }
#else
TG_INLINE void stream(float* p, vf v) { store(p, v); }
TG_INLINE void stream(double* p, vd v) { store(p, v); }
TG_INLINE void stream_end() {}
#endif
TG_INLINE void stream(bf16* p, vf v) { store(p, v); }  // half a line
TG_INLINE void stream_zeros(void* to, int64_t bytes) {
  auto at = static_cast<float*>(to);
  if (VECTOR_BYTES < 64 || ((uintptr_t)to | (uintptr_t)bytes) % 64) std::memset(to, 0, bytes);
  else
    for (int64_t n = 0; n < bytes / 4; n += VECTOR_BYTES / 4) stream(at + n, vf{});
}

TG_INLINE float to_accumulator(float x) { return x; }
TG_INLINE double to_accumulator(double x) { return x; }
TG_INLINE float to_accumulator(bf16 x) {
  uint32_t bits = (uint32_t)x.bits << 16;
  float v;
  std::memcpy(&v, &bits, 4);
  return v;
}
TG_INLINE void from_accumulator(float& to, float x) { to = x; }
TG_INLINE void from_accumulator(double& to, double x) { to = x; }
TG_INLINE void from_accumulator(bf16& to, float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  to.bits = (uint16_t)(x != x ? (bits >> 16) | 0x40 : (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

// The first n of a vector's lanes, not all; the others read as zero and are not written.
template <class S>
TG_INLINE typename Types<S>::V load_part(const S* p, int n) {
  S lanes[Types<S>::N] = {};
  for (int k = 0; k < n; ++k) lanes[k] = p[k];
  return load(lanes);
}
template <class S>
TG_INLINE void store_part(S* p, typename Types<S>::V v, int n) {
  S lanes[Types<S>::N];
  store(lanes, v);
  for (int k = 0; k < n; ++k) p[k] = lanes[k];
}
#if defined(__AVX512F__)
TG_INLINE vf load_part(const float* p, int n) { return (vf)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p); }
TG_INLINE vd load_part(const double* p, int n) { return (vd)_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p); }
TG_INLINE vf load_part(const bf16* p, int n) {
  vh half = (vh)_mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1), p);
  return widen(__builtin_convertvector(half, vu) << 16);
}
TG_INLINE void store_part(float* p, vf v, int n) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v); }
TG_INLINE void store_part(double* p, vd v, int n) { _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), (__m512d)v); }
TG_INLINE void store_part(bf16* p, vf v, int n) {
  _mm256_mask_storeu_epi16(p, (__mmask16)((1u << n) - 1), (__m256i)round_bf16(v));
}
#elif defined(__AVX2__)  // stores under a mask are slow on some processors
TG_INLINE vf load_part(const float* p, int n) {
  const vi mask = vi{0, 1, 2, 3, 4, 5, 6, 7} < n;
  return (vf)_mm256_maskload_ps(p, (__m256i)mask);
}
TG_INLINE vd load_part(const double* p, int n) {
  const vl mask = vl{0, 1, 2, 3} < (int64_t)n;
  return (vd)_mm256_maskload_pd(p, (__m256i)mask);
}
#endif

// The same of n lanes or more than there are.
template <class S>
TG_INLINE typename Types<S>::V load_first(const S* p, int n) {
  return n >= Types<S>::N ? load(p) : load_part(p, n);
}
template <class S>
TG_INLINE void store_first(S* p, typename Types<S>::V v, int n) {
  if (n >= Types<S>::N) store(p, v);
  else store_part(p, v, n);
}

// Products of the lower halves of 64-bit lanes.
#if defined(__AVX512F__)
TG_INLINE vq multiply_low(vq a, vq b) { return (vq)_mm512_mul_epu32((__m512i)a, (__m512i)b); }
#elif defined(__AVX2__)
TG_INLINE vq multiply_low(vq a, vq b) { return (vq)_mm256_mul_epu32((__m256i)a, (__m256i)b); }
#elif defined(__SSE2__)
TG_INLINE vq multiply_low(vq a, vq b) { return (vq)_mm_mul_epu32((__m128i)a, (__m128i)b); }
#elif defined(TG_NEON)
TG_INLINE vq multiply_low(vq a, vq b) { return (vq)vmull_u32(vmovn_u64((uint64x2_t)a), vmovn_u64((uint64x2_t)b)); }
#else
TG_INLINE vq multiply_low(vq a, vq b) { return (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu); }
#endif

// 2^n for whole n (a float's or double's value); overflows to infinity, underflows gradually.
#if defined(__AVX512F__)
TG_INLINE vf scale(vf x, vf n) { return (vf)_mm512_scalef_ps((__m512)x, (__m512)n); }
TG_INLINE vd scale(vd x, vd n) { return (vd)_mm512_scalef_pd((__m512d)x, (__m512d)n); }
#else
TG_INLINE vf scale(vf x, vf n) {  // in two factors, as one would leave the exponent's range
  vi whole = __builtin_convertvector(n, vi), half = whole >> 1;
  vf first = (vf)((half + 127) << 23), second = (vf)((whole - half + 127) << 23);
  return x * first * second;
}
TG_INLINE vd scale(vd x, vd n) {
  vl whole = __builtin_convertvector(n, vl), half = whole >> 1;
  vd first = (vd)((half + 1023) << 52), second = (vd)((whole - half + 1023) << 52);
  return x * first * second;
}
#endif

}  // namespace TG_ISA
}  // namespace tg
