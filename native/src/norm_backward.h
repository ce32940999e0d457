// Layer normalisation in the backward pass: one step of a group of rows, and the gradients that are
// summed row by row. Derived in native/README.md.
#pragma once

#include "backward.h"
#include "norm_forward.h"

namespace tg {
namespace TG_ISA {

// Sums of one bundle of rows, for each block: vectors of N lanes in this order.
enum NormSum { SUM_BIAS = 0, SUM_IH = 4, SUM_HH = 8, SUM_C = 12, SUM_PEEPHOLE = 14, NORM_SUMS = 17 };

// Values of the row at hand, for each block: vectors of N lanes in this order.
enum NormRow { ROW_I, ROW_F, ROW_G, ROW_O, ROW_C, ROW_D_O, ROW_CELL, ROW_D_CELL, ROW_D_C, ROW_KEEP, NORM_ROW };

// Rows of the panel in which a step is taken.
template <class S>
inline int64_t norm_panel(const Sizes<S>& z) {
  int64_t rows = round_up(NORM_PANEL_BYTES / (z.blocks * z.N * (int64_t)sizeof(typename Types<S>::A)) + 1, MAX_ROWS);
  return rows < z.B ? rows : z.B;
}

template <class S>
struct NormBackward {
  using A = typename Types<S>::A;
  using V = typename Types<S>::V;
  static constexpr int64_t N = Types<S>::N;

  Backward<S>& back;
  PackedWeights<S> w;   // only bias, gains and peepholes are read
  int64_t bundle;       // rows that share their sums
  A* sums;              // [bundle][block][NORM_SUMS][N]
  int64_t to_input;     // from a row's gradients of the recurrent products to those of the input's
  int64_t panel;        // rows that a step takes at once
  A* d_hidden;          // [panel row][block][N] gradient of h
  A* values;            // [block][NORM_ROW][N]

  // What reaches h of the step through the gates of the step after, zoneout and the final state.
  void products(int64_t start, int64_t count) {
    const bool projects = back.z.projects;
    if (projects) back.outputs(start, count, 0, back.z.outs, false);
    each_tile(count, 0, back.z.blocks, false, [&](int64_t row, int64_t vector, auto size, auto width) {
      constexpr int R = decltype(size)::value, W = decltype(width)::value;
      alignas(VECTOR_BYTES) A sums[R * W * N];
      if (projects) back.template project_back<R, W>(sums, start + row, vector);
      else back.template recur<R, W>(sums, start + row, vector, false);
      for (int r = 0; r < R; ++r)
        for (int v = 0; v < W; ++v) put(load(sums + (r * W + v) * N), start, row + r, vector + v);
    });
  }
  __attribute__((noinline)) void put(V d_h, int64_t start, int64_t row, int64_t vector) {
    if (!back.z.projects) d_h = back.hidden_gradient(d_h, start + row, vector);
    store(d_hidden + row * back.z.blocks * N + vector * N, d_h);
  }

  void step(int64_t count) {
    for (int64_t start = 0; start < count; start += panel) {
      const int64_t size = count - start < panel ? count - start : panel;
      products(start, size);
      for (int64_t row = start; row < start + size; ++row) {
        A statistics[STATISTICS];
        std::memcpy(statistics, back.rows.gates[row] + 2 * back.z.G, sizeof statistics);
        A* total = sums + back.rows.local[row] / bundle * back.z.blocks * NORM_SUMS * N;
        cell(row, d_hidden + (row - start) * back.z.blocks * N, statistics, total);
        gates(row, statistics, total);
      }
    }
  }

  // Gates made again from the normalised products, and the gradient of c through its norm.
  void cell(int64_t row, const A* d_hidden, const A* statistics, A* total) {
    const V one = V{} + 1;
    const Sizes<S>& z = back.z;
    const BackRows<S>& rows = back.rows;
    const S* x = rows.gates[row];
    V sum{}, sum_normalised{};
    for (int64_t block = 0; block < z.blocks; ++block) {
      const int units = z.units(block);
      const int64_t unit = block * N;
      A* value = values + block * NORM_ROW * N;
      V a[4];
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) {
        const int64_t n = (block * 4 + v) * N;
        a[v] = fma(load(x + z.G + n), load(w.gain_hh + n), fma(load(x + n), load(w.gain_ih + n), load(w.bias + n)));
      }
      V c_old = load_first(rows.c_old[row] + unit, units);
      if (back.peephole) {
        a[0] = a[0] + c_old * load(w.peephole + block * 3 * N);
        a[1] = a[1] + c_old * load(w.peephole + (block * 3 + 1) * N);
      }
      V i = sigmoid(a[0]), f = sigmoid(a[1]), g = tanh(a[2]);
      V c = back.p.zoneout_cell != 0.0 ? fma(f, c_old, i * g) : load_first(rows.c_new[row] + unit, units);
      if (back.peephole) a[3] = a[3] + c * load(w.peephole + (block * 3 + 2) * N);
      V o = sigmoid(a[3]);

      V d_h = load(d_hidden + unit), held{};
      if (back.zoneout.acts()) {
        auto keep = back.zoneout.weights(unit, rows.t[row], rows.b[row]);
        held = keep.hidden;
        store(value + ROW_KEEP * N, keep.cell);
      }
      if (!z.projects) d_h = back.output_gradient(d_h, row, block, held);
      V normalised = first_lanes<S>((c - statistics[MEAN_C]) * statistics[SCALE_C], units);
      V gain = load(w.norm_c + block * 2 * N);
      V tanh_c = tanh(fma(normalised, gain, load(w.norm_c + (block * 2 + 1) * N)));
      if (z.projects) back.show(o * tanh_c, row, block);
      V d_normed = d_h * o * (one - tanh_c * tanh_c);
      A* to = total + (block * NORM_SUMS + SUM_C) * N;
      store(to, fma(d_normed, normalised, load(to)));
      store(to + N, load(to + N) + d_normed);
      V d_cell = d_normed * gain;
      sum = sum + d_cell;
      sum_normalised = fma(d_cell, normalised, sum_normalised);
      store(value + ROW_I * N, i);
      store(value + ROW_F * N, f);
      store(value + ROW_G * N, g);
      store(value + ROW_O * N, o);
      store(value + ROW_C * N, c);
      store(value + ROW_D_O * N, d_h * tanh_c * o * (one - o));
      store(value + ROW_CELL * N, normalised);
      store(value + ROW_D_CELL * N, d_cell);
    }
    const A mean = sum_lanes(sum) / (A)z.H, slope = sum_lanes(sum_normalised) / (A)z.H;
    for (int64_t block = 0; block < z.blocks; ++block) {
      A* value = values + block * NORM_ROW * N;
      V d_c = (load(value + ROW_D_CELL * N) - mean - load(value + ROW_CELL * N) * slope) * statistics[SCALE_C];
      store(value + ROW_D_C * N, first_lanes<S>(d_c, z.units(block)));
    }
  }

  // Gate gradients, and through both norms those of the products.
  void gates(int64_t row, const A* statistics, A* total) {
    const V one = V{} + 1;
    const Sizes<S>& z = back.z;
    const BackRows<S>& rows = back.rows;
    const S* x = rows.gates[row];
    V sum_x{}, slope_x{}, sum_h{}, slope_h{};
    for (int64_t block = 0; block < z.blocks; ++block) {
      const int units = z.units(block);
      const int64_t unit = block * N, local = rows.local[row] * z.blocks * N + unit;
      A* value = values + block * NORM_ROW * N;
      V i = load(value + ROW_I * N), f = load(value + ROW_F * N), g = load(value + ROW_G * N);
      V c_old = load_first(rows.c_old[row] + unit, units);
      V d_c = rows.d_c[row] ? load_first(rows.d_c[row] + unit, units) : V{};
      if (rows.d_cells[row]) d_c = d_c + load_first(rows.d_cells[row] + unit, units);
      V held{};
      if (back.zoneout.acts()) {
        V keep = load(value + ROW_KEEP * N);
        held = keep * d_c;
        d_c = (one - keep) * d_c;
      }
      d_c = d_c + load(value + ROW_D_C * N);
      V d[4];
      d[3] = load(value + ROW_D_O * N);
      if (back.peephole) d_c = fma(d[3], load(w.peephole + (block * 3 + 2) * N), d_c);
      d[0] = d_c * g * i * (one - i);
      d[1] = d_c * c_old * f * (one - f);
      d[2] = d_c * i * (one - g * g);
      V d_c_old = fma(d_c, f, held);
      A* to = total + block * NORM_SUMS * N;
      if (back.peephole) {
        d_c_old = fma(d[0], load(w.peephole + block * 3 * N), d_c_old);
        d_c_old = fma(d[1], load(w.peephole + (block * 3 + 1) * N), d_c_old);
        const V seen[3] = {d[0] * c_old, d[1] * c_old, d[3] * load(value + ROW_C * N)};
        for (int v = 0; v < 3; ++v) store(to + (SUM_PEEPHOLE + v) * N, load(to + (SUM_PEEPHOLE + v) * N) + seen[v]);
      }
      store(back.carry_c + local, d_c_old);
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) {
        const int64_t n = (block * 4 + v) * N;
        V of_x = load(x + n), of_h = load(x + z.G + n);
        store(to + (SUM_BIAS + v) * N, load(to + (SUM_BIAS + v) * N) + d[v]);
        store(to + (SUM_IH + v) * N, fma(d[v], of_x, load(to + (SUM_IH + v) * N)));
        store(to + (SUM_HH + v) * N, fma(d[v], of_h, load(to + (SUM_HH + v) * N)));
        V d_x = d[v] * load(w.gain_ih + n), d_h = d[v] * load(w.gain_hh + n);
        sum_x = sum_x + d_x, slope_x = fma(d_x, of_x, slope_x);
        sum_h = sum_h + d_h, slope_h = fma(d_h, of_h, slope_h);
        store(value + v * N, d[v]);
      }
    }
    const A share = (A)1 / (A)(4 * z.H);
    const A mean_x = sum_lanes(sum_x) * share, mean_h = sum_lanes(sum_h) * share;
    const A x_slope = sum_lanes(slope_x) * share, h_slope = sum_lanes(slope_h) * share;
    for (int64_t block = 0; block < z.blocks; ++block) {
      const A* value = values + block * NORM_ROW * N;
      S* to = rows.d_gates[row] + block * back.stride;
      const int units = z.units(block);
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) {
        const int64_t n = (block * 4 + v) * N;
        V d = load(value + v * N);
        V d_x = (d * load(w.gain_ih + n) - mean_x - load(x + n) * x_slope) * statistics[SCALE_IH];
        V d_h = (d * load(w.gain_hh + n) - mean_h - load(x + z.G + n) * h_slope) * statistics[SCALE_HH];
        store(to + to_input + v * N, first_lanes<S>(d_x, units));
        store(to + v * N, first_lanes<S>(d_h, units));
      }
    }
  }
};

}  // namespace TG_ISA
}  // namespace tg
