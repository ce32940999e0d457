// The backward pass of one layer: the recurrence, one chunk of steps at a time. What it computes is
// derived in native/README.md; weight and input gradients of a chunk are in gradients.h.
#pragma once

#include "forward.h"
#include "gradients.h"

namespace tg {
namespace TG_ISA {

// Pointers of one step's rows.
template <class S>
struct BackRows {
  using A = typename Types<S>::A;
  const S** next;       // gate gradients of the step after, [block][4N] at `stride` apart, or `none`
  const S** gates;
  const S **x, **h;     // what the gates were computed from; h null for zeros
  const S** d_output;   // or null
  const A** d_cells;    // or null
  const A** c_old;      // long-term memory before the step
  const A** c_new;      // after it
  const S** d_h;        // a final state's gradient that enters here, or null
  const A** d_c;        // gradient of the long-term memory from the step after
  const A** held;       // gradient of the short-term memory past zoneout, or null
  S** d_gates;
  S **d_out, **shown;   // with a projection, its gradient [outs][N] and what it is of, quads of vectors `shown_stride` apart
  A** past;             // both long-term memories [2][N], blocks `past_stride` apart, for peephole gradients
  int32_t *t, *b, *local;

  void take(Arena& arena, int64_t n) {
    next = arena.take<const S*>(n);
    gates = arena.take<const S*>(n);
    x = arena.take<const S*>(n);
    h = arena.take<const S*>(n);
    d_output = arena.take<const S*>(n);
    d_cells = arena.take<const A*>(n);
    c_old = arena.take<const A*>(n);
    c_new = arena.take<const A*>(n);
    d_h = arena.take<const S*>(n);
    d_c = arena.take<const A*>(n);
    held = arena.take<const A*>(n);
    d_gates = arena.take<S*>(n);
    d_out = arena.take<S*>(n);
    shown = arena.take<S*>(n);
    past = arena.take<A*>(n);
    t = arena.take<int32_t>(n);
    b = arena.take<int32_t>(n);
    local = arena.take<int32_t>(n);
  }
};

template <class S>
struct Backward {
  using A = typename Types<S>::A;
  using V = typename Types<S>::V;
  static constexpr int64_t N = Types<S>::N, SUM_GATES = SUM_BLOCK / (4 * N);  // blocks whose products are summed in one

  const tg_lstm& p;
  Sizes<S> z;
  int d;
  Panels<S> w, hr;          // W_hh for products with gate gradients, W_hr for those with its gradient
  const S* peephole;        // (3, H) or null
  int64_t stride;           // between blocks of gate gradients
  int64_t past_stride = 0, shown_stride = 0;
  Zoneout<S> zoneout;
  BackRows<S> rows;
  const S* none = nullptr;  // the zeros of a row without a step after
  A* carry_c;               // [local row][blocks * N]
  A* carry_h;               // [local row][outs * N], where zoneout acts on the short-term memory, or null
  const A* keep;            // the same, recurrent dropout, or null

  Backward(const tg_lstm& p, int d, Panels<S> w, Panels<S> hr, int64_t stride)
      : p(p), z(p), d(d), w(w), hr(hr), peephole(static_cast<const S*>(p.w_ch[d])), stride(stride),
        zoneout(p, d) {}

  // sums[R][W][N] = d h of the step before, as far as it comes through the gates; `expects` asks meanwhile for what
  // `finish` will read. Not inlined: one copy of these tiles serves all that need them.
  template <int R, int W>
  __attribute__((noinline)) void recur(A* sums, int64_t first, int64_t vector, bool expects) {
    Tile<S, R, W> acc;
    tile_clear<S, R, W>(acc);
    const S* a[R];
    bool any = false;
    for (int r = 0; r < R; ++r) a[r] = rows.next[first + r], any |= a[r] != none;
    const S* weights = w.panel(vector);
    const int64_t width = w.stride(vector), blocks = any ? z.blocks : 0;  // none: no row goes on, or the first step of all
    for (int64_t block = 0; block < blocks; ++block) {
      if (block && block % SUM_GATES == 0) {
        if (block > SUM_GATES) tile_add<S, R, W>(acc, sums, W * N);
        else tile_store<S, R, W>(acc, sums, W * N);
        tile_clear<S, R, W>(acc);
      }
      for (int64_t r = block; expects && r < R; r += blocks) expect<W>(first + r, vector);
      multiply_gates<S, R, W>(acc, a, weights, width, z.units(block));
      weights += width * 4 * N;
      for (int r = 0; r < R; ++r) a[r] += stride;
    }
    if (blocks > SUM_GATES) tile_join<S, R, W>(acc, sums, W * N);
    tile_store<S, R, W>(acc, sums, W * N);
    for (int r = 0; r < R; ++r)  // zeros times a weight that is infinite are NaN
      if (rows.next[first + r] == none) std::memset(sums + r * W * N, 0, W * N * sizeof(A));
  }

  // sums[R][W][N] = d h of the step itself, where h is projected to its output.
  template <int R, int W>
  TG_INLINE void project_back(A* sums, int64_t first, int64_t vector) {
    const S* a[R];
    for (int r = 0; r < R; ++r) a[r] = rows.d_out[first + r];
    product<S, R, W>(sums, W * N, a, hr.panel(vector), hr.stride(vector), z.P);
  }

  // What `finish` will read of one row, and the chunk's gradients after it, brought near while the tile is summed.
  template <int W>
  TG_INLINE void expect(int64_t row, int64_t vector) const {
    const int64_t unit = vector * N;
    for (int g = 0; g < 4; ++g) prefetch<W, 0, 0>(rows.gates[row] + g * z.PU + unit);  // read this once
    prefetch<W>(rows.c_old[row] + unit);
    prefetch<W>(rows.c_new[row] + unit);
    if (rows.d_output[row] && !z.projects) prefetch<W>(rows.d_output[row] + unit);
    if (rows.d_cells[row]) prefetch<W>(rows.d_cells[row] + unit);
    if (rows.h[row] && unit < z.P) prefetch<W>(rows.h[row] + unit);
    if (vector == 0) prefetch_row(rows.x[row], z.I);
  }

  // The gradient that reaches h of the step, or its projection, from its sum over the gates of the step after.
  TG_INLINE V hidden_gradient(V acc, int64_t row, int64_t vector) {
    int64_t unit = vector * N, local = rows.local[row] * z.outs * N + unit;
    if (keep) acc = acc * load(keep + local);
    if (rows.d_h[row]) acc = acc + load_first(rows.d_h[row] + unit, z.outputs(vector));
    if (rows.held[row]) acc = acc + load(rows.held[row] + unit);
    return acc;
  }
  // The same and what comes from the output, of which zoneout lets a part past the step.
  TG_INLINE V output_gradient(V d_h, int64_t row, int64_t vector, V held) {
    if (rows.d_output[row]) d_h = d_h + load_first(rows.d_output[row] + vector * N, z.outputs(vector));
    if (!carry_h) return d_h;
    store(carry_h + (rows.local[row] * z.outs + vector) * N, held * d_h);
    return (V{} + 1 - held) * d_h;
  }

  // The gradients of what `count` rows from `start` on put out, vectors [first, last).
  void outputs(int64_t start, int64_t count, int64_t first, int64_t last, bool reverse) {
    each_tile(count, first, last, reverse, [&](int64_t row, int64_t vector, auto size, auto width) {
      constexpr int R = decltype(size)::value, W = decltype(width)::value;
      alignas(VECTOR_BYTES) A sums[R * W * N];
      recur<R, W>(sums, start + row, vector, false);
      for (int r = 0; r < R; ++r)
        for (int v = 0; v < W; ++v) put_out(load(sums + (r * W + v) * N), start + row + r, vector + v);
    });
  }
  __attribute__((noinline)) void put_out(V acc, int64_t row, int64_t vector) {
    V held{};
    if (zoneout.acts_on_outputs()) held = zoneout.weights(vector * N, rows.t[row], rows.b[row]).hidden;
    store(rows.d_out[row] + vector * N, output_gradient(hidden_gradient(acc, row, vector), row, vector, held));
  }

  // Keeps o tanh c for the gradient of the projection.
  TG_INLINE void show(V h, int64_t row, int64_t vector) {
    store(rows.shown[row] + vector / 4 * shown_stride + vector % 4 * N, h);
  }

  __attribute__((noinline)) void finish(V acc, int64_t row, int64_t vector) {
    const V one = V{} + 1;
    int units = z.units(vector);
    int64_t unit = vector * N, local = rows.local[row] * z.blocks * N + unit;
    V d_h = z.projects ? acc : hidden_gradient(acc, row, vector);
    V d_c = rows.d_c[row] ? load_first(rows.d_c[row] + unit, units) : V{};
    if (rows.d_cells[row]) d_c = d_c + load_first(rows.d_cells[row] + unit, units);

    const S* gates = rows.gates[row] + unit;
    V i = load(gates), f = load(gates + z.PU), g = load(gates + 2 * z.PU), o = load(gates + 3 * z.PU);
    if (units < N) {  // lanes past the last unit may hold NaN, 0 times an infinite input; as zeros they reach no sum
      i = load_first(gates, units), f = load_first(gates + z.PU, units);
      g = load_first(gates + 2 * z.PU, units), o = load_first(gates + 3 * z.PU, units);
    }
    V c_old = load_first(rows.c_old[row] + unit, units);
    V c = load_first(rows.c_new[row] + unit, units);
    V held_h{}, held_c{};
    if (zoneout.acts()) {
      auto keep = zoneout.weights(unit, rows.t[row], rows.b[row]);
      held_h = keep.hidden;
      held_c = keep.cell * d_c;
      d_c = (one - keep.cell) * d_c;
      if (p.zoneout_cell != 0.0) c = fma(f, c_old, i * g);
    }
    if (!z.projects) d_h = output_gradient(d_h, row, vector, held_h);
    const V tanh_c = tanh(c), d_o = of_output(d_h, o, tanh_c);
    if (z.projects) show(o * tanh_c, row, vector);
    d_c = fma(d_h * o, one - tanh_c * tanh_c, d_c);
    if (peephole) d_c = fma(d_o, load_first(peephole + 2 * z.H + unit, units), d_c);
    const auto [d_i, d_f, d_g] = of_cell(d_c, i, f, g, c_old);
    V d_c_old = fma(d_c, f, held_c);
    if (peephole) {
      d_c_old = fma(d_i, load_first(peephole + unit, units), d_c_old);
      d_c_old = fma(d_f, load_first(peephole + z.H + unit, units), d_c_old);
      store(rows.past[row] + vector * past_stride, c_old);
      store(rows.past[row] + vector * past_stride + N, c);
    }
    store(carry_c + local, d_c_old);
    hand_over(d_i, d_f, d_g, d_o, row, vector);
  }

  // Does a row end here, or begin, or bring more than an output's gradient?
  bool special(int64_t row) const {
    if (!rows.d_c[row] || rows.d_cells[row]) return true;
    return !z.projects && (!rows.d_output[row] || rows.d_h[row] || rows.held[row]);
  }

  // The same of one row and W whole vectors of a plain layer, whose sums lie at [W][N]; not where the row is special.
  template <int W, bool PROJECTS>
  __attribute__((noinline)) void finish_vectors(const A* sums, int64_t row, int64_t vector) {
    const V one = V{} + 1;
    const int64_t unit = vector * N;
    const S *gates = rows.gates[row] + unit, *d_output = PROJECTS ? nullptr : rows.d_output[row] + unit;
    const A *c_old = rows.c_old[row] + unit, *c_new = rows.c_new[row] + unit, *d_c_new = rows.d_c[row] + unit;
    A* carry = carry_c + rows.local[row] * z.blocks * N + unit;
    V tanh_c[W];
    for (int v = 0; v < W; ++v) tanh_c[v] = load(c_new + v * N);
    activate<0>(tanh_c);
#pragma GCC unroll 4
    for (int v = 0; v < W; ++v) {
      const S* gate = gates + v * N;
      V i = load(gate), f = load(gate + z.PU), g = load(gate + 2 * z.PU), o = load(gate + 3 * z.PU);
      V d_h = load(sums + v * N);
      if constexpr (PROJECTS) show(o * tanh_c[v], row, vector + v);
      else d_h = d_h + load(d_output + v * N);
      V d_c = fma(d_h * o, one - tanh_c[v] * tanh_c[v], load(d_c_new + v * N));
      const auto [d_i, d_f, d_g] = of_cell(d_c, i, f, g, load(c_old + v * N));
      store(carry + v * N, fma(d_c, f, V{}));
      hand_over(d_i, d_f, d_g, of_output(d_h, o, tanh_c[v]), row, vector + v);
    }
  }

  // Gradients of the gates, from those that reach h and c of the step.
  static TG_INLINE V of_output(V d_h, V o, V tanh_c) { return d_h * tanh_c * o * (V{} + 1 - o); }
  struct OfCell {
    V i, f, g;
  };
  static TG_INLINE OfCell of_cell(V d_c, V i, V f, V g, V c_old) {
    const V one = V{} + 1;
    return {d_c * g * i * (one - i), d_c * c_old * f * (one - f), d_c * i * (one - g * g)};
  }
  TG_INLINE void hand_over(V d_i, V d_f, V d_g, V d_o, int64_t row, int64_t vector) {
    S* to = rows.d_gates[row] + vector * stride;
    store(to, d_i);
    store(to + N, d_f);
    store(to + 2 * N, d_g);
    store(to + 3 * N, d_o);
  }

  // All rows of one step, unit vectors [first, last); `reverse` as in the forward pass.
  void step(int64_t count, int64_t first, int64_t last, bool reverse) {
    const bool plain = !peephole && !zoneout.acts() && (z.projects || !keep);
    each_tile(count, first, last, reverse, [&](int64_t row, int64_t vector, auto size, auto width) {
      constexpr int R = decltype(size)::value, W = decltype(width)::value;
      alignas(VECTOR_BYTES) A sums[R * W * N];
      if (z.projects) {
        for (int64_t r = 0; r < R; ++r) expect<W>(row + r, vector);
        project_back<R, W>(sums, row, vector);
      } else {
        recur<R, W>(sums, row, vector, true);
      }
      finish_tile<W>(sums, R, row, vector, plain && z.units(vector + W - 1) == N);
    });
  }
  template <int W>
  __attribute__((noinline)) void finish_tile(const A* sums, int64_t count, int64_t row, int64_t vector, bool whole) {
    for (int64_t r = 0; r < count; ++r, ++row, sums += W * N)
      if (whole && !special(row))
        z.projects ? finish_vectors<W, true>(sums, row, vector) : finish_vectors<W, false>(sums, row, vector);
      else
        for (int v = 0; v < W; ++v) finish(load(sums + v * N), row, vector + v);
  }

  // The gradients of the initial states, which close the recurrence: vectors `outs` of h_0, `blocks` of c_0.
  void initial(int64_t count, Share outs, Share blocks) {
    if (p.d_h_0)
      each_tile(count, outs.first, outs.last, false, [&](int64_t row, int64_t vector, auto size, auto width) {
        constexpr int R = decltype(size)::value, W = decltype(width)::value;
        alignas(VECTOR_BYTES) A sums[R * W * N];
        recur<R, W>(sums, row, vector, false);
        for (int r = 0; r < R; ++r)
          for (int v = 0; v < W; ++v) put_initial(load(sums + (r * W + v) * N), row + r, vector + v);
      });
    for (int64_t row = 0; p.d_c_0 && row < count; ++row)
      for (int64_t n = blocks.first; n < blocks.last; ++n)
        store_first(static_cast<A*>(p.d_c_0) + (d * z.B + rows.b[row]) * z.H + n * N,
                    rows.d_c[row] ? load_first(rows.d_c[row] + n * N, z.units(n)) : V{}, z.units(n));
  }
  __attribute__((noinline)) void put_initial(V acc, int64_t row, int64_t vector) {
    store_first(static_cast<S*>(p.d_h_0) + (d * z.B + rows.b[row]) * z.P + vector * N, hidden_gradient(acc, row, vector),
                z.outputs(vector));
  }
};

}  // namespace TG_ISA
}  // namespace tg
