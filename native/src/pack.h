// Weights into the order in which tiles read them, and weight gradients back.
#pragma once

#include <utility>

#include "digest.h"
#include "layout.h"
#include "tile.h"

namespace tg {
namespace TG_ISA {

// Interleaves the lower or upper halves of two vectors.
template <bool Upper, class V, size_t... K>
TG_INLINE V interleave(V a, V b, std::index_sequence<K...>) {
  constexpr size_t n = sizeof...(K), from = Upper ? n / 2 : 0;
  return shuffle<(K % 2 ? n + from + K / 2 : from + K / 2)...>(a, b);
}

// Transposes N vectors of N lanes in log2 N rounds of perfect shuffles.
template <int N, class V>
TG_INLINE void transpose(V (&v)[N]) {
  using Lanes = std::make_index_sequence<N>;
  V t[N];
#pragma GCC unroll 4
  for (int round = 1; round < N; round *= 2) {
#pragma GCC unroll 8
    for (int n = 0; n < N / 2; ++n) {
      t[2 * n] = interleave<false>(v[n], v[n + N / 2], Lanes{});
      t[2 * n + 1] = interleave<true>(v[n], v[n + N / 2], Lanes{});
    }
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) v[n] = t[n];
  }
}

// What one lane of a weight vector holds: an element, or a bfloat16 pair of neighbouring k.
template <class S>
struct Word;
template <>
struct Word<float> {
  using V = vf;
};
template <>
struct Word<double> {
  using V = vd;
};
template <>
struct Word<bf16> {
  using V = vu;
};

// Up to `lanes` rows of K weights: to[k][stride], of which `lanes` are written (pairs of k in bfloat16).
template <class S>
inline void pack_rows(const S* from, int64_t K, int rows, S* to, int64_t stride, int64_t lanes = Types<S>::N) {
  using V = typename Word<S>::V;
  constexpr int N = Types<S>::N, P = Types<S>::PAIR;
  int64_t k = 0;
  V v[N];
  for (; k + N * P <= K; k += N * P) {
    for (int n = 0; n < N; ++n) v[n] = n < rows ? load_bits<V>(from + n * K + k) : V{};
    transpose<N>(v);
    for (int n = 0; n < N; ++n)
      if (lanes == N) std::memcpy(to + (k + n * P) * stride, &v[n], sizeof(V));
      else std::memcpy(to + (k + n * P) * stride, &v[n], (size_t)(lanes * P) * sizeof(S));
  }
  for (; k < K; k += P) {
    S words[N * P] = {};
    for (int n = 0; n < rows; ++n)
      for (int j = 0; j < P && k + j < K; ++j) words[n * P + j] = from[n * K + k + j];
    std::memcpy(to + k * stride, words, (size_t)(lanes * P) * sizeof(S));
  }
}

// One block of one direction: bias, peepholes, and gains and biases of the layer norms.
template <class S>
inline void pack_vectors(const tg_lstm& p, const Sizes<S>& z, int d, int64_t block, const PackedWeights<S>& w) {
  using A = typename Types<S>::A;
  constexpr int64_t N = Types<S>::N;
  int units = z.units(block);
  auto vectors = [&](const void* from, int count, const A* to, bool add = false) {  // (count, H) to [block][count][N]
    for (int g = 0; g < count; ++g)
      for (int n = 0; n < N; ++n) {
        A& at = const_cast<A*>(to)[(block * count + g) * N + n];
        if (!add) at = 0;
        if (from && n < units) at += to_accumulator(static_cast<const S*>(from)[g * z.H + block * N + n]);
      }
  };
  vectors(p.b_ih[d], 4, w.bias);
  vectors(p.b_hh[d], 4, w.bias, true);
  if (p.w_ch[d]) vectors(p.w_ch[d], 3, w.peephole);
  if (!z.norm) return;
  vectors(p.norm_ih[d], 4, w.gain_ih);
  vectors(p.norm_hh[d], 4, w.gain_hh);
  vectors(p.norm_c[d], 2, w.norm_c);
}

// One block of one direction, all four gates, both matrices and all vectors. With `digest`, where that of the matrices'
// content lies, these are packed only if it is another.
template <class S>
inline void pack_block(const tg_lstm& p, const Sizes<S>& z, int d, int64_t block, void* packed, char* digest) {
  constexpr int64_t N = Types<S>::N;
  PackedWeights<S> w(z, packed);
  int units = z.units(block);
  pack_vectors(p, z, d, block, w);
  Digest now((uint64_t)block);
  if (digest) {
    for (int64_t row = block * N; row < 4 * z.H; row += z.H) {
      now.add(static_cast<const S*>(p.w_ih[d]) + row * z.I, units * z.I * (int64_t)sizeof(S));
      now.add(static_cast<const S*>(p.w_hh[d]) + row * z.P, units * z.P * (int64_t)sizeof(S));
    }
    if (now == digest) return;
  }
  const int64_t stride = z.gate_vectors(block) * N, lanes = stride / 4;
  for (int g = 0; g < 4; ++g) {
    const int64_t row = g * z.H + block * N, at = block * 4 * N, gate = g * lanes * Types<S>::PAIR;
    auto pack = [&](const void* from, int64_t K, const S* to, int64_t padded) {
      pack_rows(static_cast<const S*>(from) + row * K, K, units, const_cast<S*>(to) + padded * at + gate, stride, lanes);
    };
    pack(p.w_ih[d], z.I, w.ih, z.PI);
    pack(p.w_hh[d], z.P, w.hh, z.PP);
  }
  if (digest) now.save(digest);
}

// (K, columns) weights: panels of up to 4 vectors of columns, [panel][k][vectors][N], of pairs of k in bfloat16.
template <class S>
struct Panels {
  static constexpr int64_t N = Types<S>::N;
  int64_t columns, vectors, K;  // K is even in bfloat16
  S* at;

  static int64_t elements(int64_t K, int64_t columns) { return round_up(columns, N) * round_up(K, Types<S>::PAIR); }
  Panels(int64_t K, int64_t columns, S* at)
      : columns(columns), vectors((columns + N - 1) / N), K(round_up(K, Types<S>::PAIR)), at(at) {}
  int64_t panels() const { return (vectors + 3) / 4; }
  int64_t width(int64_t panel) const { return vectors - panel * 4 < 4 ? vectors - panel * 4 : 4; }
  // Weights from k = 0 on for the vectors from `vector` to the end of its panel.
  const S* panel(int64_t vector) const { return at + (vector / 4 * 4 * K + vector % 4 * Types<S>::PAIR) * N; }
  int64_t stride(int64_t vector) const { return width(vector / 4) * N; }

  // One panel; `row(k)` yields the columns of k, null for zeros.
  template <class Row>
  void pack(int64_t panel, Row row) const {
    const int64_t width_ = width(panel);
    S* to = at + panel * 4 * N * K;
    for (int64_t k = 0; k < K; k += Types<S>::PAIR)
      for (int64_t v = 0; v < width_; ++v, to += N * Types<S>::PAIR) {
        const int64_t column = (panel * 4 + v) * N;
        const int count = (int)(columns - column < N ? columns - column : N);
        auto vector = [&](const S* from) { return from ? load_first(from + column, count) : typename Types<S>::V{}; };
        if constexpr (Types<S>::PAIR == 1) {
          store(to, vector(row(k)));
        } else {
          vu pair = ((vu)vector(row(k)) >> 16) | (vu)vector(row(k + 1));
          std::memcpy(to, &pair, sizeof pair);
        }
      }
  }
  // One panel of (4H, columns) weights, for products with gate gradients: k runs over [block][gate][N] like these.
  void pack_gates(const Sizes<S>& z, const S* from, int64_t panel) const {
    pack(panel, [&](int64_t k) {
      const int64_t unit = k / (4 * N) * N + k % N, gate = k / N % 4;
      return unit < z.H ? from + (gate * z.H + unit) * columns : nullptr;
    });
  }
  // One panel of (columns, there) weights; what K has beyond those, to be even, is zeros.
  void pack_transposed(const S* from, int64_t there, int64_t panel) const {
    for (int64_t v = 0; v < width(panel); ++v) {
      const int64_t column = (panel * 4 + v) * N;
      const int rows = (int)(columns - column < N ? columns - column : N);
      pack_rows(from + column * there, there, rows, at + (panel * 4 * K + v * Types<S>::PAIR) * N, width(panel) * N);
    }
  }
};

// w_hr of a direction's packed weights.
template <class S>
Panels<S> projection(const Sizes<S>& z, const PackedWeights<S>& w) {
  return {z.H, z.P, const_cast<S*>(w.hr)};
}

// One panel of it, packed as blocks are.
template <class S>
inline void pack_projection(const tg_lstm& p, const Sizes<S>& z, int d, int64_t panel, void* packed, char* digest) {
  const auto hr = static_cast<const S*>(p.w_hr[d]);
  const int64_t first = panel * 4 * Types<S>::N, rows = z.P - first < 4 * Types<S>::N ? z.P - first : 4 * Types<S>::N;
  Digest now((uint64_t)panel);
  now.add(hr + first * z.H, rows * z.H * (int64_t)sizeof(S));
  if (digest && now == digest) return;
  projection(z, PackedWeights<S>(z, packed)).pack_transposed(hr, z.H, panel);
  if (digest) now.save(digest);
}

// A weight gradient of one block from [k][4][N] sums, or those of gates that share vectors, to the (4H, K) layout of the
// weights.
template <class S>
inline void unpack_block(const typename Types<S>::A* from, const Sizes<S>& z, int64_t K, int64_t block, S* to) {
  using V = typename Types<S>::V;
  constexpr int N = Types<S>::N;
  const int units = z.units(block);
  const int64_t stride = z.gate_vectors(block) * N, lanes = stride / 4;
  for (int64_t g = 0; g < 4; ++g)
    for (int64_t k = 0; k < K; k += N) {
      int count = (int)(K - k < N ? K - k : N);
      V v[N];
      for (int n = 0; n < N; ++n) v[n] = n < count ? load_first(from + (k + n) * stride + g * lanes, (int)lanes) : V{};
      transpose<N>(v);
      for (int n = 0; n < units; ++n) store_first(to + (g * z.H + block * N + n) * K + k, v[n], count);
    }
}

}  // namespace TG_ISA
}  // namespace tg
