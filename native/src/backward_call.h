// One backward call on all threads: chunks of steps, each a recurrence and then its gradients.
#pragma once

#include <vector>

#include "backward_memory.h"

namespace tg {
namespace TG_ISA {

template <class S>
struct BackwardCall {
  using A = typename Types<S>::A;
  static constexpr int64_t N = Types<S>::N;

  const tg_lstm& p;
  Sizes<S> z;
  const Order& whole;                        // of all rows
  const std::vector<WeightSums<S>>& parts;
  BackwardShared<S>& m;
  int team, teams;                           // this thread's, of how many
  int thread, threads;                       // this one, of how many in the team
  WeightSums<S> sums;                        // of the part at hand
  Split split;
  BackRows<S> rows;   // of this thread's group
  S* scratch;         // a K block of gate gradients, where they have to be laid out otherwise
  A* d_x;             // a panel of d x
  A *d_hidden, *norm_values;  // with layer norm, what its steps need

  BackwardCall(const tg_lstm& p, const Order& whole, const std::vector<WeightSums<S>>& parts, BackwardShared<S>& m,
               int team, int teams, int thread, int threads)
      : p(p), z(p), whole(whole), parts(parts), m(m), team(team), teams(teams), thread(thread), threads(threads),
        split(split_threads(z, m.capacity, threads, true)) {}

  void take(Arena& arena) {
    rows.take(arena, m.capacity);
    scratch = arena.take<S>(K_BLOCK * 4 * N);
    d_x = arena.take<A>(p.d_x ? ROW_PANEL * round_up(z.I, N) : 0);
    d_hidden = arena.take<A>(z.norm ? norm_panel(z) * z.blocks * N : 0);
    norm_values = arena.take<A>(z.norm ? z.blocks * NORM_ROW * N : 0);
  }

  void meet() {
    if (threads > 1) m.all->wait((uint32_t)threads);
  }

  // `all_meet` is where all teams do.
  template <class F>
  void run(F all_meet) {
    for (int d = 0; d < z.D; ++d) {
      const Panels<S> hh(z.G, z.P, m.w_hh), ih(z.G, z.I, m.w_ih), hr(z.P, z.H, m.w_hr);
      for (int64_t n = thread; n < hh.panels(); n += threads) hh.pack_gates(z, static_cast<const S*>(p.w_hh[d]), n);
      for (int64_t n = thread; p.d_x && n < ih.panels(); n += threads)
        ih.pack_gates(z, static_cast<const S*>(p.w_ih[d]), n);
      for (int64_t n = thread; z.projects && n < hr.panels(); n += threads)
        hr.pack(n, [&](int64_t k) { return k < z.P ? static_cast<const S*>(p.w_hr[d]) + k * z.H : nullptr; });
      Share own((int64_t)parts.size(), team, teams);  // neighbours, whose rows this thread mostly wrote in the forward pass
      for (int64_t part = own.first; part < own.last; ++part) direction(d, (size_t)part, hh, ih, hr);
      all_meet();
      for (int64_t n = team * threads + thread; n < z.blocks; n += teams * threads) finish_block(d, n);
      for (int64_t n = team * threads + thread; n < z.quads(); n += teams * threads) finish_projection(d, n);
      all_meet();
    }
  }

  // The part's rows in order of falling length, and how many of them run at each step.
  void list_part(size_t part) {
    RowGroup rows(p, z.B, (int64_t)part, (int64_t)parts.size());
    m.count = rows.count;
    for (int64_t n = 0; n < rows.count; ++n) {
      m.order.row[n] = whole.row[rows.rank(n)];
      m.order.length[n] = whole.length[rows.rank(n)];
    }
    m.order.longest = rows.count ? m.order.length[0] : 0;
    int64_t count = rows.count;
    for (int64_t s = 0; s <= z.T; ++s) {
      while (count > 0 && m.order.length[count - 1] <= s) --count;
      m.active[s] = (int32_t)count;
    }
  }

  int64_t time(int d, int64_t rank, int64_t s) const { return from_end(p, d) ? m.order.length[rank] - 1 - s : s; }
  int64_t at(int d, int64_t t, int64_t b) const { return (t * z.B + b) * z.D + d; }
  S* gradient_row(int64_t row) const { return m.d_gates + row * 4 * N; }
  S* no_gradients() const { return gradient_row(m.rows + m.capacity); }  // zeros

  void direction(int d, size_t part, const Panels<S>& hh, const Panels<S>& ih, const Panels<S>& hr) {
    const int64_t padded = z.blocks * N, outs = z.outs * N;
    sums = parts[part];
    if (thread == 0) list_part(part);
    for (int64_t n = thread; n < z.blocks; n += threads) {
      std::memset(no_gradients() + n * m.stride, 0, 4 * N * sizeof(S));
      std::memset(sums.b + n * 4 * N, 0, 4 * N * sizeof(A));
      std::memset(sums.p + n * 3 * N, 0, 3 * N * sizeof(A));
    }
    meet();
    PackedWeights<S> vectors(z, nullptr, m.norm_weights);
    const int64_t bundle = z.norm ? norm_bundle(z) : 1;
    if (z.norm) {
      for (int64_t n = thread; n < z.blocks; n += threads) pack_vectors(p, z, d, n, vectors);
      for (int64_t n = thread; n < norm_bundles(z); n += threads)
        std::memset(m.norm_sums + n * padded * NORM_SUMS, 0, padded * NORM_SUMS * sizeof(A));
    }
    Share mine(m.count, thread, threads);
    for (int64_t rank = mine.first; rank < mine.last; ++rank) {
      int64_t b = m.order.row[rank];
      if (m.keep) {
        A* keep = m.keep + rank * outs;
        bernoulli(keep, (int)outs, 0, (uint64_t)p.seed, threshold(p.recurrent_dropout), 0, b,
                  stream(p, d, RECURRENT_DROPOUT));
        for (int64_t u = 0; u < outs; ++u) keep[u] = (1 - keep[u]) * keep_scale<S>(p.recurrent_dropout);
      }
      if (d == 0 && p.d_x)
        for (int64_t t = m.order.length[rank]; t < z.T; ++t)
          std::memset(static_cast<S*>(p.d_x) + t * p.x_stride_t + b * p.x_stride_b, 0, z.I * sizeof(S));
    }

    Backward<S> back(p, d, hh, hr, m.stride);
    back.rows = rows, back.none = no_gradients();
    back.past_stride = m.rows * 2 * N, back.shown_stride = m.rows * 4 * N;
    back.carry_c = m.carry_c, back.carry_h = m.carry_h, back.keep = m.keep;
    const int64_t group = thread / split.team, member = thread % split.team;
    const bool working = group < split.groups;
    RowGroup own(p, m.count, working ? group : 0, split.groups, bundle);
    NormBackward<S> norm{back,   vectors, bundle, m.norm_sums, m.d_input - m.d_gates, z.norm ? norm_panel(z) : 0, d_hidden,
                         norm_values};
    const Share share(z.blocks, member, split.team), share_out(z.outs, member, split.team);
    meet();

    bool fresh = true;
    uint64_t met = 0;
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
      if (working)
        for (int64_t s = high - 1; s >= low; --s) {
          int64_t count = step_rows(own, d, s, low, high);
          if (split.team > 1) m.teams[group].await(met);  // with the rows at hand
          if (z.projects && !z.norm) {
            back.outputs(0, count, share_out.first, share_out.last, s & 1);
            if (split.team > 1) m.teams[group].wait((uint32_t)split.team);
          }
          if (z.norm) norm.step(count);
          else back.step(count, share.first, share.last, s & 1);
          if (split.team > 1) met = m.teams[group].arrive((uint32_t)split.team);
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
    if (working && (p.d_h_0 || p.d_c_0)) {
      initial_rows(own, d);
      back.initial(own.count, share_out, share);
    }
    if (fresh) {
      for (int64_t n = thread; n < z.blocks; n += threads) {
        std::memset(sums.x + n * z.I * 4 * N, 0, z.I * 4 * N * sizeof(A));
        std::memset(sums.h + n * z.P * 4 * N, 0, z.P * 4 * N * sizeof(A));
      }
      for (int64_t n = thread; n < z.quads(); n += threads)
        std::memset(sums.r + n * z.P * 4 * N, 0, z.P * 4 * N * sizeof(A));
    }
    meet();
  }

  // One step's rows, for the recurrence and, where their columns come from, for the chunk's gradients.
  int64_t step_rows(const RowGroup& own, int d, int64_t s, int64_t low, int64_t high) {
    const int64_t padded = z.blocks * N;
    int64_t count = 0;
    for (; count < own.count && own.rank(count) < m.active[s]; ++count) {
      int64_t rank = own.rank(count), b = m.order.row[rank], length = m.order.length[rank], t = time(d, rank, s);
      bool last = s + 1 == length, cut = !last && starts_anew(p, d, time(d, rank, s + 1), b, length);
      bool anew = starts_anew(p, d, t, b, length);
      int64_t next = s + 1 < high ? m.base[s + 1 - low] + rank : m.rows + rank;
      int64_t state = d * z.B + b, here = at(d, t, b), before = at(d, from_end(p, d) ? t + 1 : t - 1, b);
      const int64_t row = m.base[s - low] + rank, input = t * p.x_stride_t + b * p.x_stride_b;
      rows.x[count] = static_cast<const S*>(p.x) + input;
      rows.h[count] = anew || (s == 0 && !p.h_0) ? nullptr
                      : s == 0 ? static_cast<const S*>(p.h_0) + state * z.P
                               : static_cast<const S*>(p.output) + before * z.P;
      if (thread % split.team == 0) {
        m.row_x[row] = rows.x[count];
        m.row_h[row] = rows.h[count];
        if (p.d_x) m.row_dx[row] = static_cast<S*>(p.d_x) + input;
        m.row_keep[row] = m.keep ? m.keep + rank * z.outs * N : nullptr;
      }
      rows.next[count] = last || cut ? no_gradients() : gradient_row(next);
      rows.gates[count] = static_cast<const S*>(p.gates) + ((d * z.T + t) * z.B + b) * z.saved;
      rows.d_output[count] =
          p.d_output ? static_cast<const S*>(p.d_output) + t * p.dy_stride_t + b * p.dy_stride_b + d * p.dy_stride_d
                     : nullptr;
      rows.d_cells[count] = p.d_cells ? static_cast<const A*>(p.d_cells) + here * z.H : nullptr;
      rows.c_new[count] = static_cast<const A*>(p.cells) + here * z.H;
      rows.c_old[count] = anew || (s == 0 && !p.c_0) ? zero_row()
                          : s == 0 ? static_cast<const A*>(p.c_0) + state * z.H
                                   : static_cast<const A*>(p.cells) + before * z.H;
      rows.d_h[count] = last && p.d_h_n ? static_cast<const S*>(p.d_h_n) + state * z.P : nullptr;
      rows.d_c[count] = last  ? (p.d_c_n ? static_cast<const A*>(p.d_c_n) + state * z.H : nullptr)
                        : cut ? nullptr
                              : m.carry_c + rank * padded;
      rows.held[count] = last || cut || !m.carry_h ? nullptr : m.carry_h + rank * z.outs * N;
      rows.d_gates[count] = gradient_row(row);
      rows.d_out[count] = m.d_out + row * z.outs * N, rows.shown[count] = m.shown + row * 4 * N;
      rows.past[count] = m.past ? m.past + row * 2 * N : nullptr;
      rows.t[count] = (int32_t)t, rows.b[count] = (int32_t)b, rows.local[count] = (int32_t)rank;
    }
    return count;
  }

  void initial_rows(const RowGroup& own, int d) {
    const int64_t padded = z.blocks * N;
    for (int64_t i = 0; i < own.count; ++i) {
      int64_t rank = own.rank(i), b = m.order.row[rank], length = m.order.length[rank];
      bool empty = length == 0, cut = !empty && starts_anew(p, d, time(d, rank, 0), b, length);
      const int64_t state = d * z.B + b;
      rows.next[i] = empty || cut ? no_gradients() : gradient_row(m.rows + rank);
      rows.d_h[i] = empty && p.d_h_n ? static_cast<const S*>(p.d_h_n) + state * z.P : nullptr;
      rows.d_c[i] = empty ? (p.d_c_n ? static_cast<const A*>(p.d_c_n) + state * z.H : nullptr)
                    : cut ? nullptr
                          : m.carry_c + rank * padded;
      rows.held[i] = empty || cut || !m.carry_h ? nullptr : m.carry_h + rank * z.outs * N;
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
    pack_columns(m.panel_h, m.rows, z.P, first, last, [&](int64_t row) { return m.row_h[row]; },
                 [&](int64_t row) { return m.row_keep[row]; });
    if (z.projects)
      pack_columns(m.panel_r, m.rows, z.P, first, last, [&](int64_t row) { return m.d_out + row * z.outs * N; },
                   [](int64_t) { return (const A*)nullptr; });
  }

  void gradients(const Panels<S>& ih, int d, int64_t used, bool fresh) {
    Gradients<S> of_x{z, m.d_input, m.stride, m.rows}, of_h{z, m.d_gates, m.stride, m.rows};
    // Blocks and, where those are few, halves of their columns.
    int64_t parts = z.blocks % threads ? threads : 1;
    int64_t items = z.blocks * parts;
    Share share(items, thread, threads);
    for (int64_t row = 0; row < used; row += K_BLOCK) {
      int64_t count = used - row < K_BLOCK ? used - row : K_BLOCK;
      int64_t laid = -1;
      const S* gradient = nullptr;
      for (int64_t n = share.first; n < share.last; ++n) {
        int64_t block = n / parts, part = n % parts;
        const int vectors = z.gate_vectors(block);
        if (laid != block || z.norm) gradient = of_x.lay_out(laid = block, row, row + count, scratch);
        Share x(z.I, part, parts), h(z.P, part, parts);
        bool first = fresh && row == 0;
        of_x.weights(vectors, gradient, m.panel_x, z.I, x.first, x.last, row, count, sums.x + block * z.I * 4 * N, first);
        if (z.norm) gradient = of_h.lay_out(block, row, row + count, scratch);
        of_h.weights(vectors, gradient, m.panel_h, z.P, h.first, h.last, row, count, sums.h + block * z.P * 4 * N, first);
      }
    }
    if (z.projects) projection_gradient(used, fresh);
    for (int64_t n = thread; n < z.blocks && !z.norm; n += threads) {
      of_h.bias(n, used, sums.b);
      if (m.past) of_h.peephole(n, used, m.past, sums.p);
    }
    if (p.d_x) {
      Share share_x(used, thread, threads);
      of_x.inputs(ih, share_x.first, share_x.last, d == 1, d_x, [&](int64_t row) { return m.row_dx[row]; });
    }
  }

  // What `shown` of the chunk's rows times the gradients of its projection adds to that of w_hr.
  void projection_gradient(int64_t used, bool fresh) {
    const Gradients<S> of_r{z, m.shown, m.rows * 4 * N, m.rows};
    const int64_t parts = z.quads() % threads ? threads : 1;
    const Share share(z.quads() * parts, thread, threads);
    for (int64_t row = 0; row < used; row += K_BLOCK) {
      const int64_t count = used - row < K_BLOCK ? used - row : K_BLOCK;
      for (int64_t n = share.first; n < share.last; ++n) {
        const int64_t quad = n / parts;
        const Share columns(z.P, n % parts, parts);
        const S* gradient = m.shown + (quad * m.rows + row) * 4 * N;
        if (Types<S>::PAIR == 2) of_r.pair_rows(quad, row, row + count, scratch), gradient = scratch;
        of_r.template weights<4>(gradient, m.panel_r, z.P, columns.first, columns.last, row, count,
                                 sums.r + quad * z.P * 4 * N, fresh && row == 0);
      }
    }
  }

  void finish_projection(int d, int64_t quad) {
    sums = parts[0];
    for (size_t part = 1; part < parts.size(); ++part) add(sums.r, parts[part].r, quad, z.P * 4, z.P * 4);
    for (int64_t k = 0; k < z.P; ++k)
      for (int64_t n = quad * 4; n < z.blocks && n < quad * 4 + 4; ++n)
        store_first(static_cast<S*>(p.d_w_hr[d]) + k * z.H + n * N, load(sums.r + ((quad * z.P + k) * 4 + n % 4) * N),
                    z.units(n));
  }

  void finish_block(int d, int64_t block) {
    sums = parts[0];
    for (size_t part = 1; part < parts.size(); ++part) {
      add(sums.x, parts[part].x, block, z.I * 4, z.I * z.gate_vectors(block));
      add(sums.h, parts[part].h, block, z.P * 4, z.P * z.gate_vectors(block));
      add(sums.b, parts[part].b, block, 4, 4);
      add(sums.p, parts[part].p, block, 3, 3);
    }
    unpack_block<S>(sums.x + block * z.I * 4 * N, z, z.I, block, static_cast<S*>(p.d_w_ih[d]));
    unpack_block<S>(sums.h + block * z.P * 4 * N, z, z.P, block, static_cast<S*>(p.d_w_hh[d]));
    int units = z.units(block);
    if (z.norm) add_norm_sums(d, block);
    for (void* d_b : {p.d_b_ih[d], p.d_b_hh[d]})
      for (int64_t g = 0; d_b && g < 4; ++g)
        store_first(static_cast<S*>(d_b) + g * z.H + block * N, load(sums.b + (block * 4 + g) * N), units);
    if (p.d_w_ch[d])
      for (int64_t g = 0; g < 3; ++g)
        store_first(static_cast<S*>(p.d_w_ch[d]) + g * z.H + block * N, load(sums.p + (block * 3 + g) * N), units);
  }

  // A block's vectors, of which it has room for `each` and uses `used`.
  void add(A* to, const A* from, int64_t block, int64_t each, int64_t used) const {
    for (int64_t n = block * each * N; n < (block * each + used) * N; n += N) store(to + n, load(to + n) + load(from + n));
  }

  // The sums of all bundles in order, to the gradients of the norms and to the sums of bias and peepholes.
  void add_norm_sums(int d, int64_t block) {
    for (int64_t v = 0; v < NORM_SUMS; ++v) {
      typename Types<S>::V sum{};
      for (int64_t n = 0; n < norm_bundles(z); ++n)
        sum = sum + load(m.norm_sums + ((n * z.blocks + block) * NORM_SUMS + v) * N);
      auto give = [&](void* to, int64_t row) {
        if (to) store_first(static_cast<S*>(to) + row * z.H + block * N, sum, z.units(block));
      };
      if (v < SUM_IH) store(sums.b + (block * 4 + v) * N, sum);
      else if (v < SUM_HH) give(p.d_norm_ih[d], v - SUM_IH);
      else if (v < SUM_C) give(p.d_norm_hh[d], v - SUM_HH);
      else if (v < SUM_PEEPHOLE) give(p.d_norm_c[d], v - SUM_C);
      else store(sums.p + (block * 3 + v - SUM_PEEPHOLE) * N, sum);
    }
  }
};

}  // namespace TG_ISA
}  // namespace tg
