// Gradients of weights, biases and inputs from a chunk of gate gradients.
//
// Gate gradients lie as [block][row of the chunk][4N], and so does what a projection is of, in quads
// of blocks; what the gates were computed from, z = [x | h], as panels of up to MAX_ROWS columns
// [panel][row][columns]. In bfloat16 the rows of a panel go in pairs, [row / 2][columns][2]. Gate gradients are
// paired when they are used, and those of a block whose gates share vectors are then laid out so.
#pragma once

#include "pack.h"
#include "tile.h"

namespace tg {
namespace TG_ISA {

constexpr int64_t K_BLOCK = SUM_BLOCK;  // rows of gate gradients that are summed apart and stay in the L2 cache
constexpr int64_t ROW_PANEL = 96;       // rows of d x that stay there
constexpr int64_t ROW_RUN = 32;         // rows whose gate gradients are added one after another for biases and peepholes

// Columns of x or h for rows [first, last) of the chunk; `from(row)` yields a row's address, null
// for a row of zeros; `keep(row)` its scale per column, or null. An odd last row is paired with zeros.
template <class S, class From, class Keep>
inline void pack_columns(S* to, int64_t capacity, int64_t columns, int64_t first, int64_t last, From from, Keep keep) {
  constexpr int64_t P = Types<S>::PAIR;
  constexpr int64_t GROUP = 16, AHEAD = 32;  // rows at a time, for adjacent writes; how far ahead they are prefetched
  const S zero{};
  for (int64_t start = first; start < last; start += GROUP) {
    int64_t stop = start + GROUP < last ? start + GROUP : last;
    for (int64_t row = start + AHEAD; row < start + AHEAD + GROUP && row < last; ++row)
      if (const S* a = from(row)) prefetch_row(a, columns);
    for_tiles(columns, [&](int64_t c0, auto size) {
      constexpr int R = decltype(size)::value;
      S* panel = to + c0 * capacity;
      for (int64_t row = start; row < stop; ++row) {
        const S* a = from(row);
        auto scale = keep(row);
        if constexpr (P == 1) {
          S* at = panel + row * R;
          if (!a) std::memset(at, 0, R * sizeof(S));
          else if (!scale) std::memcpy(at, a + c0, R * sizeof(S));
          else
            for (int r = 0; r < R; ++r) at[r] = a[c0 + r] * scale[c0 + r];
        } else {
          S* at = panel + row / 2 * 2 * R + row % 2;
          for (int r = 0; r < R; ++r) {
            S value = a ? a[c0 + r] : zero;
            if (scale) from_accumulator(value, to_accumulator(value) * scale[c0 + r]);
            at[2 * r] = value;
          }
        }
      }
      if (P == 2 && stop == last && last % 2)
        for (int r = 0; r < R; ++r) panel[last / 2 * 2 * R + 2 * r + 1] = zero;
    });
  }
}

template <class S>
struct Gradients {
  using A = typename Types<S>::A;
  using V = typename Types<S>::V;
  static constexpr int64_t N = Types<S>::N, P = Types<S>::PAIR;

  const Sizes<S>& z;
  const S* d_gates;      // [block][stride]
  int64_t stride;
  int64_t capacity;      // rows that a panel holds

  // Two neighbouring rows side by side, as the pairs of a dot product over rows.
  void pair_rows(int64_t block, int64_t first, int64_t last, S* to) const {
    const S* from = d_gates + block * stride;
    for (int64_t row = first; row < last; row += 2)
      for (int g = 0; g < 4; ++g, to += 2 * N) {
        vu even = __builtin_convertvector(load_bits<vh>(from + row * 4 * N + g * N), vu);
        vu odd = row + 1 < last ? __builtin_convertvector(load_bits<vh>(from + (row + 1) * 4 * N + g * N), vu) : vu{};
        vu pair = even | (odd << 16);
        std::memcpy(to, &pair, sizeof pair);
      }
  }

  // Rows [first, last) of a block whose gates share V vectors, laid out so (in pairs for bfloat16).
  template <int V>
  void share_rows(int64_t block, int64_t first, int64_t last, S* to) const {
    constexpr int64_t LANES = V * N / 4;
    const S* from = d_gates + block * stride;
    for (int64_t row = first; row < last; row += P, to += P * V * N)
      for (int64_t g = 0; g < 4; ++g)
        for (int64_t n = 0; n < LANES; ++n)
          for (int64_t j = 0; j < P; ++j)
            to[(g * LANES + n) * P + j] = row + j < last ? from[(row + j) * 4 * N + g * N + n] : S{};
  }

  // Rows [first, last) of a block as `weights` reads them, in scratch `to` where they do not lie so.
  const S* lay_out(int64_t block, int64_t first, int64_t last, S* to) const {
    const int vectors = z.gate_vectors(block);
    if (vectors == 4 && P == 1) return d_gates + block * stride + first * 4 * N;
    if (vectors == 4) pair_rows(block, first, last, to);
    else if (vectors == 2) share_rows<2>(block, first, last, to);
    else share_rows<1>(block, first, last, to);
    return to;
  }

  // sums[k][V N] += over rows of z[row][k] * gradient[row], for one block, columns [first, last) of the
  // panels that cover `columns`, rows of one K block, which are summed apart.
  template <int V>
  void weights(const S* gradient, const S* panels, int64_t columns, int64_t first, int64_t last, int64_t row, int64_t rows,
               A* sums, bool fresh) const {
    for_tiles(columns, [&](int64_t c0, auto size) {
      constexpr int R = decltype(size)::value;
      if (c0 < first || c0 >= last) return;
      Tile<S, R, V> acc;
      A* at = sums + c0 * V * N;
      tile_clear<S, R, V>(acc);
      const S* a = panels + c0 * capacity + row * R;
      for (int r = R; r < 2 * R; ++r) prefetch<V, 1>(at + r * V * N);  // the next tile's sums
      const S* w = gradient;
      for (int64_t m = 0; m < rows; m += P, a += P * R, w += P * V * N)
        Product<S, R, V>::add(acc, w, [&](int r) {
          if constexpr (P == 1) return a[r];
          else return load_pair(a + 2 * r);
        });
      if (fresh) tile_store<S, R, V>(acc, at, V * N);
      else tile_add<S, R, V>(acc, at, V * N);
    });
  }
  template <class... Rest>
  void weights(int vectors, Rest... rest) const {
    if (vectors == 4) weights<4>(rest...);
    else if (vectors == 2) weights<2>(rest...);
    else weights<1>(rest...);
  }

  void bias(int64_t block, int64_t rows, A* sums) const {
    const S* from = d_gates + block * stride;
    V all[4] = {};
    for (int64_t row = 0; row < rows;) {
      const int64_t last = rows - row < ROW_RUN ? rows : row + ROW_RUN;
      V sum[4] = {};
      for (; row < last; ++row, from += 4 * N)
        for (int v = 0; v < 4; ++v) sum[v] = sum[v] + load(from + v * N);
      for (int v = 0; v < 4; ++v) all[v] = all[v] + sum[v];
    }
    for (int v = 0; v < 4; ++v) store(sums + (block * 4 + v) * N, load(sums + (block * 4 + v) * N) + all[v]);
  }

  // past: [block][row][2][N], the long-term memory before and after.
  void peephole(int64_t block, int64_t rows, const A* past, A* sums) const {
    const S* from = d_gates + block * stride;
    const A* c = past + block * capacity * 2 * N;
    V all[3] = {};
    for (int64_t row = 0; row < rows;) {
      const int64_t last = rows - row < ROW_RUN ? rows : row + ROW_RUN;
      V sum[3] = {};
      for (; row < last; ++row, from += 4 * N, c += 2 * N) {
        sum[0] = fma(load(from), load(c), sum[0]);
        sum[1] = fma(load(from + N), load(c), sum[1]);
        sum[2] = fma(load(from + 3 * N), load(c + N), sum[2]);
      }
      for (int v = 0; v < 3; ++v) all[v] = all[v] + sum[v];
    }
    for (int v = 0; v < 3; ++v) store(sums + (block * 3 + v) * N, load(sums + (block * 3 + v) * N) + all[v]);
  }

  // d x of rows [first, last) of the chunk, added to what is there if `add`; to(row) is its address. K blocks are summed
  // apart.
  template <class To>
  void inputs(const Panels<S>& w, int64_t first, int64_t last, bool add, A* scratch, To to) const {
    const int64_t gates = w.vectors == 1 ? K_BLOCK / 8 : K_BLOCK;  // peers sum a single input's in many lanes
    const int64_t width = w.vectors * N, step = gates / (4 * N);
    for (int64_t panel = first; panel < last; panel += ROW_PANEL) {
      int64_t rows = last - panel < ROW_PANEL ? last - panel : ROW_PANEL;
      for (int64_t row = 0; row < rows; ++row)
        for (int64_t v = 0; v < w.vectors; ++v) {
          int count = (int)(w.columns - v * N < N ? w.columns - v * N : N);
          store(scratch + row * width + v * N, add ? load_first(to(panel + row) + v * N, count) : V{});
        }
      for (int64_t block0 = 0; block0 < z.blocks; block0 += step) {
        int64_t blocks = z.blocks - block0 < step ? z.blocks - block0 : step;
        for (int64_t vector = 0; vector < w.vectors; vector += 4)
          with_vectors((int)w.width(vector / 4), [&](auto w_) {
            constexpr int W = decltype(w_)::value;
            for_tiles(rows, [&](int64_t row, auto size) {
              constexpr int R = decltype(size)::value;
              Tile<S, R, W> acc;
              A* at = scratch + row * width + vector * N;
              const S* a[R];
              for (int r = 0; r < R; ++r) a[r] = d_gates + block0 * stride + (panel + row + r) * 4 * N;
              tile_clear<S, R, W>(acc);
              const S* weights = w.panel(vector) + block0 * 4 * N * W * N;
              for (int64_t block = 0; block < blocks; ++block) {
                multiply_gates<S, R, W>(acc, a, weights, W * N, z.units(block0 + block));
                weights += 4 * N * W * N;
                for (int r = 0; r < R; ++r) a[r] += stride;
              }
              tile_add<S, R, W>(acc, at, width);
            });
          });
      }
      for (int64_t row = 0; row < rows; ++row)
        for (int64_t v = 0; v < w.vectors; ++v) {
          int count = (int)(w.columns - v * N < N ? w.columns - v * N : N);
          store_first(to(panel + row) + v * N, load(scratch + row * width + v * N), count);
        }
    }
  }
};

}  // namespace TG_ISA
}  // namespace tg
