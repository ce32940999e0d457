// sigmoid and tanh on vectors.
//
// exp(x) = 2^n e^r with n = round(x / ln 2) and |r| <= ln 2 / 2, where e^r - 1 is a polynomial in r
// (float: minimax for the relative error, degree 6, 2^-26; double: Taylor to degree 13, error below 2^-57).
// In float its two halves are summed apart: a short chain of operations counts for more than their number. And several
// values go step by step beside each other: operations close behind what they wait for would fill a processor's queues, and
// it would not see the next ones.
// Maximal errors, enforced over the whole range by tests/native/test_accuracy.py:
// float sigmoid 2.5 ulp, tanh 3.5 ulp; double sigmoid 3 ulp, tanh 4 ulp. NaN stays NaN, the limits are exact.
#pragma once

#include "simd.h"

namespace tg {
namespace TG_ISA {

struct ExpPartsD {
  vd n, p;  // e^x = 2^n (1 + p)
};

#define TG_EACH(first, end) _Pragma("GCC unroll 8") for (int k = first; k < end; ++k)

// e^-x = 2^n (1 - p), of M values.
template <int M>
TG_INLINE void exp_parts(const vf (&x)[M], vf (&n)[M], vf (&p)[M]) {
  const vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  vf r[M], r2[M], low[M], high[M];
  TG_EACH(0, M) n[k] = fma(x[k], splat(-1.44269504f), magic);
  TG_EACH(0, M) n[k] = n[k] - magic;
  TG_EACH(0, M) r[k] = fma(n[k], splat(0.693359375f), x[k]);
  TG_EACH(0, M) r[k] = fma(n[k], splat(-2.12194440e-4f), r[k]);
  TG_EACH(0, M) high[k] = fma(r[k], splat(8.3667105e-3f), splat(-4.1666280e-2f));
  TG_EACH(0, M) r2[k] = r[k] * r[k];
  TG_EACH(0, M) low[k] = fma(r[k], splat(1.6666542e-1f), splat(-0.5f));
  TG_EACH(0, M) high[k] = fma(r2[k], splat(-1.3946671e-3f), high[k]);
  TG_EACH(0, M) low[k] = fma(r2[k], high[k], low[k]);
  TG_EACH(0, M) p[k] = fma(low[k], r2[k], r[k]);
}

// The first S of v become their sigmoids, the others their hyperbolic tangents:
// 1 / (1 + e^-x), where e^-x may overflow to infinity, which gives the exact limit 0;
// m / (1 - m) with m = (1 - e^-2x) / 2, which keeps its relative accuracy near zero.
template <int S, int M>
TG_INLINE void activate(vf (&v)[M]) {
  vf x[M], n[M], p[M], e[M], m[M];
  TG_EACH(0, S) x[k] = clamp(v[k], -104.0f, 104.0f);
  TG_EACH(S, M) x[k] = clamp(v[k] + v[k], -20.0f, 20.0f);
  exp_parts<M>(x, n, p);
  TG_EACH(0, S) e[k] = scale(splat(1.0f) - p[k], n[k]);
  TG_EACH(S, M) e[k] = scale(splat(0.5f), n[k]);
  TG_EACH(S, M) m[k] = fma(p[k], e[k], splat(0.5f) - e[k]);
  TG_EACH(0, S) v[k] = splat(1.0f) / (splat(1.0f) + e[k]);
  TG_EACH(S, M) v[k] = m[k] / (splat(1.0f) - m[k]);
}
#undef TG_EACH

TG_INLINE vf sigmoid(vf x) {
  vf v[1] = {x};
  activate<1>(v);
  return v[0];
}
TG_INLINE vf tanh(vf x) {
  vf v[1] = {x};
  activate<0>(v);
  return v[0];
}

TG_INLINE ExpPartsD exp_parts(vd x) {
  const vd magic = splat(6755399441055744.0);  // 1.5 * 2^52
  vd n = fma(x, splat(1.4426950408889634074), magic) - magic;
  vd r = fma(n, splat(-0.693147180369123816490), x);
  r = fma(n, splat(-1.90821492927058770002e-10), r);
  vd p = splat(1.0 / 6227020800.0);
  p = fma(p, r, splat(1.0 / 479001600.0));
  p = fma(p, r, splat(1.0 / 39916800.0));
  p = fma(p, r, splat(1.0 / 3628800.0));
  p = fma(p, r, splat(1.0 / 362880.0));
  p = fma(p, r, splat(1.0 / 40320.0));
  p = fma(p, r, splat(1.0 / 5040.0));
  p = fma(p, r, splat(1.0 / 720.0));
  p = fma(p, r, splat(1.0 / 120.0));
  p = fma(p, r, splat(1.0 / 24.0));
  p = fma(p, r, splat(1.0 / 6.0));
  p = fma(p, r, splat(0.5));
  return {n, fma(p, r * r, r)};
}

TG_INLINE vd sigmoid(vd x) {
  ExpPartsD e = exp_parts(clamp(-x, -746.0, 746.0));
  return splat(1.0) / (splat(1.0) + scale(splat(1.0) + e.p, e.n));
}

TG_INLINE vd tanh(vd x) {
  ExpPartsD e = exp_parts(clamp(x + x, -42.0, 42.0));
  vd s = scale(splat(1.0), e.n);
  vd m = fma(e.p, s, s - splat(1.0));
  return m / (m + splat(2.0));
}

template <int S, int M>
TG_INLINE void activate(vd (&v)[M]) {
  for (int k = 0; k < M; ++k) v[k] = k < S ? sigmoid(v[k]) : tanh(v[k]);
}

}  // namespace TG_ISA
}  // namespace tg
