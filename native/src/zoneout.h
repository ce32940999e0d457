// Zoneout (Krueger et al. 2017): how much of each unit's old memories stays.
#pragma once

#include "pack.h"
#include "philox.h"

namespace tg {
namespace TG_ISA {

template <class V>
TG_INLINE V mix(V weight, V old, V fresh) {  // exact where the weight is 0 or 1, also beside infinities
  V one = V{} + 1;
  return weight == one ? old : (weight == V{} ? fresh : fma(weight, old, (one - weight) * fresh));
}

template <class S>
struct Zoneout {
  using A = typename Types<S>::A;
  using V = typename Types<S>::V;
  static constexpr int64_t N = Types<S>::N;
  static constexpr int64_t LANES = VECTOR_BYTES / 8, QUADS = N < 4 ? 1 : N / 4;  // counters of a block

  struct Weights {
    V hidden, cell;  // 0 or 1 in training, else the rates
  };

  const tg_lstm& p;
  PhiloxKeys keys;
  uint64_t bound_h, bound_c;
  vq quads{}, streams{};  // of the counters: those of h in the first lanes, then those of c

  Zoneout(const tg_lstm& p, int64_t d)
      : p(p), keys((uint64_t)p.seed), bound_h(threshold(p.zoneout_hidden)), bound_c(threshold(p.zoneout_cell)) {
    for (int n = 0; n < LANES; ++n) {
      quads[n] = (uint64_t)(n % QUADS);
      streams[n] = stream(p, d, n < QUADS ? ZONEOUT_HIDDEN : ZONEOUT_CELL);
    }
  }
  // On the units of a step, and on what a projection puts out, which then is the short-term memory.
  bool acts() const { return p.zoneout_cell != 0.0 || (!p.P && p.zoneout_hidden != 0.0); }
  bool acts_on_outputs() const { return p.P && p.zoneout_hidden != 0.0; }

  // For N units from `unit` on, of row b at time t.
  TG_INLINE Weights weights(int64_t unit, int64_t t, int64_t b) const {
    if (!p.training) return {splat((A)p.zoneout_hidden), splat((A)p.zoneout_cell)};
    vq counter[4] = {quads + (uint64_t)unit / 4, vq{} + (uint32_t)b, vq{} + (uint32_t)(p.first_step + t), streams};
    philox(counter, keys);
    const vq low = vq{} + 0xFFFFFFFFu;
    vq first = (counter[0] & low) | (counter[1] << 32), second = (counter[2] & low) | (counter[3] << 32);
    using Lanes = std::make_index_sequence<LANES>;
    vq pairs[2] = {interleave<false>(first, second, Lanes{}), interleave<true>(first, second, Lanes{})};
    uint32_t words[4 * LANES];
    std::memcpy(words, pairs, sizeof words);
    return {below(words + unit % 4, bound_h), below(words + 4 * QUADS + unit % 4, bound_c)};
  }

  static TG_INLINE V below(const uint32_t* words, uint64_t bound) {
    if (bound == 0) return V{};
    const uint32_t last = (uint32_t)(bound - 1);
    A mask[N];
    for (int n = 0; n < N; ++n) mask[n] = words[n] <= last ? A(1) : A(0);
    return load(mask);
  }
};

}  // namespace TG_ISA
}  // namespace tg
