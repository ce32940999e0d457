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
  int64_t P;       // outputs of a step: H, where they are not projected
  bool projects;   // does the output come from h through w_hr?
  int64_t blocks;  // of N units
  int64_t outs;    // vectors of N outputs
  int64_t G;       // a row of gates: [block][i f g o][N]
  int64_t PI, PP, PH;  // I, P and H rounded up to what a product takes
  int64_t PU;      // H rounded up to whole blocks
  bool norm;       // layer normalisation
  int64_t saved;   // a row of what the backward pass reads beside c: gates [i f g o][PU], or normalised products

  explicit Sizes(const tg_lstm& p)
      : T(p.T), B(p.B), I(p.I), H(p.H), D(p.D), P(p.P ? p.P : p.H), projects(p.P > 0), blocks((H + N - 1) / N),
        outs((P + N - 1) / N), G(blocks * 4 * N), PI(round_up(I, Types<S>::PAIR)), PP(round_up(P, Types<S>::PAIR)),
        PH(round_up(H, Types<S>::PAIR)), PU(blocks * N), norm(p.norm_ih[0]),
        saved(p.open_gates ? 4 * PU : saved_width(p.H, norm)) {}
  static int64_t saved_width(int64_t H, bool norm) {
    int64_t gates = round_up(H, N) * 4;
    return norm ? 2 * gates + 2 * N : gates;
  }
  // How many vectors hold the four gates of a block's packed weights: those of few units share them.
  int gate_vectors(int64_t block) const {
    const int count = units(block);
    return 4 * count <= N ? 1 : 2 * count <= N ? 2 : 4;
  }
  int units(int64_t block) const { return (int)(H - block * N < N ? H - block * N : N); }
  int outputs(int64_t vector) const { return (int)(P - vector * N < N ? P - vector * N : N); }
  int64_t recurrent() const { return P * G + (projects ? P * PU : 0); }  // weights that a step reads beside the input's
  int64_t quads() const { return projects ? (blocks + 3) / 4 : 0; }      // of blocks, as the gradient of w_hr is summed
};

// The weights of one direction as the forward tiles read them:
// w_ih [block][k < I][i f g o][N], w_hh the same with k < P, fewer lanes a gate in a last block of few units (gate_vectors);
// w_hr as panels (pack.h), all others in A.
template <class S>
struct PackedWeights {
  using A = typename Types<S>::A;
  const S *ih, *hh, *hr;
  const A *bias, *peephole;  // [block][4][N]; [block][3][N]
  // Of the layer norms: [block][4][N]; [block][gain, bias][N].
  const A *gain_ih = nullptr, *gain_hh = nullptr, *norm_c = nullptr;

  static int64_t matrix_bytes(const Sizes<S>& z) {
    return round_up(((z.PI + z.PP) * z.G + (z.projects ? z.outs * z.N * z.PH : 0)) * sizeof(S), 64);
  }
  static int64_t vector_bytes(const Sizes<S>& z) {
    return round_up(z.G * sizeof(A), 64) + round_up(z.blocks * 3 * z.N * sizeof(A), 64) +
           (z.norm ? round_up(z.blocks * 10 * z.N * sizeof(A), 64) : 0);
  }
  static int64_t bytes(const Sizes<S>& z) { return matrix_bytes(z) + vector_bytes(z); }

  PackedWeights(const Sizes<S>& z, const void* at) : PackedWeights(z, at, static_cast<const char*>(at) + matrix_bytes(z)) {}
  PackedWeights(const Sizes<S>& z, const void* matrices, const void* vectors) {
    ih = static_cast<const S*>(matrices);
    hh = ih ? ih + z.PI * z.G : nullptr;
    hr = hh && z.projects ? hh + z.PP * z.G : nullptr;
    const char* p = static_cast<const char*>(vectors);
    bias = reinterpret_cast<const A*>(p);
    p += round_up(z.G * sizeof(A), 64);
    peephole = reinterpret_cast<const A*>(p);
    p += round_up(z.blocks * 3 * z.N * sizeof(A), 64);
    if (!z.norm) return;
    gain_ih = reinterpret_cast<const A*>(p);
    gain_hh = gain_ih + z.G;
    norm_c = gain_hh + z.G;
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

// Rank of a thread group's i-th row, always `together` rows at a time: neighbouring rows without
// lengths. With them, runs of neighbours are dealt out to and fro (0 1 1 0 0 1 ...), which gives equal
// work; runs, as two threads that write every other row take cache lines from each other.
struct RowGroup {
  int64_t first = 0, count;
  int64_t group, groups;  // with lengths; else no groups, and `first` is where the neighbours begin
  int64_t together;       // rows of a bundle
  int shift = 0;          // runs of 1 << shift bundles
  RowGroup(const tg_lstm& p, int64_t rows, int64_t group, int64_t groups, int64_t together = 1)
      : group(group), groups(p.lengths ? groups : 0), together(together) {
    const int64_t all = (rows + together - 1) / together;
    int64_t bundles;
    if (p.lengths) {
      while (shift < 3 && rows / groups >= (int64_t)16 * together << shift) ++shift;
      const int64_t run = (int64_t)1 << shift, rounds = all / (run * groups);
      int64_t rest = all % (run * groups) - place(rounds) * run;
      bundles = rounds * run + (rest < 0 ? 0 : rest > run ? run : rest);
    } else {
      Share share(all, group, groups);
      first = share.first, bundles = share.last - share.first;
    }
    count = bundles * together;
    // The last bundle of all may be smaller.
    if (bundles && bundle(bundles - 1) == all - 1) count -= all * together - rows;
  }
  int64_t place(int64_t round) const { return round % 2 ? groups - 1 - group : group; }
  int64_t bundle(int64_t i) const {
    if (!groups) return first + i;
    const int64_t round = i >> shift;
    return ((round * groups + place(round)) << shift) + (i & (((int64_t)1 << shift) - 1));
  }
  int64_t rank(int64_t i) const {
    return together == 1 ? bundle(i) : bundle(i / together) * together + i % together;
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
