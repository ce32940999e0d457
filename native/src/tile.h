// The register tile: R rows x V vectors of accumulators, to which products are added in the order
// of k, and blocks of k in theirs. Each accumulator sees the same operations whichever tile it sits in,
// so results do not depend on how rows and units are cut.
#pragma once

#include <utility>

#include "simd.h"

namespace tg {
namespace TG_ISA {

// Products that are added one after another, at most: thousands of them err several times as much as their blocks summed
// apart. Fewer where h is projected, as no activation makes the error of that sum smaller. Even, for the pairs of bfloat16.
constexpr int64_t SUM_BLOCK = 512, OUTPUT_BLOCK = 128;

template <class S, int R, int V>
using Tile = typename Types<S>::V[R][V];

template <class S, int R, int V>
TG_INLINE void tile_clear(Tile<S, R, V>& acc) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[r][v] = typename Types<S>::V{};
}

// To R rows of V vectors `stride` apart.
template <class S, int R, int V>
TG_INLINE void tile_store(const Tile<S, R, V>& acc, typename Types<S>::A* to, int64_t stride) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(to + r * stride + v * Types<S>::N, acc[r][v]);
}

// Adds the tile to what is there.
template <class S, int R, int V>
TG_INLINE void tile_add(const Tile<S, R, V>& acc, typename Types<S>::A* to, int64_t stride) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      auto* at = to + r * stride + v * Types<S>::N;
      store(at, load(at) + acc[r][v]);
    }
}

// Adds what is there to the tile.
template <class S, int R, int V>
TG_INLINE void tile_join(Tile<S, R, V>& acc, const typename Types<S>::A* from, int64_t stride) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[r][v] = load(from + r * stride + v * Types<S>::N) + acc[r][v];
}

// V vectors at p will soon be read, or written, and need not stay near if KEEP is 0. The empty statement is an effect:
// GCC may take a function that does nothing but prefetch for one that does nothing, and drop its calls.
template <int V, int WRITE = 0, int KEEP = 3, class S>
TG_INLINE void prefetch(const S* p) {
  asm volatile("");
  constexpr int LINE = 64 / sizeof(S);
#pragma GCC unroll 4
  for (int n = 0; n < V * Types<S>::N; n += LINE) __builtin_prefetch(p + n, WRITE, KEEP);
}

// All lines of `count` numbers at p, for reading.
template <class S>
TG_INLINE void prefetch_row(const S* p, int64_t count) {
  for (int64_t n = 0; n < count; n += 64 / (int64_t)sizeof(S)) prefetch<1>(p + n);
}

// One k (a pair of k in bfloat16): acc[r][v] += a_r * w[v], where a(r) yields row r's operand.
template <class S, int R, int V>
struct Product;

template <class F, int R, int V>
struct ProductPlain {
  template <class Operand>
  static TG_INLINE void add(Tile<F, R, V>& acc, const F* w, Operand a) {
    using Vec = typename Types<F>::V;
    constexpr int N = Types<F>::N;
    if (R * V <= 12) {  // weights loaded last need one register; rows first need R
      Vec row[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) row[r] = splat(a(r));
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        Vec weight = load(w + v * N);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) acc[r][v] = fma(row[r], weight, acc[r][v]);
      }
    } else {
      Vec weight[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) weight[v] = load(w + v * N);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        Vec row = splat(a(r));
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[r][v] = fma(row, weight[v], acc[r][v]);
      }
    }
  }
};
template <int R, int V>
struct Product<float, R, V> : ProductPlain<float, R, V> {};
template <int R, int V>
struct Product<double, R, V> : ProductPlain<double, R, V> {};

TG_INLINE uint32_t load_pair(const bf16* p) {
  uint32_t pair;
  std::memcpy(&pair, p, 4);
  return pair;
}

#if defined(__AVX512BF16__)
TG_INLINE vf dot_pair(vf acc, vu row, vu weight) {
  return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)row, (__m512bh)weight);
}
#else
TG_INLINE vf dot_pair(vf acc, vu row, vu weight) {  // lower half first, as its k is smaller
  acc = fma(widen(row << 16), widen(weight << 16), acc);
  return fma(widen(row & 0xFFFF0000u), widen(weight & 0xFFFF0000u), acc);
}
#endif

template <int R, int V>
struct Product<bf16, R, V> {
  template <class Operand>
  static TG_INLINE void add(Tile<bf16, R, V>& acc, const bf16* w, Operand a) {
    constexpr int N = Types<bf16>::N;
    vu weight[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) weight[v] = load_bits<vu>(w + v * 2 * N);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      vu row = vu{} + (uint32_t)a(r);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[r][v] = dot_pair(acc[r][v], row, weight[v]);
    }
  }
};

// acc += a w over k < K: row r's operand is contiguous at a[r], weights are [k][stride] (or
// [k / 2][stride][2] in bfloat16, an odd K padded with a zero).
template <class S, int R, int V>
TG_INLINE void tile_multiply(Tile<S, R, V>& acc, const S* const (&a)[R], const S* w, int64_t stride, int64_t K) {
  if constexpr (Types<S>::PAIR == 1) {
#pragma GCC unroll 4
    for (int64_t k = 0; k < K; ++k, w += stride) Product<S, R, V>::add(acc, w, [&](int r) { return a[r][k]; });
  } else {
    int64_t k = 0;
#pragma GCC unroll 4
    for (; k + 1 < K; k += 2, w += 2 * stride)
      Product<S, R, V>::add(acc, w, [&](int r) { return load_pair(a[r] + k); });
    if (k < K) Product<S, R, V>::add(acc, w, [&](int r) { return (uint32_t)a[r][k].bits; });
  }
}

// R rows of V vectors, `apart` from each other, = a w, laid out as for `tile_multiply`, blocks of k summed apart. Not
// inlined: one copy serves all that want their sums in memory.
template <class S, int R, int V>
__attribute__((noinline)) void product(typename Types<S>::A* to, int64_t apart, const S* const* a, const S* w,
                                       int64_t stride, int64_t K, int64_t block = SUM_BLOCK) {
  int64_t k = 0;
  do {  // also of no k, which is zero
    Tile<S, R, V> acc;
    const S* at[R];
    for (int r = 0; r < R; ++r) at[r] = a[r] + k;
    tile_clear<S, R, V>(acc);
    tile_multiply<S, R, V>(acc, at, w + k * stride, stride, K - k < block ? K - k : block);
    if (k) tile_add<S, R, V>(acc, to, apart);
    else tile_store<S, R, V>(acc, to, apart);
    k += block;
  } while (k < K);
}

// acc = a w in the same way.
template <class S, int R, int V>
TG_INLINE void tile_product(Tile<S, R, V>& acc, const S* const (&a)[R], const S* w, int64_t stride, int64_t K) {
  alignas(VECTOR_BYTES) typename Types<S>::A sums[R * V * Types<S>::N];
  const int64_t before = K > SUM_BLOCK ? (K - 1) / SUM_BLOCK * SUM_BLOCK : 0;
  if (before) product<S, R, V>(sums, V * Types<S>::N, a, w, stride, before);  // few layers are so large
  const S* at[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) at[r] = a[r] + before;
  tile_clear<S, R, V>(acc);
  tile_multiply<S, R, V>(acc, at, w + before * stride, stride, K - before);
  if (before) tile_join<S, R, V>(acc, sums, V * Types<S>::N);
}

// acc += a w over the gate gradients of one block, whose lanes beyond its units are zeros.
template <class S, int R, int V>
TG_INLINE void multiply_gates(Tile<S, R, V>& acc, const S* const (&a)[R], const S* w, int64_t stride, int units) {
  constexpr int64_t N = Types<S>::N;
  const int64_t runs = units < N ? 4 : 1, K = units < N ? units : 4 * N;
  const S* at[R];
  for (int r = 0; r < R; ++r) at[r] = a[r];
  for (int64_t n = 0; n < runs; ++n) {
    tile_multiply<S, R, V>(acc, at, w, stride, K);
    w += stride * N;
    for (int r = 0; r < R; ++r) at[r] += N;
  }
}

// One gate's lanes of V vectors that four gates share, then zeros.
template <int Gate, class V, int Vectors, size_t... K>
TG_INLINE V own_lanes(const V (&shared)[Vectors], std::index_sequence<K...>) {
  constexpr size_t N = sizeof...(K), count = Vectors * N / 4, from = Gate * count % N;
  return shuffle<(K < count ? from + K : N)...>(shared[Gate * Vectors / 4], V{});
}

// acc = a w as `tile_product` adds it, for gates that share V vectors.
template <class S, int R, int V>
TG_INLINE void shared_multiply(Tile<S, R, 4>& acc, const S* const (&a)[R], const S* w, int64_t K) {
  using Lanes = std::make_index_sequence<Types<S>::N>;
  Tile<S, R, V> sums;
  tile_product<S, R, V>(sums, a, w, V * Types<S>::N, K);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    acc[r][0] = own_lanes<0>(sums[r], Lanes{});
    acc[r][1] = own_lanes<1>(sums[r], Lanes{});
    acc[r][2] = own_lanes<2>(sums[r], Lanes{});
    acc[r][3] = own_lanes<3>(sums[r], Lanes{});
  }
}
template <class S, int R>
TG_INLINE void shared_multiply(Tile<S, R, 4>& acc, const S* const (&a)[R], const S* w, int64_t K, int vectors) {
  if (vectors == 1) shared_multiply<S, R, 1>(acc, a, w, K);
  else shared_multiply<S, R, 2>(acc, a, w, K);
}

// Calls f(first, R) with R as a compile-time constant for tiles that cover `count` rows, none
// much smaller than another.
template <int R>
struct Rows {
  static constexpr int value = R;
};
template <class F>
TG_INLINE void with_rows(int rows, F f) {
  switch (rows) {
    case 1: return f(Rows<1>{});
    case 2: return f(Rows<2>{});
    case 3: return f(Rows<3>{});
#if defined(__AVX512F__) || defined(TG_NEON)
    case 4: return f(Rows<4>{});
    case 5: return f(Rows<5>{});
#endif
#if defined(__AVX512F__)
    case 6: return f(Rows<6>{});
#endif
  }
}
template <class F>
TG_INLINE void for_tiles(int64_t count, F f) {
  int64_t tiles = (count + MAX_ROWS - 1) / MAX_ROWS;
  if (tiles == 0) return;
  int64_t size = count / tiles, larger = count % tiles, first = 0;
  for (int64_t n = 0; n < tiles; ++n) {
    int rows = (int)(size + (n < larger));
    with_rows(rows, [&](auto r) { f(first, r); });
    first += rows;
  }
}
template <class F>
TG_INLINE void with_vectors(int vectors, F f) {
  switch (vectors) {
    case 1: return f(Rows<1>{});
    case 2: return f(Rows<2>{});
    case 3: return f(Rows<3>{});
    case 4: return f(Rows<4>{});
  }
}

// Calls f(row, vector, rows, vectors) for tiles that cover `count` rows and vectors [first, last) of panels, the last two
// as compile-time constants; `reverse` begins with the last panel.
template <class F>
TG_INLINE void each_tile(int64_t count, int64_t first, int64_t last, bool reverse, F f) {
  const int64_t low = first / 4, high = (last + 3) / 4;
  for (int64_t n = low; n < high; ++n) {
    const int64_t panel = reverse ? low + high - 1 - n : n;
    const int64_t vector = panel * 4 < first ? first : panel * 4, end = panel * 4 + 4 < last ? panel * 4 + 4 : last;
    with_vectors((int)(end - vector), [&](auto width) {
      for_tiles(count, [&](int64_t row, auto size) { f(row, vector, size, width); });
    });
  }
}

}  // namespace TG_ISA
}  // namespace tg
