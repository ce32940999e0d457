// sigmoid and tanh on vectors.
//
// exp(x) = 2^n e^r with n = round(x / ln 2) and |r| <= ln 2 / 2, where e^r - 1 is a polynomial in r
// (float: minimax for the relative error, degree 6, 2^-26; double: Taylor to degree 13, error below 2^-57).
// In float its two halves are summed apart: a short chain of operations counts for more than their number.
// Maximal errors, enforced over the whole range by tests/native/test_accuracy.py:
// float sigmoid 2.5 ulp, tanh 3.5 ulp; double sigmoid 3 ulp, tanh 4 ulp. NaN stays NaN, the limits are exact.
#pragma once

#include "simd.h"

namespace tg {
namespace TG_ISA {

struct ExpParts {
  vf n, p;  // e^Sx = 2^n (1 + S p)
};
struct ExpPartsD {
  vd n, p;  // e^x = 2^n (1 + p)
};

// S, -1 or 2, goes into the constants: a product fewer, and not one rounding more.
template <int S>
TG_INLINE ExpParts exp_parts(vf x) {
  const vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  vf n = fma(x, splat(S * 1.44269504f), magic) - magic;
  vf r = fma(n, splat(-0.693359375f / S), x);
  r = fma(n, splat(2.12194440e-4f / S), r);
  vf r2 = r * r;
  vf low = fma(r, splat(S * S * 1.6666542e-1f), splat(S * 0.5f));
  vf high = fma(r, splat(S * S * S * S * 8.3667105e-3f), splat(S * S * S * 4.1666280e-2f));
  high = fma(r2, splat(S * S * S * S * S * 1.3946671e-3f), high);
  return {n, fma(fma(r2, high, low), r2, r)};
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

// 1 / (1 + e^-x); e^-x may overflow to infinity, which gives the exact limit 0.
TG_INLINE vf sigmoid(vf x) {
  ExpParts e = exp_parts<-1>(clamp(x, -104.0f, 104.0f));
  return splat(1.0f) / (splat(1.0f) + scale(splat(1.0f) - e.p, e.n));
}
TG_INLINE vd sigmoid(vd x) {
  ExpPartsD e = exp_parts(clamp(-x, -746.0, 746.0));
  return splat(1.0) / (splat(1.0) + scale(splat(1.0) + e.p, e.n));
}

// tanh x = m / (m + 1) with m = (e^2x - 1) / 2, which keeps its relative accuracy near zero.
TG_INLINE vf tanh(vf x) {
  ExpParts e = exp_parts<2>(clamp(x, -10.0f, 10.0f));
  vf s = scale(splat(1.0f), e.n);
  vf m = fma(e.p, s, fma(s, splat(0.5f), splat(-0.5f)));
  return m / (m + splat(1.0f));
}
TG_INLINE vd tanh(vd x) {
  ExpPartsD e = exp_parts(clamp(x + x, -42.0, 42.0));
  vd s = scale(splat(1.0), e.n);
  vd m = fma(e.p, s, s - splat(1.0));
  return m / (m + splat(2.0));
}

}  // namespace TG_ISA
}  // namespace tg
