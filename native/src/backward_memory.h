// What the threads of one backward call share.
#pragma once

#include "norm_backward.h"
#include "plan.h"

namespace tg {
namespace TG_ISA {

// Weight gradients of one part of the rows, as they are summed.
template <class S>
struct WeightSums {
  typename Types<S>::A *x, *h, *b, *p, *r;

  void take(Arena& arena, const Sizes<S>& z) {
    using A = typename Types<S>::A;
    x = arena.take<A>(z.I * z.G);
    h = arena.take<A>(z.P * z.G);
    b = arena.take<A>(z.G);
    p = arena.take<A>(z.blocks * 3 * z.N);
    r = arena.take<A>(z.quads() * z.P * 4 * z.N);
  }
};

// What the threads of one team share, for the part of the rows at hand.
template <class S>
struct BackwardShared {
  using A = typename Types<S>::A;
  Order order;       // of the part's rows
  int64_t count;     // of them
  int64_t capacity;  // the most rows that a part has
  int32_t* active;   // (T + 1,) rows that run at each step
  int32_t* base;     // first chunk row of each step of the chunk
  int64_t rows;      // of a chunk
  int64_t stride;    // between blocks of gate gradients: chunk rows, carried rows, a row of zeros
  S* d_input;        // with layer norm the input's products have other gradients than the recurrent ones
  S *d_gates, *panel_x, *panel_h, *w_hh, *w_ih;
  S *d_out, *panel_r, *shown, *w_hr;  // of the projection: its gradient [row][outs][N], that as panels, what it is of
  A *past, *carry_c, *carry_h, *keep;
  const S **row_x, **row_h;  // of the chunk's rows
  S** row_dx;
  const A** row_keep;
  Barrier *all, *teams;
  char* norm_weights;    // with layer norm only: bias, gains and peepholes as the forward pass reads them
  A* norm_sums;          // [bundle][block][NORM_SUMS][N]

  static int64_t rows_of(const Sizes<S>& z, int64_t part) { return round_up(gradient_rows(z, part), 2); }

  void take(Arena& arena, const tg_lstm& p, const Sizes<S>& z, int64_t part, int64_t threads) {
    const int64_t N = z.N, padded = z.blocks * N, outs = z.outs * N, projected = z.projects ? rows_of(z, part) : 0;
    capacity = part;
    rows = rows_of(z, part);
    stride = (rows + part + 1) * 4 * N;
    all = arena.take<Barrier>(1);
    teams = arena.take<Barrier>(threads);
    order.take(arena, part);
    active = arena.take<int32_t>(z.T + 2);
    base = arena.take<int32_t>(rows + 2);
    d_gates = arena.take<S>(z.blocks * stride);
    d_input = z.norm ? arena.take<S>(z.blocks * stride) : d_gates;
    panel_x = arena.take<S>(z.I * rows);
    panel_h = arena.take<S>(z.P * rows);
    w_hh = arena.take<S>(Panels<S>::elements(z.G, z.P));
    w_ih = arena.take<S>(p.d_x ? Panels<S>::elements(z.G, z.I) : 0);
    w_hr = arena.take<S>(z.projects ? Panels<S>::elements(z.P, z.H) : 0);
    d_out = arena.take<S>(projected * outs);
    panel_r = arena.take<S>(projected * z.P);
    shown = arena.take<S>(projected * z.quads() * 4 * N);
    past = arena.take<A>(p.w_ch[0] && !z.norm ? rows * 2 * padded : 0);
    carry_c = arena.take<A>(part * padded);
    carry_h = arena.take<A>(p.zoneout_hidden > 0 ? part * outs : 0);
    keep = arena.take<A>(p.training && p.recurrent_dropout > 0 ? part * outs : 0);
    row_x = arena.take<const S*>(rows);
    row_h = arena.take<const S*>(rows);
    row_dx = arena.take<S*>(rows);
    row_keep = arena.take<const A*>(rows);
    if (!(p.zoneout_hidden > 0)) carry_h = nullptr;
    if (!(p.training && p.recurrent_dropout > 0)) keep = nullptr;
    if (!p.w_ch[0] || z.norm) past = nullptr;
    norm_weights = arena.take<char>(z.norm ? PackedWeights<S>::vector_bytes(z) : 0);
    norm_sums = arena.take<A>(z.norm ? norm_bundles(z) * padded * NORM_SUMS : 0);
  }
};

}  // namespace TG_ISA
}  // namespace tg
