// One backward call on all threads: chunks of steps, each a recurrence and then its gradients.
#pragma once

#include "backward.h"
#include "plan.h"

namespace tg {
namespace TG_ISA {

template <class S>
struct BackwardShared {
  using A = typename Types<S>::A;
  Order order;
  int32_t* active;   // (T + 1,) rows that run at each step
  int32_t* base;     // first chunk row of each step of the chunk
  int64_t rows;      // of a chunk
  int64_t stride;    // between blocks of gate gradients: chunk rows, carried rows, a row of zeros
  S *d_gates, *panel_x, *panel_h, *w_hh, *w_ih;
  A *sums_x, *sums_h, *sums_b, *sums_p, *past, *carry_c, *carry_h, *keep;
  const S **row_x, **row_h;  // of the chunk's rows
  S** row_dx;
  const A** row_keep;
  Barrier *all, *teams;

  void take(Arena& arena, const tg_lstm& p, const Sizes<S>& z, int64_t threads) {
    const int64_t N = z.N, padded = z.blocks * N;
    rows = round_up(gradient_rows(z), 2);
    stride = (rows + z.B + 1) * 4 * N;
    all = arena.take<Barrier>(1);
    teams = arena.take<Barrier>(threads);
    order.take(arena, z.B);
    active = arena.take<int32_t>(z.T + 2);
    base = arena.take<int32_t>(rows + 2);
    d_gates = arena.take<S>(z.blocks * stride);
    panel_x = arena.take<S>(z.I * rows);
    panel_h = arena.take<S>(z.H * rows);
    w_hh = arena.take<S>(Transposed<S>::elements(z, z.H));
    w_ih = arena.take<S>(p.d_x ? Transposed<S>::elements(z, z.I) : 0);
    sums_x = arena.take<A>(z.I * z.G);
    sums_h = arena.take<A>(z.H * z.G);
    sums_b = arena.take<A>(z.G);
    sums_p = arena.take<A>(z.blocks * 3 * N);
    past = arena.take<A>(p.w_ch[0] ? rows * 2 * padded : 0);
    carry_c = arena.take<A>(z.B * padded);
    carry_h = arena.take<A>(p.zoneout_hidden > 0 ? z.B * padded : 0);
    keep = arena.take<A>(p.training && p.recurrent_dropout > 0 ? z.B * padded : 0);
    row_x = arena.take<const S*>(rows);
    row_h = arena.take<const S*>(rows);
    row_dx = arena.take<S*>(rows);
    row_keep = arena.take<const A*>(rows);
    if (!(p.zoneout_hidden > 0)) carry_h = nullptr;
    if (!(p.training && p.recurrent_dropout > 0)) keep = nullptr;
    if (!p.w_ch[0]) past = nullptr;
  }
};

template <class S>
struct BackwardCall {
  using A = typename Types<S>::A;
  static constexpr int64_t N = Types<S>::N;

  const tg_lstm& p;
  Sizes<S> z;
  BackwardShared<S>& m;
  int thread, threads;
  Split split;
  BackRows<S> rows;   // of this thread's group
  S* pairs;           // a K block of gate gradients in pairs, bfloat16 only
  A* d_x;             // a panel of d x

  BackwardCall(const tg_lstm& p, BackwardShared<S>& m, int thread, int threads)
      : p(p), z(p), m(m), thread(thread), threads(threads), split(split_threads(Sizes<S>(p), threads, true)) {}

  void take(Arena& arena) {
    rows.take(arena, z.B);
    pairs = arena.take<S>(Types<S>::PAIR == 2 ? K_BLOCK * 4 * N : 0);
    d_x = arena.take<A>(p.d_x ? ROW_PANEL * round_up(z.I, N) : 0);
  }

  void meet() {
    if (threads > 1) m.all->wait((uint32_t)threads);
  }

  void run() {
    if (thread == 0) {
      m.order.fill(p, m.active);
      int64_t count = z.B;
      for (int64_t s = 0; s <= z.T; ++s) {
        while (count > 0 && m.order.length[count - 1] <= s) --count;
        m.active[s] = (int32_t)count;
      }
    }
    meet();
    for (int d = 0; d < z.D; ++d) direction(d);
  }

  int64_t time(int d, int64_t rank, int64_t s) const { return from_end(p, d) ? m.order.length[rank] - 1 - s : s; }
  int64_t at(int d, int64_t t, int64_t b) const { return ((t * z.B + b) * z.D + d) * z.H; }
  S* gradient_row(int64_t row) const { return m.d_gates + row * 4 * N; }

  void direction(int d) {
    const int64_t padded = z.blocks * N;
    Transposed<S> hh(z, z.H, m.w_hh), ih(z, z.I, m.w_ih);
    for (int64_t n = thread; n < hh.panels(); n += threads) hh.pack(z, static_cast<const S*>(p.w_hh[d]), n);
    if (p.d_x)
      for (int64_t n = thread; n < ih.panels(); n += threads) ih.pack(z, static_cast<const S*>(p.w_ih[d]), n);
    for (int64_t n = thread; n < z.blocks; n += threads) {
      std::memset(m.d_gates + n * m.stride + (m.rows + z.B) * 4 * N, 0, 4 * N * sizeof(S));
      std::memset(m.sums_b + n * 4 * N, 0, 4 * N * sizeof(A));
      std::memset(m.sums_p + n * 3 * N, 0, 3 * N * sizeof(A));
    }
    Share mine(z.B, thread, threads);
    for (int64_t rank = mine.first; rank < mine.last; ++rank) {
      int64_t b = m.order.row[rank];
      if (m.keep) {
        A* keep = m.keep + rank * padded;
        bernoulli(keep, (int)padded, 0, (uint64_t)p.seed, threshold(p.recurrent_dropout), 0, b,
                  stream(p, d, RECURRENT_DROPOUT));
        for (int64_t u = 0; u < padded; ++u) keep[u] = (1 - keep[u]) * keep_scale<S>(p.recurrent_dropout);
      }
      if (d == 0 && p.d_x)
        for (int64_t t = m.order.length[rank]; t < z.T; ++t)
          std::memset(static_cast<S*>(p.d_x) + t * p.x_stride_t + b * p.x_stride_b, 0, z.I * sizeof(S));
    }

    Backward<S> back(p, d, hh, m.stride);
    back.rows = rows;
    back.past_stride = m.rows * 2 * N;
    back.carry_c = m.carry_c, back.carry_h = m.carry_h, back.keep = m.keep;
    const int64_t group = thread / split.team, member = thread % split.team;
    const bool working = group < split.groups;
    RowGroup own(p, working ? group : 0, split.groups);
    Share vectors(z.blocks, member, split.team);
    meet();

    bool fresh = true;
    int64_t high = m.order.longest;
    while (high > 0) {
      int64_t low = high, used = 0;
      while (low > 0 && (used == 0 || used + m.active[low - 1] <= m.rows)) used += m.active[--low];
      if (thread == 0) {
        int64_t first = 0;
        for (int64_t s = high - 1; s >= low; --s) {
          m.base[s - low] = (int32_t)first;
          first += m.active[s];
        }
      }
      meet();
      list_rows(d, low, high);
      if (working)
        for (int64_t s = high - 1; s >= low; --s) {
          int64_t count = step_rows(own, d, s, low, high);
          back.step(count, vectors.first, vectors.last);
          if (split.team > 1) m.teams[group].wait((uint32_t)split.team);
        }
      meet();
      pack(used);
      meet();
      gradients(ih, d, used, fresh);
      fresh = false;
      for (int64_t n = thread; n < z.blocks; n += threads)  // the step before continues from these
        std::memcpy(m.d_gates + n * m.stride + m.rows * 4 * N,
                    m.d_gates + n * m.stride + m.base[0] * 4 * N, m.active[low] * 4 * N * sizeof(S));
      meet();
      high = low;
    }
    if (working) {
      initial_rows(own, d);
      back.initial(own.count, vectors.first, vectors.last);
    }
    for (int64_t n = thread; n < z.blocks; n += threads) finish_block(d, n, fresh);
    meet();
  }

  // Where the columns of the chunk's rows come from.
  void list_rows(int d, int64_t low, int64_t high) {
    for (int64_t s = high - 1 - thread; s >= low; s -= threads)
      for (int64_t rank = 0; rank < m.active[s]; ++rank) {
        int64_t b = m.order.row[rank], t = time(d, rank, s), row = m.base[s - low] + rank;
        m.row_x[row] = static_cast<const S*>(p.x) + t * p.x_stride_t + b * p.x_stride_b;
        if (p.d_x) m.row_dx[row] = static_cast<S*>(p.d_x) + t * p.x_stride_t + b * p.x_stride_b;
        bool anew = starts_anew(p, d, t, b, m.order.length[rank]);
        m.row_h[row] = anew     ? nullptr
                       : s == 0 ? static_cast<const S*>(p.h_0) + (d * z.B + b) * z.H
                                : static_cast<const S*>(p.output) + at(d, from_end(p, d) ? t + 1 : t - 1, b);
        m.row_keep[row] = m.keep ? m.keep + rank * z.blocks * N : nullptr;
      }
  }

  int64_t step_rows(const RowGroup& own, int d, int64_t s, int64_t low, int64_t high) {
    const int64_t padded = z.blocks * N;
    int64_t count = 0;
    for (; count < own.count && own.rank(count) < m.active[s]; ++count) {
      int64_t rank = own.rank(count), b = m.order.row[rank], length = m.order.length[rank], t = time(d, rank, s);
      bool last = s + 1 == length, cut = !last && starts_anew(p, d, time(d, rank, s + 1), b, length);
      bool anew = starts_anew(p, d, t, b, length);
      int64_t next = last || cut ? m.rows + z.B : s + 1 < high ? m.base[s + 1 - low] + rank : m.rows + rank;
      int64_t state = (d * z.B + b) * z.H, here = at(d, t, b);
      rows.next[count] = gradient_row(next);
      rows.gates[count] = static_cast<const S*>(p.gates) + ((d * z.T + t) * z.B + b) * z.G;
      rows.d_output[count] =
          p.d_output ? static_cast<const S*>(p.d_output) + t * p.dy_stride_t + b * p.dy_stride_b + d * p.dy_stride_d
                     : nullptr;
      rows.d_cells[count] = p.d_cells ? static_cast<const A*>(p.d_cells) + here : nullptr;
      rows.c_new[count] = static_cast<const A*>(p.cells) + here;
      rows.c_old[count] = anew     ? zero_row()
                          : s == 0 ? static_cast<const A*>(p.c_0) + state
                                   : static_cast<const A*>(p.cells) + at(d, from_end(p, d) ? t + 1 : t - 1, b);
      rows.d_h[count] = last && p.d_h_n ? static_cast<const S*>(p.d_h_n) + state : nullptr;
      rows.d_c[count] = last  ? (p.d_c_n ? static_cast<const A*>(p.d_c_n) + state : nullptr)
                        : cut ? nullptr
                              : m.carry_c + rank * padded;
      rows.held[count] = last || cut || !m.carry_h ? nullptr : m.carry_h + rank * padded;
      rows.d_gates[count] = gradient_row(m.base[s - low] + rank);
      rows.past[count] = m.past ? m.past + (m.base[s - low] + rank) * 2 * N : nullptr;
      rows.t[count] = (int32_t)t, rows.b[count] = (int32_t)b, rows.local[count] = (int32_t)rank;
    }
    return count;
  }

  void initial_rows(const RowGroup& own, int d) {
    const int64_t padded = z.blocks * N;
    for (int64_t i = 0; i < own.count; ++i) {
      int64_t rank = own.rank(i), b = m.order.row[rank], length = m.order.length[rank];
      bool empty = length == 0, cut = !empty && starts_anew(p, d, time(d, rank, 0), b, length);
      int64_t state = (d * z.B + b) * z.H;
      rows.next[i] = gradient_row(empty || cut ? m.rows + z.B : m.rows + rank);
      rows.d_h[i] = empty && p.d_h_n ? static_cast<const S*>(p.d_h_n) + state : nullptr;
      rows.d_c[i] = empty ? (p.d_c_n ? static_cast<const A*>(p.d_c_n) + state : nullptr)
                    : cut ? nullptr
                          : m.carry_c + rank * padded;
      rows.held[i] = empty || cut || !m.carry_h ? nullptr : m.carry_h + rank * padded;
      rows.b[i] = (int32_t)b, rows.local[i] = (int32_t)rank;
    }
  }

  // As many zeros as a row of long-term memories has units.
  const A* zero_row() const { return zeros; }
  const A* zeros = nullptr;

  void pack(int64_t used) {
    constexpr int64_t UNIT = 16;  // whole pairs for every thread
    Share share((used + UNIT - 1) / UNIT, thread, threads);
    int64_t first = share.first * UNIT, last = share.last * UNIT < used ? share.last * UNIT : used;
    pack_columns(m.panel_x, m.rows, z.I, first, last, [&](int64_t row) { return m.row_x[row]; },
                 [](int64_t) { return (const A*)nullptr; });
    pack_columns(m.panel_h, m.rows, z.H, first, last, [&](int64_t row) { return m.row_h[row]; },
                 [&](int64_t row) { return m.row_keep[row]; });
  }

  void gradients(const Transposed<S>& ih, int d, int64_t used, bool fresh) {
    Gradients<S> g{z, m.d_gates, m.stride, m.rows};
    // Blocks and, where those are few, halves of their columns.
    int64_t parts = z.blocks % threads ? threads : 1;
    int64_t items = z.blocks * parts;
    Share share(items, thread, threads);
    for (int64_t row = 0; row < used; row += K_BLOCK) {
      int64_t count = used - row < K_BLOCK ? used - row : K_BLOCK;
      int64_t paired = -1;
      for (int64_t n = share.first; n < share.last; ++n) {
        int64_t block = n / parts, part = n % parts;
        if (Types<S>::PAIR == 2 && paired != block) g.pair_rows(paired = block, row, row + count, pairs);
        Share x(z.I, part, parts), h(z.H, part, parts);
        bool first = fresh && row == 0;
        g.weights(block, m.panel_x, z.I, x.first, x.last, row, count, m.sums_x + block * z.I * 4 * N, first, pairs);
        g.weights(block, m.panel_h, z.H, h.first, h.last, row, count, m.sums_h + block * z.H * 4 * N, first, pairs);
      }
    }
    for (int64_t n = thread; n < z.blocks; n += threads) {
      g.bias(n, used, m.sums_b);
      if (m.past) g.peephole(n, used, m.past, m.sums_p);
    }
    if (p.d_x) {
      Share share_x(used, thread, threads);
      g.inputs(ih, share_x.first, share_x.last, d == 1, d_x, [&](int64_t row) { return m.row_dx[row]; });
    }
  }

  void finish_block(int d, int64_t block, bool empty) {
    if (empty) {
      std::memset(m.sums_x + block * z.I * 4 * N, 0, z.I * 4 * N * sizeof(A));
      std::memset(m.sums_h + block * z.H * 4 * N, 0, z.H * 4 * N * sizeof(A));
    }
    unpack_block<S>(m.sums_x + block * z.I * 4 * N, z, z.I, block, static_cast<S*>(p.d_w_ih[d]));
    unpack_block<S>(m.sums_h + block * z.H * 4 * N, z, z.H, block, static_cast<S*>(p.d_w_hh[d]));
    int units = z.units(block);
    if (p.d_b[d])
      for (int64_t g = 0; g < 4; ++g)
        store_first(static_cast<S*>(p.d_b[d]) + g * z.H + block * N, load(m.sums_b + (block * 4 + g) * N), units);
    if (p.d_w_ch[d])
      for (int64_t g = 0; g < 3; ++g)
        store_first(static_cast<S*>(p.d_w_ch[d]) + g * z.H + block * N, load(m.sums_p + (block * 3 + g) * N), units);
  }
};

}  // namespace TG_ISA
}  // namespace tg
