// The forward pass of one layer. See native/README.md for the drawing of a tile.
#pragma once

#include <type_traits>

#include "activations.h"
#include "pack.h"
#include "tile.h"
#include "zoneout.h"

namespace tg {
namespace TG_ISA {

constexpr int64_t CACHED_BYTES = 16 << 20;  // of what a call writes, at most

// Does a call write so much that little of it would be in the caches when it is read?
template <class S>
inline bool writes_past_caches(const tg_lstm& p, const Sizes<S>& z) {
  using A = typename Types<S>::A;
  int64_t row = z.P * (int64_t)sizeof(S);
  if (p.cells) row += z.H * (int64_t)sizeof(A);
  if (p.gates) row += z.saved * (int64_t)(p.open_gates ? sizeof(A) : sizeof(S));
  return VECTOR_BYTES == 64 && (uintptr_t)p.gates % 64 == 0 && z.T * z.B * z.D * row > CACHED_BYTES;
}

// Rows of one step as the tiles see them.
template <class S>
struct StepRows {
  using A = typename Types<S>::A;
  const S** x;       // input
  const S** h;       // short-term memory that the gates see
  const S** h_old;   // the same before recurrent dropout, for zoneout
  const A** c;       // long-term memory before the step
  S** h_new;         // what the next step reads; with a projection, what is projected to that
  S** output;        // where h goes too, or null: h_new is there already
  S **r_new, **r_output;  // the same of the projection of h
  A** c_new;
  S** gates;         // [4][PU], or null; A where they are open
  int32_t *t, *b;    // time and row, for the counters of random bits

  void take(Arena& arena, int64_t rows) {
    x = arena.take<const S*>(rows);
    h = arena.take<const S*>(rows);
    h_old = arena.take<const S*>(rows);
    c = arena.take<const A*>(rows);
    h_new = arena.take<S*>(rows);
    output = arena.take<S*>(rows);
    r_new = arena.take<S*>(rows);
    r_output = arena.take<S*>(rows);
    c_new = arena.take<A*>(rows);
    gates = arena.take<S*>(rows);
    t = arena.take<int32_t>(rows);
    b = arena.take<int32_t>(rows);
  }
};

template <class S>
struct Forward {
  using A = typename Types<S>::A;
  using V = typename Types<S>::V;
  static constexpr int64_t N = Types<S>::N;

  const tg_lstm& p;
  Sizes<S> z;
  PackedWeights<S> w;
  int d;
  bool streams;
  Zoneout<S> zoneout;
  bool plain;  // a whole block's last operations are those of every layer, and no others
  StepRows<S> rows;
  const A* projected = nullptr;  // gates from the input, [row][block][4][N], or null: part of the tile
  int64_t to_next = 0;           // from a row's input to that of its next step
  int64_t asking_block = 0;      // whose tiles ask for the inputs of the next step

  Forward(const tg_lstm& p, const void* packed, int d)
      : p(p), z(p), w(z, packed), d(d), streams(writes_past_caches(p, z)), zoneout(p, d),
        plain(!p.w_ch[d] && !zoneout.acts() && (!p.open_gates || std::is_same_v<S, A>)) {}

  // From the gates' sums of one row and block to both memories. Not inlined: the sums arrive in
  // registers, and one copy of this code serves the tiles of every shape. PLAIN: a whole block of a plain layer, where
  // finding out what there is to do would take a fifth of the time.
  template <bool PLAIN>
  __attribute__((noinline)) void finish(V a_i, V a_f, V a_g, V a_o, int64_t row, int64_t block) {
    const int64_t unit = block * N;
    V c_old = PLAIN ? load(rows.c[row] + unit) : load_first(rows.c[row] + unit, z.units(block));
    if (!PLAIN && p.w_ch[d]) {
      a_i = a_i + c_old * load(w.peephole + block * 3 * N);
      a_f = a_f + c_old * load(w.peephole + (block * 3 + 1) * N);
    }
    V i = sigmoid(a_i), f = sigmoid(a_f), g = tanh(a_g);
    V c = fma(f, c_old, i * g);
    if (!PLAIN && p.w_ch[d]) a_o = a_o + c * load(w.peephole + (block * 3 + 2) * N);
    V o = sigmoid(a_o);
    V h = o * tanh(c);
    if (S* gates = rows.gates[row]) {
      if (!PLAIN && p.open_gates)
        keep(reinterpret_cast<A*>(gates) + unit, i, f, g, o);
      else
        keep(gates + unit, i, f, g, o);
    }
    if (!PLAIN) return hand_over(h, c, row, block);
    store(rows.c_new[row] + unit, c);
    store(rows.h_new[row] + unit, h);
    if (S* output = rows.output[row]) store(output + unit, h);
  }

  template <class G>
  TG_INLINE void keep(G* gate, V v) const {
    if (streams) stream(gate, v);
    else store(gate, v);
  }
  template <class G>
  TG_INLINE void keep(G* gates, V i, V f, V g, V o) const {
    keep(gates, i);
    keep(gates + z.PU, f);
    keep(gates + 2 * z.PU, g);
    keep(gates + 3 * z.PU, o);
  }

  // The same of `count` rows of a plain layer, whose sums lie at [row][4][N]: first all long-term memories, then all
  // short-term ones, so that a row's operations run while those of the row before wait for each other.
  __attribute__((noinline)) void finish_rows(const A* sums, int64_t count, int64_t row, int64_t block) {
    const int64_t unit = block * N;
#pragma GCC unroll 1
    for (int64_t r = 0; r < count; ++r) finish_cell(sums + r * 4 * N, row + r, unit);
    int64_t r = 0;
#pragma GCC unroll 1
    for (; r + 2 <= count; r += 2) finish_hidden<2>(sums + r * 4 * N, row + r, unit);
    if (r < count) finish_hidden<1>(sums + r * 4 * N, row + r, unit);
  }
  TG_INLINE void finish_cell(const A* sums, int64_t row, int64_t unit) const {
    V ifg[3] = {load(sums), load(sums + N), load(sums + 2 * N)};
    activate<2>(ifg);
    store(rows.c_new[row] + unit, fma(ifg[1], load(rows.c[row] + unit), ifg[0] * ifg[2]));
    S* gates = rows.gates[row];
    for (int g = 0; g < 3 && gates; ++g) keep(gates + g * z.PU + unit, ifg[g]);
  }
  template <int R>
  TG_INLINE void finish_hidden(const A* sums, int64_t row, int64_t unit) const {
    V oc[2 * R];
    for (int r = 0; r < R; ++r) oc[r] = load(sums + (4 * r + 3) * N), oc[R + r] = load(rows.c_new[row + r] + unit);
    activate<R>(oc);
    for (int r = 0; r < R; ++r, ++row) {
      if (S* gates = rows.gates[row]) keep(gates + 3 * z.PU + unit, oc[r]);
      V h = oc[r] * oc[R + r];
      store(rows.h_new[row] + unit, h);
      if (S* output = rows.output[row]) store(output + unit, h);
    }
  }

  // Both memories of one row and block to where they belong, the old ones where zoneout keeps them.
  TG_INLINE void hand_over(V h, V c, int64_t row, int64_t block) {
    int units = z.units(block);
    int64_t unit = block * N;
    if (zoneout.acts()) {
      auto keep = zoneout.weights(unit, rows.t[row], rows.b[row]);
      if (!z.projects) h = mix(keep.hidden, load_first(rows.h_old[row] + unit, units), h);
      c = mix(keep.cell, load_first(rows.c[row] + unit, units), c);
    }
    store_first(rows.c_new[row] + unit, c, units);
    store_first(rows.h_new[row] + unit, h, units);
    if (S* output = rows.output[row]) store_first(output + unit, h, units);
  }

  // What `finish` will write of one row and U blocks, brought near while the tile is summed.
  template <int U>
  TG_INLINE void expect(int64_t row, int64_t block) const {
    const int64_t unit = block * N;
    const bool streamed = streams && (p.open_gates || Types<S>::PAIR == 1);
    for (int g = 0; g < 4 && !streamed; ++g)
      if (p.open_gates) prefetch<U, 1>(reinterpret_cast<const A*>(rows.gates[row]) + g * z.PU + unit);
      else prefetch<U, 1>(rows.gates[row] + g * z.PU + unit);
    prefetch<U, 1>(rows.c_new[row] + unit);
    prefetch<U, 1>((rows.output[row] ? rows.output[row] : rows.h_new[row]) + unit);
  }

  // R rows and U neighbouring blocks of units in one step. The input's part and the memory's part of
  // the gates are summed apart: one long chain of additions would lose half a digit. U blocks are U independent chains of
  // additions, which hides the latency of FMA when rows are few.
  template <int R, int U>
  TG_INLINE void tile(int64_t first, int64_t block) {
    Tile<S, R, 4> acc[U];
    alignas(VECTOR_BYTES) A own[U == 1 ? R * 4 * N : 1];  // the input's part where it is made here, then all of it
    const A* input[R];
    if (projected) {
      for (int r = 0; r < R; ++r) {
        input[r] = projected + (first + r) * z.G + block * 4 * N;
        if (R > 2) prefetch<4>(input[r]);  // it was written for many rows at once
      }
    } else if constexpr (U == 1) {
      const S* x[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        x[r] = rows.x[first + r];
        input[r] = own + r * 4 * N;
      }
      for (int r = 0; r < R && block == asking_block; ++r) prefetch_row(x[r] + to_next, z.I);
      tile_product<S, R, 4>(acc[0], x, w.ih + block * z.PI * 4 * N, 4 * N, z.I);
      put_biased<R>(acc[0], block, own, 4 * N);
    }
    const S* h[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) h[r] = rows.h[first + r];
    if (rows.gates[first])
      for (int r = 0; r < R; ++r) expect<U>(first + r, block);
    multiply<R, U>(acc, h, w.hh + block * z.PP * 4 * N, z.PP, z.P);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int u = 0; u < U; ++u)
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v) acc[u][r][v] = acc[u][r][v] + load(input[r] + (u * 4 + v) * N);
    if (!plain || z.units(block + U - 1) < N) return finish_tile<false>(acc, first, block);
    if constexpr (R * U < 3) {
      finish_tile<true>(acc, first, block);
    } else {
      tile_store<S, R, 4>(acc[0], own, 4 * N);
      finish_rows(own, R, first, block);
    }
  }

  template <bool PLAIN, int R, int U>
  TG_INLINE void finish_tile(const Tile<S, R, 4> (&acc)[U], int64_t first, int64_t block) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int u = 0; u < U; ++u)
        finish<PLAIN>(acc[u][r][0], acc[u][r][1], acc[u][r][2], acc[u][r][3], first + r, block + u);
  }

  // acc = a w of U blocks, whose weights are `padded` rows each.
  template <int R, int U>
  static TG_INLINE void multiply(Tile<S, R, 4> (&acc)[U], const S* const (&a)[R], const S* weights, int64_t padded,
                                 int64_t K) {
    if constexpr (U == 1) {
      tile_product<S, R, 4>(acc[0], a, weights, 4 * N, K);
    } else {
      constexpr int P = Types<S>::PAIR;
      alignas(VECTOR_BYTES) A sums[2][R * 4 * N];
      const S* other = weights + padded * 4 * N;
      int64_t k = 0;
      while (true) {
        const int64_t last = K - k > SUM_BLOCK ? k + SUM_BLOCK : K;
        tile_clear<S, R, 4>(acc[0]);
        tile_clear<S, R, 4>(acc[1]);
        for (; k + P <= last; k += P, weights += P * 4 * N, other += P * 4 * N) {
          auto operand = [&](int r) {
            if constexpr (P == 1) return a[r][k];
            else return load_pair(a[r] + k);
          };
          Product<S, R, 4>::add(acc[0], weights, operand);
          Product<S, R, 4>::add(acc[1], other, operand);
        }
        if (last == K) break;
        for (int u = 0; u < 2; ++u)
          if (k > SUM_BLOCK) tile_add<S, R, 4>(acc[u], sums[u], 4 * N);
          else tile_store<S, R, 4>(acc[u], sums[u], 4 * N);
      }
      if constexpr (P == 2)
        if (k < K) {
          auto operand = [&](int r) { return (uint32_t)a[r][k].bits; };
          Product<S, R, 4>::add(acc[0], weights, operand);
          Product<S, R, 4>::add(acc[1], other, operand);
        }
      if (K > SUM_BLOCK)
        for (int u = 0; u < 2; ++u) tile_join<S, R, 4>(acc[u], sums[u], 4 * N);
    }
  }

  // The input's part of the gates for `count` rows at once, blocks [first, last).
  void project(const S* const* x, int64_t count, int64_t first, int64_t last, A* to) {
    for (int64_t block = first; block < last; ++block) {
      if (z.gate_vectors(block) < 4) {
        project_shared(x, count, block, to);
        continue;
      }
      int64_t k = 0;
      do {  // a block of inputs for all rows, whose weights stay near; also of none, for the biases
        const int64_t inputs = z.I - k < SUM_BLOCK ? z.I - k : SUM_BLOCK;
        for_tiles(count, [&](int64_t row, auto size) {
          constexpr int R = decltype(size)::value;
          Tile<S, R, 4> acc;
          const S* a[R];
          for (int r = 0; r < R; ++r) a[r] = x[row + r] + k;
          A* at = to + row * z.G + block * 4 * N;
          tile_clear<S, R, 4>(acc);
          tile_multiply<S, R, 4>(acc, a, w.ih + (block * z.PI + k) * 4 * N, 4 * N, inputs);
          if (k) tile_join<S, R, 4>(acc, at, z.G);
          if (k + inputs == z.I) put_biased<R>(acc, block, at, z.G);
          else tile_store<S, R, 4>(acc, at, z.G);
        });
        k += SUM_BLOCK;
      } while (k < z.I);
    }
  }

  // Biases come last: among them the products of small inputs would lose digits.
  template <int R>
  TG_INLINE void put_biased(const Tile<S, R, 4>& acc, int64_t block, A* to, int64_t stride) const {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) store(to + r * stride + v * N, acc[r][v] + load(w.bias + (block * 4 + v) * N));
  }

  // The same of a block whose gates share vectors. Not inlined: the other tiles need all registers.
  __attribute__((noinline)) void project_shared(const S* const* x, int64_t count, int64_t block, A* to) const {
    for_tiles(count, [&](int64_t row, auto size) {
      constexpr int R = decltype(size)::value;
      const S* a[R];
      for (int r = 0; r < R; ++r) a[r] = x[row + r];
      shared_input<R>(a, block, to + row * z.G + block * 4 * N, z.G);
    });
  }

  // One tile of it.
  template <int R>
  void shared_input(const S* const (&x)[R], int64_t block, A* to, int64_t stride) const {
    Tile<S, R, 4> acc;
    shared_multiply<S, R>(acc, x, w.ih + block * z.PI * 4 * N, z.I, z.gate_vectors(block));
    put_biased<R>(acc, block, to, stride);
  }

  // A tile of such a block.
  template <int R>
  void shared_tile(int64_t first, int64_t block) {
    alignas(VECTOR_BYTES) A own[R * 4 * N];
    const A* input = own;
    int64_t stride = 4 * N;
    if (projected) {
      input = projected + first * z.G + block * 4 * N;
      stride = z.G;
    } else {
      const S* x[R];
      for (int r = 0; r < R; ++r) x[r] = rows.x[first + r];
      for (int r = 0; r < R && block == asking_block; ++r) prefetch_row(x[r] + to_next, z.I);
      shared_input<R>(x, block, own, stride);
    }
    const S* h[R];
    for (int r = 0; r < R; ++r) h[r] = rows.h[first + r];
    if (rows.gates[first])
      for (int r = 0; r < R; ++r) expect<1>(first + r, block);
    Tile<S, R, 4> acc[1];
    shared_multiply<S, R>(acc[0], h, w.hh + block * z.PP * 4 * N, z.P, z.gate_vectors(block));
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < 4; ++v) acc[0][r][v] = acc[0][r][v] + load(input + r * stride + v * N);
    finish_tile<false>(acc, first, block);
  }

  void step(int64_t count, int64_t block) {
    if (z.gate_vectors(block) < 4)
      for_tiles(count, [&](int64_t row, auto size) { shared_tile<decltype(size)::value>(row, block); });
    else
      for_tiles(count, [&](int64_t row, auto size) { tile<decltype(size)::value, 1>(row, block); });
  }

  // Are so many blocks of a single row taken by two? A tile's four chains of additions, a product every four cycles
  // each, take whole lines as fast as the L2 cache gives them; more chains pay where vectors are shorter, products
  // slower (bfloat16), or the weights wait in L1.
  bool pairs(int64_t blocks) const {
    if (VECTOR_BYTES < 64 || Types<S>::PAIR == 2) return true;
    return blocks * z.PP * 4 * N * (int64_t)sizeof(S) < (blocks > 2 ? 2 : 1) * l1_bytes();
  }

  // Blocks [first, last) of all rows; every other step in opposite order, as the weights used
  // last are still in the cache.
  void step(int64_t count, int64_t first, int64_t last, bool reverse) {
    asking_block = reverse ? last - 1 : first;
    const bool shared = last > first && z.gate_vectors(last - 1) < 4;  // the last block's gates do not fit a pair
    const int64_t whole = shared ? last - 1 : last, width = count == 1 && projected && pairs(whole - first) ? 2 : 1;
    if (shared && reverse) step(count, whole);
    for (int64_t n = first; n < whole; n += width) {
      if (width == 2 && n + 1 < whole)
        tile<1, 2>(0, reverse ? first + whole - n - 2 : n);
      else
        step(count, reverse ? first + whole - n - 1 : n);
    }
    if (shared && !reverse) step(count, whole);
  }

  // What all rows put out, vectors [first, last), once all of their units are done (Sak et al. 2014).
  void put_out(int64_t count, int64_t first, int64_t last, bool reverse) {
    const Panels<S> hr = projection(z, w);
    each_tile(count, first, last, reverse, [&](int64_t row, int64_t vector, auto size, auto width) {
      constexpr int R = decltype(size)::value, W = decltype(width)::value;
      alignas(VECTOR_BYTES) A sums[R * W * N];
      const S* h[R];
      for (int r = 0; r < R; ++r) h[r] = rows.h_new[row + r];
      product<S, R, W>(sums, W * N, h, hr.panel(vector), hr.stride(vector), z.H, OUTPUT_BLOCK);
      for (int r = 0; r < R; ++r)
        for (int v = 0; v < W; ++v) put_out(load(sums + (r * W + v) * N), row + r, vector + v);
    });
  }
  __attribute__((noinline)) void put_out(V r, int64_t row, int64_t vector) {
    const int units = z.outputs(vector);
    const int64_t unit = vector * N;
    if (zoneout.acts_on_outputs()) {
      auto keep = zoneout.weights(unit, rows.t[row], rows.b[row]);
      r = mix(keep.hidden, load_first(rows.h_old[row] + unit, units), r);
    }
    store_first(rows.r_new[row] + unit, r, units);
    if (S* output = rows.r_output[row]) store_first(output + unit, r, units);
  }
};

}  // namespace TG_ISA
}  // namespace tg
