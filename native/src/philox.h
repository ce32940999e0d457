// The random bits of src/tidegate/ops/random.py: Philox4x32-10 (Salmon et al. 2011).
#pragma once

#include "layout.h"

namespace tg {
namespace TG_ISA {

enum Stream : uint32_t { RECURRENT_DROPOUT = 0, ZONEOUT_HIDDEN = 1, ZONEOUT_CELL = 2, BACKWARD = 8 };

TG_INLINE void philox(const uint32_t counter[4], uint64_t seed, uint32_t out[4]) {
  uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
  uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    uint64_t a = (uint64_t)c0 * 0xD2511F53u, b = (uint64_t)c2 * 0xCD9E8D57u;
    c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
    c1 = (uint32_t)b;
    c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
    c3 = (uint32_t)a;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

// The keys of all rounds.
struct PhiloxKeys {
  uint64_t of[20];
  explicit PhiloxKeys(uint64_t seed) {
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u)
      of[2 * round] = k0, of[2 * round + 1] = k1;
  }
};

// The same for a counter in each 64-bit lane, in place. Words are in the lower halves; what gathers
// in the upper ones plays no part.
TG_INLINE void philox(vq (&c)[4], const PhiloxKeys& keys) {
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    vq a = multiply_low(c[0], vq{} + 0xD2511F53u), b = multiply_low(c[2], vq{} + 0xCD9E8D57u);
    c[0] = (b >> 32) ^ c[1] ^ keys.of[2 * round];
    c[1] = b;
    c[2] = (a >> 32) ^ c[3] ^ keys.of[2 * round + 1];
    c[3] = a;
  }
}

// The words of direction d for what `use` names.
TG_INLINE uint32_t stream(const tg_lstm& p, int64_t d, Stream use) { return use + (from_end(p, d) ? (uint32_t)BACKWARD : 0u); }

// The bound below which a word counts as true; 2^32 for certainty.
inline uint64_t threshold(double rate) {
  double bound = rate * 4294967296.0;
  return bound >= 4294967296.0 ? (uint64_t)1 << 32 : (uint64_t)bound;
}

// 1 where the event of probability `rate` happens, else 0, for `count` units from `first` (a multiple of 4).
template <class A>
inline void bernoulli(A* mask, int count, int64_t first, uint64_t seed, uint64_t bound, int64_t t, int64_t row,
                      uint32_t stream) {
  for (int u = 0; u < count; u += 4) {
    uint32_t counter[4] = {(uint32_t)((first + u) / 4), (uint32_t)row, (uint32_t)t, stream}, words[4];
    philox(counter, seed, words);
    for (int k = 0; k < 4 && u + k < count; ++k) mask[u + k] = words[k] < bound ? A(1) : A(0);
  }
}

}  // namespace TG_ISA
}  // namespace tg
