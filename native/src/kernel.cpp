// One instruction set's kernels, as a table of functions. Compiled once for each set with
// TG_ISA naming it; see CMakeLists.txt.
#include "kernel.h"

#include <new>
#include <vector>

#include "backward_call.h"
#include "forward_call.h"
#include "norm_forward.h"

namespace tg {
namespace TG_ISA {
namespace {

// Packed weights end with a fingerprint of what they were made from.
template <class S>
int64_t weight_bytes(const tg_lstm& p) {
  return PackedWeights<S>::bytes(Sizes<S>(p)) * p.D;
}
template <class S>
int64_t packed_bytes(const tg_lstm& p) {
  return weight_bytes<S>(p) + 64;
}

template <class S>
Digest fingerprint(const tg_lstm& p) {
  Digest all((uint64_t)p.dtype);
  auto add = [&](const void* data, int64_t rows, int64_t columns) {
    all.sample(data, rows, data ? columns * (int64_t)sizeof(S) : 0);
  };
  for (int d = 0; d < p.D; ++d) {
    add(p.w_ih[d], 4 * p.H, p.I);
    add(p.w_hh[d], 4 * p.H, p.P ? p.P : p.H);
    add(p.b_ih[d], 4, p.H);
    add(p.b_hh[d], 4, p.H);
    add(p.w_ch[d], 3, p.H);
    add(p.w_hr[d], p.P, p.H);
    if (!p.norm_ih[d]) continue;
    add(p.norm_ih[d], 4, p.H);
    add(p.norm_hh[d], 4, p.H);
    add(p.norm_c[d], 2, p.H);
  }
  return all;
}

// What is packed of a direction at a time: a block of units, or a panel of the projection.
template <class S>
int64_t packed_items(const Sizes<S>& z) {
  return z.blocks + (z.projects ? (z.outs + 3) / 4 : 0);
}

// Weights that the caller keeps from call to call: a mark, 64 bytes, then packed weights, then a digest of each item.
template <class S>
struct Kept {
  static constexpr uint64_t MARK = 0x7469646567617400u + VECTOR_BYTES;  // of the instruction set that lays it out
  char *weights = nullptr, *digests = nullptr;

  static int64_t bytes(const tg_lstm& p) { return 64 + weight_bytes<S>(p) + digest_bytes(p); }
  static int64_t digest_bytes(const tg_lstm& p) { return p.D * packed_items(Sizes<S>(p)) * VECTOR_BYTES; }

  explicit Kept(const tg_lstm& p) {
    if (!p.kept || p.packed) return;
    auto mark = static_cast<uint64_t*>(p.kept);
    if (*mark && *mark != MARK) return;
    weights = static_cast<char*>(p.kept) + 64;
    digests = weights + weight_bytes<S>(p);
    if (!*mark) std::memset(digests, 0, (size_t)digest_bytes(p));
    *mark = MARK;
  }
};

// Thread `thread`'s share of packing all directions.
template <class S>
void pack_share(const tg_lstm& p, void* packed, char* digests, int64_t thread, int64_t threads) {
  Sizes<S> z(p);
  const int64_t items = packed_items(z);
  for (int64_t n = thread; n < z.D * items; n += threads) {
    const int64_t d = n / items, item = n % items;
    void* to = static_cast<char*>(packed) + d * PackedWeights<S>::bytes(z);
    char* digest = digests ? digests + n * VECTOR_BYTES : nullptr;
    if (item < z.blocks) pack_block<S>(p, z, (int)d, item, to, digest);
    else pack_projection<S>(p, z, (int)d, item - z.blocks, to, digest);
  }
}

template <class S>
int pack(const tg_lstm& p, void* packed) {
  auto body = [&](int thread, int threads) { pack_share<S>(p, packed, nullptr, thread, threads); };
  run_parallel(body, packed_bytes<S>(p) > (1 << 20) ? (int)p.threads : 1);
  fingerprint<S>(p).save(static_cast<char*>(packed) + weight_bytes<S>(p));
  return TG_OK;
}

// Every thread's own memory, and whether all of them got theirs.
struct Scratch {
  void* data;
  Scratch(int64_t bytes) : data(workspace_take(bytes)) {}
  ~Scratch() { workspace_give(data); }
  Scratch(const Scratch&) = delete;
};

template <class S>
int forward(const tg_lstm& p) {
  Sizes<S> z(p);
  if (p.packed && p.w_ih[0] && !(fingerprint<S>(p) == static_cast<const char*>(p.packed) + weight_bytes<S>(p)))
    return TG_STALE;
  const Choice choice = useful_threads<S>(p, false);
  const int threads = choice.threads;
  const Kept<S> kept(p);
  Order order;
  Barrier *all, *teams;
  int32_t* count;
  char* packed;
  S* shown;
  auto lay_out = [&](Arena arena) {
    all = arena.take<Barrier>(1);
    teams = arena.take<Barrier>(threads);
    order.take(arena, z.B);
    count = arena.take<int32_t>(p.lengths ? z.T + 1 : 0);
    packed = arena.take<char>(p.packed || kept.weights ? 0 : weight_bytes<S>(p));
    shown = arena.take<S>(z.projects ? z.D * z.B * z.PU : 0);
    return arena.used;
  };
  Scratch shared(lay_out({nullptr}));
  if (!shared.data) return TG_NO_MEMORY;
  lay_out({static_cast<char*>(shared.data)});
  new (all) Barrier;
  for (int n = 0; n < threads; ++n) new (teams + n) Barrier;
  order.fill(p, count);
  if (kept.weights) packed = kept.weights;
  const void* weights = p.packed ? p.packed : packed;
  std::atomic<bool> failed{false};

  auto body = [&](int thread, int team) {
    int64_t side = side_by_side(z, team) ? 2 : 1;  // directions that run at the same time
    int64_t each = team / side;
    Split split = split_threads(z, z.B, each, false);
    int64_t group = thread % each / split.team, member = thread % each % split.team;
    bool working = group < split.groups;
    RowGroup rows(p, z.B, working ? group : 0, split.groups);
    int64_t chunk = projection_rows(z, rows.count, split.team);
    // Threads with rows of their own leave each other's lines of the output alone.
    const bool apart = team > 1 && split.team == 1 && 2 * rows.count * z.PP * (int64_t)sizeof(S) <= OWN_BYTES;
    ForwardScratch<S> m;
    NormScratch<S> norm;
    Arena arena{nullptr};
    m.take(arena, p, z, rows.count, chunk, apart);
    norm.take(arena, z, rows.count, chunk);
    Scratch own(arena.used);
    if (!own.data) failed = true;
    if (!p.packed) pack_share<S>(p, packed, kept.digests, thread, team);
    if (team > 1) all->wait((uint32_t)team);
    if (failed || !working) return;
    arena = {static_cast<char*>(own.data)};
    m.take(arena, p, z, rows.count, chunk, apart);
    norm.take(arena, z, rows.count, chunk);
    for (int64_t n = 0; n < z.D / side; ++n) {
      int64_t d = side == 2 ? thread / each : n;
      const void* packed_d = static_cast<const char*>(weights) + d * PackedWeights<S>::bytes(z);
      auto run = [&](auto f) {
        Barrier* const barrier = teams + thread / each * split.groups + group;
        forward_group(f, m, order, rows, member, chunk, barrier, split.team, shown + d * z.B * z.PU);
      };
      if (z.norm) run(NormForward<S>(p, packed_d, (int)d, norm));
      else run(Forward<S>(p, packed_d, (int)d));
    }
  };
  run_parallel(body, threads);
  return failed ? TG_NO_MEMORY : TG_OK;
}

template <class S>
int backward(const tg_lstm& p) {
  using A = typename Types<S>::A;
  Sizes<S> z(p);
  const Choice choice = useful_threads<S>(p, true);
  const int threads = choice.threads;
  const int64_t parts = row_parts(z), most = part_teams(parts, threads, threads);  // of teams
  int64_t part_rows = 0;
  for (int64_t n = 0; n < parts; ++n) {
    RowGroup rows(p, z.B, n, parts);
    if (rows.count > part_rows) part_rows = rows.count;
  }
  std::vector<BackwardShared<S>> shared(most);
  std::vector<WeightSums<S>> sums(parts);
  Order whole;
  Barrier* all;
  int32_t* count;
  A* zeros;
  auto lay_out = [&](Arena arena) {
    all = arena.take<Barrier>(1);
    whole.take(arena, z.B);
    count = arena.take<int32_t>(p.lengths ? z.T + 1 : 0);
    zeros = arena.take<A>(z.H);
    for (auto& part : sums) part.take(arena, z);
    for (auto& team : shared) team.take(arena, p, z, part_rows, threads);
    return arena.used;
  };
  Scratch memory(lay_out({nullptr}));
  if (!memory.data) return TG_NO_MEMORY;
  lay_out({static_cast<char*>(memory.data)});
  new (all) Barrier;
  for (auto& team : shared) {
    new (team.all) Barrier;
    for (int n = 0; n < threads; ++n) new (team.teams + n) Barrier;
  }
  std::memset(zeros, 0, z.H * sizeof(A));
  whole.fill(p, count);
  std::atomic<bool> failed{false};

  auto body = [&](int thread, int running) {
    const int teams = (int)part_teams(parts, running, most), each = running / teams, team = thread / each;
    auto meet = [&] {
      if (running > 1) all->wait((uint32_t)running);
    };
    BackwardCall<S> call(p, whole, sums, shared[team], team, teams, thread % each, each);
    call.zeros = zeros;
    Arena arena{nullptr};
    call.take(arena);
    Scratch own(arena.used);
    if (!own.data) failed = true;
    meet();
    if (failed) return;
    arena = {static_cast<char*>(own.data)};
    call.take(arena);
    call.run(meet);
  };
  run_parallel(body, threads);
  return failed ? TG_NO_MEMORY : TG_OK;
}

// Twelve independent chains of FMA: enough to hide its latency on every processor so far. They start from different
// numbers, or a compiler would make one of them, and their operand is one register: loads have a peak of their own.
template <class S>
double peak_operations(int64_t rounds) {
  using V = typename Types<S>::V;
  constexpr int CHAINS = 12;
  volatile uint32_t unknown = 0x3EBD3EBD;  // two bfloat16, or a float, near .37
  const uint32_t operand = unknown;
  V acc[CHAINS];
#pragma GCC unroll 12
  for (int n = 0; n < CHAINS; ++n) acc[n] = splat((typename Types<S>::A)(operand % 8 + n));
  const vu pair = vu{} + operand;
  const V value = splat((typename Types<S>::A)widen(pair)[0]);
  for (int64_t n = 0; n < rounds; ++n)
#pragma GCC unroll 12
    for (int k = 0; k < CHAINS; ++k)
      if constexpr (Types<S>::PAIR == 1) acc[k] = fma(value, value, acc[k]);
      else acc[k] = dot_pair(acc[k], pair, pair);
  V sum{};
#pragma GCC unroll 12
  for (int n = 0; n < CHAINS; ++n) sum = sum + acc[n];
  volatile auto keep = sum[0];
  (void)keep;
  return 2.0 * (double)rounds * CHAINS * Types<S>::N * Types<S>::PAIR;
}

template <class S>
int activation(int64_t function, const void* x, void* y, int64_t count) {
  auto from = static_cast<const S*>(x);
  auto to = static_cast<S*>(y);
  for (int64_t n = 0; n < count; n += Types<S>::N) {
    int lanes = (int)(count - n < Types<S>::N ? count - n : Types<S>::N);
    auto v = load_first(from + n, lanes);
    store_first(to + n, function ? tanh(v) : sigmoid(v), lanes);
  }
  return TG_OK;
}

template <class F>
auto with_type(int64_t dtype, F f) {
  if (dtype == TG_FLOAT64) return f(double{});
  if (dtype == TG_BFLOAT16) return f(bf16{});
  return f(float{});
}

}  // namespace

extern const Kernels KERNELS;
const Kernels KERNELS = {
    [](const tg_lstm& p) { return with_type(p.dtype, [&](auto s) { return forward<decltype(s)>(p); }); },
    [](const tg_lstm& p) { return with_type(p.dtype, [&](auto s) { return backward<decltype(s)>(p); }); },
    [](const tg_lstm& p) { return with_type(p.dtype, [&](auto s) { return packed_bytes<decltype(s)>(p); }); },
    [](const tg_lstm& p, void* to) { return with_type(p.dtype, [&](auto s) { return pack<decltype(s)>(p, to); }); },
    [](const tg_lstm& p) { return with_type(p.dtype, [&](auto s) { return Kept<decltype(s)>::bytes(p); }); },
    [](int64_t dtype, int64_t H, bool norm) {
      return with_type(dtype, [&](auto s) { return Sizes<decltype(s)>::saved_width(H, norm); });
    },
    [](int64_t dtype, int64_t rounds) {
      return with_type(dtype, [&](auto s) { return peak_operations<decltype(s)>(rounds); });
    },
    [](int64_t function, int64_t dtype, const void* x, void* y, int64_t count) {
      return dtype == TG_FLOAT64 ? activation<double>(function, x, y, count)
                                 : activation<float>(function, x, y, count);
    },
};

}  // namespace TG_ISA
}  // namespace tg
