// Layer normalisation (Ba et al. 2016) in the forward pass. A row's statistics need the products of all
// its units, so a step is no longer one tile: products go to scratch, then each row is finished alone.
#pragma once

#include <cmath>
#include <utility>

#include "forward.h"

namespace tg {
namespace TG_ISA {

constexpr int64_t NORM_PANEL_BYTES = 128 * 1024;  // of products that wait for their row to be complete

// The sum of a vector's lanes, in log2 N rounds of halves.
template <size_t Half, class V, size_t... K>
TG_INLINE V add_half(V v, std::index_sequence<K...>) {
  return v + shuffle<((K + Half) % sizeof...(K))...>(v, v);
}
template <class V, size_t Half = sizeof(V) / sizeof(V{}[0]) / 2>
TG_INLINE auto sum_lanes(V v) {
  if constexpr (Half == 0) return v[0];
  else return sum_lanes<V, Half / 2>(add_half<Half>(v, std::make_index_sequence<sizeof(V) / sizeof(v[0])>{}));
}

// The first n lanes; the others become zero.
template <class S>
TG_INLINE typename Types<S>::V first_lanes(typename Types<S>::V v, int n) {
  if (n >= Types<S>::N) return v;
  typename Types<S>::A lanes[Types<S>::N];
  store(lanes, v);
  return load_first(lanes, n);
}

template <class A>
struct Moments {
  A mean, scale;  // scale = 1 / sqrt(variance + eps)
};

// What a row of statistics holds, behind the normalised products of a saved row.
enum Statistic { SCALE_IH, SCALE_HH, MEAN_C, SCALE_C, STATISTICS };

// Mean and scale of one row [block][G][N] of values whose lanes beyond H are zero. In two passes: the
// variance of nearly equal values keeps its digits.
template <class S, int G>
TG_INLINE Moments<typename Types<S>::A> moments(const typename Types<S>::A* row, const Sizes<S>& z) {
  using A = typename Types<S>::A;
  using V = typename Types<S>::V;
  constexpr int64_t N = Types<S>::N;
  const A count = (A)(G * z.H);
  V sum[G] = {};
  for (int64_t block = 0; block < z.blocks; ++block)
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) sum[g] = sum[g] + load(row + (block * G + g) * N);
  V all = sum[0];
#pragma GCC unroll 4
  for (int g = 1; g < G; ++g) all = all + sum[g];
  const A mean = sum_lanes(all) / count;
  V square[G] = {};
  for (int64_t block = 0; block < z.blocks; ++block) {
    const int units = z.units(block);
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) {
      V off = first_lanes<S>(load(row + (block * G + g) * N) - mean, units);
      square[g] = fma(off, off, square[g]);
    }
  }
  all = square[0];
#pragma GCC unroll 4
  for (int g = 1; g < G; ++g) all = all + square[g];
  return {mean, (A)1 / std::sqrt(sum_lanes(all) / count + (A)1e-5)};
}

// What one thread needs beside ForwardScratch.
template <class S>
struct NormScratch {
  using A = typename Types<S>::A;
  int64_t panel = 0;     // rows whose products are made at once
  A* products = nullptr; // [panel row][G]
  A* cells = nullptr;    // [block][N] long-term memory of the row at hand
  A* outputs = nullptr;  // [block][N] its output gate
  A* scale_ih = nullptr; // [chunk row] of the input's part

  void take(Arena& arena, const Sizes<S>& z, int64_t rows, int64_t chunk_rows) {
    if (!z.norm) return;
    panel = round_up(NORM_PANEL_BYTES / (z.G * (int64_t)sizeof(A)) + 1, MAX_ROWS);
    if (panel > rows) panel = rows;
    products = arena.take<A>(panel * z.G);
    cells = arena.take<A>(z.blocks * z.N);
    outputs = arena.take<A>(z.blocks * z.N);
    scale_ih = arena.take<A>(chunk_rows);
  }
};

template <class S>
struct NormForward : Forward<S> {
  using A = typename Types<S>::A;
  using V = typename Types<S>::V;
  using Forward<S>::p, Forward<S>::z, Forward<S>::w, Forward<S>::d, Forward<S>::rows, Forward<S>::projected;
  static constexpr int64_t N = Types<S>::N;

  const NormScratch<S>& m;
  const A* chunk = nullptr;  // where the projected rows begin

  NormForward(const tg_lstm& p, const void* packed, int d, const NormScratch<S>& m) : Forward<S>(p, packed, d), m(m) {}

  // One block of a (., K) operand's products with packed weights: to[row][block][4][N].
  void products(const S* const* from, int64_t count, const S* weights, int64_t K, int64_t block, A* to) const {
    for_tiles(count, [&](int64_t row, auto size) {
      constexpr int R = decltype(size)::value;
      const S* a[R];
      for (int r = 0; r < R; ++r) a[r] = from[row + r];
      A* at = to + row * z.G + block * 4 * N;
      if (z.gate_vectors(block) == 4) return product<S, R, 4>(at, z.G, a, weights, 4 * N, K);
      Tile<S, R, 4> acc;
      shared_multiply<S, R>(acc, a, weights, K, z.gate_vectors(block));
      tile_store<S, R, 4>(acc, at, z.G);
    });
  }

  // The input's part for `count` rows at once, normalised but without gain and bias.
  void project(const S* const* x, int64_t count, int64_t first, int64_t last, A* to) {
    for (int64_t block = first; block < last; ++block)
      products(x, count, w.ih + block * z.PI * 4 * N, z.I, block, to);
    for (int64_t row = 0; row < count; ++row) {
      A* at = to + row * z.G;
      Moments<A> found = moments<S, 4>(at, z);
      for (int64_t block = 0; block < z.blocks; ++block)
        for (int64_t n = block * 4 * N; n < (block + 1) * 4 * N; n += N)
          store(at + n, first_lanes<S>((load(at + n) - found.mean) * found.scale, z.units(block)));
      m.scale_ih[row] = found.scale;
    }
    chunk = to;
  }

  // From a row's recurrent products to both memories.
  void finish(int64_t row, const A* sums) {
    const A* input = projected + row * z.G;
    const Moments<A> hh = moments<S, 4>(sums, z);
    S* saved = p.open_gates ? nullptr : rows.gates[row];
    A* open = p.open_gates ? reinterpret_cast<A*>(rows.gates[row]) : nullptr;
    for (int64_t block = 0; block < z.blocks; ++block) {
      const int units = z.units(block);
      V a[4];
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) {
        const int64_t n = (block * 4 + v) * N;
        V x = load(input + n), h = first_lanes<S>((load(sums + n) - hh.mean) * hh.scale, units);
        a[v] = fma(h, load(w.gain_hh + n), fma(x, load(w.gain_ih + n), load(w.bias + n)));
        if (!saved) continue;
        store(saved + n, x);
        store(saved + z.G + n, h);
      }
      V c_old = load_first(rows.c[row] + block * N, units);
      if (p.w_ch[d]) {
        a[0] = a[0] + c_old * load(w.peephole + block * 3 * N);
        a[1] = a[1] + c_old * load(w.peephole + (block * 3 + 1) * N);
      }
      V i = sigmoid(a[0]), f = sigmoid(a[1]), g = tanh(a[2]);
      V c = fma(f, c_old, i * g);
      if (p.w_ch[d]) a[3] = a[3] + c * load(w.peephole + (block * 3 + 2) * N);
      V o = sigmoid(a[3]);
      if (open) this->keep(open + block * N, i, f, g, o);
      store(m.cells + block * N, c);
      store(m.outputs + block * N, o);
    }
    const Moments<A> cell = moments<S, 1>(m.cells, z);
    if (saved) {
      const A statistics[STATISTICS] = {m.scale_ih[(input - chunk) / z.G], hh.scale, cell.mean, cell.scale};
      std::memcpy(saved + 2 * z.G, statistics, sizeof statistics);
    }
    for (int64_t block = 0; block < z.blocks; ++block) {
      V c = load(m.cells + block * N);
      V normalised = fma((c - cell.mean) * cell.scale, load(w.norm_c + block * 2 * N), load(w.norm_c + (block * 2 + 1) * N));
      this->hand_over(load(m.outputs + block * N) * tanh(normalised), c, row, block);
    }
  }

  // All rows of one step, a panel of them at a time.
  void step(int64_t count, int64_t first, int64_t last, bool reverse) {
    for (int64_t start = 0; start < count; start += m.panel) {
      const int64_t size = count - start < m.panel ? count - start : m.panel;
      for (int64_t n = first; n < last; ++n) {
        const int64_t block = reverse ? first + last - n - 1 : n;
        products(rows.h + start, size, w.hh + block * z.PP * 4 * N, z.P, block, m.products);
      }
      for (int64_t row = 0; row < size; ++row) finish(start + row, m.products + row * z.G);
    }
  }
};

}  // namespace TG_ISA
}  // namespace tg
