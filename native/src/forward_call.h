// All steps of one direction for one group of rows, and the memory that takes.
#pragma once

#include "forward.h"
#include "plan.h"

namespace tg {
namespace TG_ISA {

constexpr int64_t OWN_BYTES = 64 << 10;  // of a thread's own short-term memories, at most

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
