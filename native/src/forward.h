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
constexpr int64_t OWN_BYTES = 64 << 10;     // of a thread's own short-term memories, at most

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
      tile_load<S, R, 4>(acc[0], w.bias + block * 4 * N, 0);
      tile_multiply<S, R, 4>(acc[0], x, w.ih + block * z.PI * 4 * N, 4 * N, z.I);
      tile_store<S, R, 4>(acc[0], own, 4 * N);
    }
    const S* h[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) h[r] = rows.h[first + r];
    if (rows.gates[first])
      for (int r = 0; r < R; ++r) expect<U>(first + r, block);
#pragma GCC unroll 2
    for (int u = 0; u < U; ++u) tile_clear<S, R, 4>(acc[u]);
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

  template <int R, int U>
  static TG_INLINE void multiply(Tile<S, R, 4> (&acc)[U], const S* const (&a)[R], const S* weights, int64_t padded,
                                 int64_t K) {
    if constexpr (U == 1) {
      tile_multiply<S, R, 4>(acc[0], a, weights, 4 * N, K);
    } else {
      constexpr int P = Types<S>::PAIR;
      const S* other = weights + padded * 4 * N;
      int64_t k = 0;
      for (; k + P <= K; k += P, weights += P * 4 * N, other += P * 4 * N) {
        auto operand = [&](int r) {
          if constexpr (P == 1) return a[r][k];
          else return load_pair(a[r] + k);
        };
        Product<S, R, 4>::add(acc[0], weights, operand);
        Product<S, R, 4>::add(acc[1], other, operand);
      }
      if constexpr (P == 2)
        if (k < K) {
          auto operand = [&](int r) { return (uint32_t)a[r][k].bits; };
          Product<S, R, 4>::add(acc[0], weights, operand);
          Product<S, R, 4>::add(acc[1], other, operand);
        }
    }
  }

  // The input's part of the gates for `count` rows at once, blocks [first, last).
  void project(const S* const* x, int64_t count, int64_t first, int64_t last, A* to) {
    for (int64_t block = first; block < last; ++block)
      for_tiles(count, [&](int64_t row, auto size) {
        constexpr int R = decltype(size)::value;
        Tile<S, R, 4> acc;
        const S* a[R];
        for (int r = 0; r < R; ++r) a[r] = x[row + r];
        tile_load<S, R, 4>(acc, w.bias + block * 4 * N, 0);
        tile_multiply<S, R, 4>(acc, a, w.ih + block * z.PI * 4 * N, 4 * N, z.I);
        tile_store<S, R, 4>(acc, to + row * z.G + block * 4 * N, z.G);
      });
  }

  void step(int64_t count, int64_t block) {
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
    const int64_t width = count == 1 && projected && pairs(last - first) ? 2 : 1;
    for (int64_t n = first; n < last; n += width) {
      if (width == 2 && n + 1 < last)
        tile<1, 2>(0, reverse ? first + last - n - 2 : n);
      else
        step(count, reverse ? first + last - n - 1 : n);
    }
  }

  // What all rows put out, vectors [first, last), once all of their units are done (Sak et al. 2014).
  void put_out(int64_t count, int64_t first, int64_t last, bool reverse) {
    const Panels<S> hr = projection(z, w);
    each_tile(count, first, last, reverse, [&](int64_t row, int64_t vector, auto size, auto width) {
      constexpr int R = decltype(size)::value, W = decltype(width)::value;
      Tile<S, R, W> acc;
      const S* h[R];
      for (int r = 0; r < R; ++r) h[r] = rows.h_new[row + r];
      tile_clear<S, R, W>(acc);
      tile_multiply<S, R, W>(acc, h, hr.panel(vector), hr.stride(vector), z.H);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < W; ++v) put_out(acc[r][v], row + r, vector + v);
    });
  }
  TG_INLINE void put_out(V r, int64_t row, int64_t vector) {
    const int units = z.outputs(vector);
    const int64_t unit = vector * N;
    if (zoneout.acts()) {
      auto keep = zoneout.weights(unit, rows.t[row], rows.b[row]);
      r = mix(keep.hidden, load_first(rows.h_old[row] + unit, units), r);
    }
    store_first(rows.r_new[row] + unit, r, units);
    if (S* output = rows.r_output[row]) store_first(output + unit, r, units);
  }
};

// What one thread needs to run a group of rows.
template <class S>
struct ForwardScratch {
  using A = typename Types<S>::A;
  StepRows<S> rows;
  const S** h;     // (rows,) each row's current short-term memory
  const A** c;
  const S** x;     // inputs of a chunk of projected rows
  A* projected;    // [chunk row][G]
  A* state;        // [row][H] long-term memories where they are not an output
  A* keep;         // [row][P] recurrent dropout
  S* dropped;      // [row][P] short-term memories under it
  S* own;          // [2][row][PP] short-term memories after this step and the one before, where they are kept apart
  S* zero_h;
  A* zero_c;

  void take(Arena& arena, const tg_lstm& p, const Sizes<S>& z, int64_t count, int64_t chunk_rows, bool apart) {
    rows.take(arena, count);
    h = arena.take<const S*>(count);
    c = arena.take<const A*>(count);
    x = arena.take<const S*>(chunk_rows);
    projected = arena.take<A>(chunk_rows * z.G);
    state = arena.take<A>(p.cells ? 0 : count * z.H);
    keep = arena.take<A>(p.training && p.recurrent_dropout > 0 ? count * z.P : 0);
    dropped = arena.take<S>(p.training && p.recurrent_dropout > 0 ? count * z.P : 0);
    own = arena.take<S>(apart ? 2 * count * z.PP : 0);
    if (!apart) own = nullptr;
    zero_h = arena.take<S>(z.PP);
    zero_c = arena.take<A>(z.H);
  }
};

// One direction, one group of rows, a member's share of the blocks; the threads of the team, which share the group's
// blocks, meet at the barrier after every step. `shown` [rank][PU] holds what is projected.
template <class F, class S>
void forward_group(F& f, ForwardScratch<S>& m, const Order& order, RowGroup group, int64_t member, int64_t chunk_rows,
                   Barrier* barrier, int64_t team, S* shown) {
  using A = typename Types<S>::A;
  const tg_lstm& p = f.p;
  const Sizes<S>& z = f.z;
  const int64_t d = f.d, H = z.H, P = z.P;
  const bool dropout = p.training && p.recurrent_dropout > 0;
  f.rows = m.rows;
  std::memset(m.zero_h, 0, z.PP * sizeof(S));
  std::memset(m.zero_c, 0, H * sizeof(A));
  f.to_next = from_end(p, d) ? -p.x_stride_t : p.x_stride_t;

  const Share blocks(z.blocks, member, team), outs(z.outs, member, team);
  const int64_t first = blocks.first, last = blocks.last;
  const int64_t unit0 = first * z.N, unit1 = last * z.N < H ? last * z.N : H;
  const int64_t out0 = outs.first * z.N, out1 = outs.last * z.N < P ? outs.last * z.N : P;
  auto output = static_cast<S*>(p.output);
  auto at = [&](int64_t t, int64_t b) { return (t * z.B + b) * z.D + d; };
  auto clear = [&](void* to, int64_t bytes) {
    if (f.streams) stream_zeros(to, bytes);
    else std::memset(to, 0, bytes);
  };
  for (int64_t i = 0; i < group.count; ++i) {
    int64_t b = order.row[group.rank(i)], length = order.length[group.rank(i)];
    m.h[i] = p.h_0 ? static_cast<const S*>(p.h_0) + (d * z.B + b) * P : m.zero_h;
    m.c[i] = p.c_0 ? static_cast<const A*>(p.c_0) + (d * z.B + b) * H : m.zero_c;
    for (int64_t t = length; t < z.T; ++t) {
      clear(output + at(t, b) * P + out0, (out1 - out0) * sizeof(S));
      if (p.cells) clear(static_cast<A*>(p.cells) + at(t, b) * H + unit0, (unit1 - unit0) * sizeof(A));
      if (!p.open_gates) continue;
      A* gates = static_cast<A*>(p.gates) + ((d * z.T + t) * z.B + b) * z.saved;
      if (team == 1) clear(gates, z.saved * sizeof(A));
      else
        for (int64_t gate = 0; gate < 4; ++gate)
          clear(gates + gate * z.saved / 4 + unit0, (unit1 - unit0) * sizeof(A));
    }
    if (dropout) {
      bernoulli(m.keep + i * P, (int)P, 0, (uint64_t)p.seed, threshold(p.recurrent_dropout), 0, b,
                stream(p, d, RECURRENT_DROPOUT));
      for (int64_t u = 0; u < P; ++u)
        m.keep[i * P + u] = (1 - m.keep[i * P + u]) * keep_scale<S>(p.recurrent_dropout);
    }
  }

  // Where a thread's last call ended, this one begins: those weights are still in the cache.
  static thread_local int64_t turn = 0;
  const int64_t begun = turn;
  turn += order.longest;
  int64_t count = group.count, projected_to = 0;
  uint64_t met = 0;  // what the threads of the team meet at; each prepares its next step before it waits for the others
  const A* projected = nullptr;
  for (int64_t s = 0; s < order.longest; ++s) {
    while (count > 0 && order.length[group.rank(count - 1)] <= s) --count;
    auto time = [&](int64_t i, int64_t step) { return from_end(p, d) ? order.length[group.rank(i)] - 1 - step : step; };
    auto input = [&](int64_t i, int64_t step) {
      return static_cast<const S*>(p.x) + time(i, step) * p.x_stride_t + order.row[group.rank(i)] * p.x_stride_b;
    };
    if (chunk_rows && s == projected_to && count) {
      int64_t used = 0, active = count;
      while (projected_to < order.longest) {
        while (active > 0 && order.length[group.rank(active - 1)] <= projected_to) --active;
        if (used && used + active > chunk_rows) break;
        for (int64_t i = 0; i < active; ++i) m.x[used++] = input(i, projected_to);
        ++projected_to;
        if (active == 0) break;
      }
      f.project(m.x, used, first, last, m.projected);
      projected = m.projected;
    }
    if (dropout && team > 1) barrier->await(met);
    for (int64_t i = 0; i < count; ++i) {
      int64_t rank = group.rank(i), b = order.row[rank], t = time(i, s);
      bool anew = starts_anew(p, d, t, b, order.length[rank]);
      const S* h = anew ? m.zero_h : m.h[i];
      m.rows.x[i] = input(i, s);
      m.rows.h[i] = m.rows.h_old[i] = h;
      m.rows.c[i] = anew ? m.zero_c : m.c[i];
      S *to = output + at(t, b) * P, *h_new = m.own ? m.own + ((s & 1) * group.count + i) * z.PP : to;
      (z.projects ? m.rows.r_new : m.rows.h_new)[i] = h_new;
      (z.projects ? m.rows.r_output : m.rows.output)[i] = m.own ? to : nullptr;
      if (z.projects) m.rows.h_new[i] = shown + rank * z.PU, m.rows.output[i] = nullptr;
      m.rows.c_new[i] = p.cells ? static_cast<A*>(p.cells) + at(t, b) * H : m.state + i * H;
      const int64_t saved = ((d * z.T + t) * z.B + b) * z.saved;
      m.rows.gates[i] = !p.gates       ? nullptr
                        : p.open_gates ? reinterpret_cast<S*>(static_cast<A*>(p.gates) + saved)
                                       : static_cast<S*>(p.gates) + saved;
      m.rows.t[i] = (int32_t)t, m.rows.b[i] = (int32_t)b;
      if (dropout) {
        for (int64_t u = 0; u < P; ++u)
          from_accumulator(m.dropped[i * P + u], to_accumulator(h[u]) * m.keep[i * P + u]);
        m.rows.h[i] = m.dropped + i * P;
      }
      m.h[i] = h_new;
      m.c[i] = m.rows.c_new[i];
    }
    f.projected = projected;
    if (team > 1) barrier->await(met);
    if (team > 1 && count < 4)  // the units of other threads, which come while the first products run
      for (int64_t i = 0; i < count; ++i) prefetch_row(m.rows.h[i], P);
    if (count) f.step(count, first, last, (begun + s) & 1);
    if (z.projects) {
      if (team > 1) barrier->wait((uint32_t)team);
      f.put_out(count, outs.first, outs.last, (begun + s) & 1);
    }
    if (projected) projected += count * z.G;
    if (team > 1) met = barrier->arrive((uint32_t)team);
  }
  if (team > 1) barrier->await(met);  // none is at the next direction's steps before all have done these
  if (f.streams) stream_end();
  for (int64_t i = 0; i < group.count; ++i) {
    const int64_t to = d * z.B + order.row[group.rank(i)];
    std::memmove(static_cast<S*>(p.h_n) + to * P + out0, m.h[i] + out0, (out1 - out0) * sizeof(S));
    std::memmove(static_cast<A*>(p.c_n) + to * H + unit0, m.c[i] + unit0, (unit1 - unit0) * sizeof(A));
  }
}

}  // namespace TG_ISA
}  // namespace tg
