// Sizes and addresses that the forward and the backward pass share.
#pragma once

#include "tidegate.h"
#include "simd.h"
#include "team.h"

namespace tg {
namespace TG_ISA {

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

template <class S>
struct Sizes {
  static constexpr int64_t N = Types<S>::N;
  int64_t T, B, I, H, D;
  int64_t blocks;  // of N units
  int64_t G;       // a row of gates: [block][i f g o][N]
  int64_t PI, PH;  // I and H rounded up to what a product takes

  explicit Sizes(const tg_lstm& p)
      : T(p.T), B(p.B), I(p.I), H(p.H), D(p.D), blocks((p.H + N - 1) / N), G(blocks * 4 * N),
        PI(round_up(p.I, Types<S>::PAIR)), PH(round_up(p.H, Types<S>::PAIR)) {}
  int units(int64_t block) const { return (int)(H - block * N < N ? H - block * N : N); }
};

// The weights of one direction as the forward tiles read them:
// w_ih [block][k < I][i f g o][N], w_hh the same with k < H, bias and peepholes in A.
template <class S>
struct PackedWeights {
  using A = typename Types<S>::A;
  const S *ih, *hh;
  const A *bias, *peephole;  // [block][4][N]; [block][3][N]

  static int64_t bytes(const Sizes<S>& z) {
    return round_up((z.PI + z.PH) * z.G * sizeof(S), 64) + round_up(z.G * sizeof(A), 64) +
           round_up(z.blocks * 3 * z.N * sizeof(A), 64);
  }
  PackedWeights(const Sizes<S>& z, const void* at) {
    const char* p = static_cast<const char*>(at);
    ih = reinterpret_cast<const S*>(p);
    hh = ih + z.PI * z.G;
    p += round_up((z.PI + z.PH) * z.G * sizeof(S), 64);
    bias = reinterpret_cast<const A*>(p);
    p += round_up(z.G * sizeof(A), 64);
    peephole = reinterpret_cast<const A*>(p);
  }
};

// Hands out aligned pieces of one workspace; with a null base it only counts.
struct Arena {
  char* base;
  int64_t used = 0;

  template <class T>
  T* take(int64_t count) {
    T* p = base ? reinterpret_cast<T*>(base + used) : nullptr;
    used += round_up(count * (int64_t)sizeof(T), 64);
    return p;
  }
};

// Rows in order of falling length, so that the rows still running are a prefix at every step.
struct Order {
  int32_t* row;      // (B,)
  int32_t* length;   // (B,) of the row at that rank
  int64_t longest;

  void take(Arena& arena, int64_t B) {
    row = arena.take<int32_t>(B);
    length = arena.take<int32_t>(B);
  }
  // `count` is scratch for T + 1 numbers.
  void fill(const tg_lstm& p, int32_t* count) {
    if (!p.lengths) {
      for (int64_t b = 0; b < p.B; ++b) row[b] = (int32_t)b, length[b] = (int32_t)p.T;
      longest = p.B ? p.T : 0;
      return;
    }
    for (int64_t n = 0; n <= p.T; ++n) count[n] = 0;
    for (int64_t b = 0; b < p.B; ++b) ++count[p.lengths[b]];
    int32_t at = 0;
    for (int64_t n = p.T; n >= 0; --n) {
      int32_t rows = count[n];
      count[n] = at;
      at += rows;
    }
    for (int64_t b = 0; b < p.B; ++b) {
      int32_t rank = count[p.lengths[b]]++;
      row[rank] = (int32_t)b;
      length[rank] = (int32_t)p.lengths[b];
    }
    longest = p.B ? length[0] : 0;
  }
};

// The share [first, last) of thread `thread` of `threads` in `count` items.
struct Share {
  int64_t first, last;
  Share(int64_t count, int64_t thread, int64_t threads)
      : first(count * thread / threads), last(count * (thread + 1) / threads) {}
};

// Does direction d read each sequence from its end?
TG_INLINE bool from_end(const tg_lstm& p, int64_t d) { return d + p.first_direction == 1; }

// Does a new sequence start in the direction's reading order at time t of row b?
TG_INLINE bool starts_anew(const tg_lstm& p, int64_t d, int64_t t, int64_t b, int64_t length) {
  if (!p.reset) return false;
  if (!from_end(p, d)) return p.reset[t * p.B + b];
  return t + 1 < length && p.reset[(t + 1) * p.B + b];
}

// Rank of a thread group's i-th row: neighbouring rows without lengths. With them, runs of neighbours are
// dealt out to and fro (0 1 1 0 0 1 ...), which gives equal work; runs, as two threads that write every
// other row take cache lines from each other.
struct RowGroup {
  int64_t first = 0, count;
  int64_t group, groups;  // with lengths; else no groups, and `first` is where the neighbours begin
  int shift = 0;          // runs of 1 << shift rows
  RowGroup(const tg_lstm& p, int64_t group, int64_t groups) : group(group), groups(p.lengths ? groups : 0) {
    if (p.lengths) {
      while (shift < 3 && p.B / groups >= (int64_t)16 << shift) ++shift;
      const int64_t run = (int64_t)1 << shift, rounds = p.B / (run * groups);
      int64_t rest = p.B % (run * groups) - place(rounds) * run;
      count = rounds * run + (rest < 0 ? 0 : rest > run ? run : rest);
    } else {
      Share share(p.B, group, groups);
      first = share.first, count = share.last - share.first;
    }
  }
  int64_t place(int64_t round) const { return round % 2 ? groups - 1 - group : group; }
  int64_t rank(int64_t i) const {
    if (!groups) return first + i;
    const int64_t round = i >> shift;
    return ((round * groups + place(round)) << shift) + (i & (((int64_t)1 << shift) - 1));
  }
};

// The scale of kept units under recurrent dropout, rounded as the reference rounds it.
template <class S>
TG_INLINE typename Types<S>::A keep_scale(double rate) {
  S rounded;
  from_accumulator(rounded, (typename Types<S>::A)(rate >= 1.0 ? 0.0 : 1.0 / (1.0 - rate)));
  return to_accumulator(rounded);
}

}  // namespace TG_ISA
}  // namespace tg
