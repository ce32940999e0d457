// The kernels without Python: run under the address and undefined-behaviour sanitizers, over shapes
// that leave every kind of remainder, with all options. Arrays have exactly their size, so that any
// access beyond is seen. Checks that threads do not change a bit and that gradients are derivatives.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tidegate.h"

namespace {

thread_local int thread_index = 0, thread_count = 1;

// What GOMP_parallel does, with threads of its own.
void start_threads(void (*body)(void*), void* data, unsigned threads, unsigned) {
  std::vector<std::thread> team;
  for (unsigned n = 1; n < threads; ++n)
    team.emplace_back([=] {
      thread_index = (int)n, thread_count = (int)threads;
      body(data);
    });
  thread_index = 0, thread_count = (int)threads;
  body(data);
  for (auto& t : team) t.join();
  thread_index = 0, thread_count = 1;
}
int index_now() { return thread_index; }
int count_now() { return thread_count; }

void require(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
  std::exit(1);
}

using Bytes = std::vector<unsigned char>;

struct Case {
  int64_t dtype, T, B, I, H, D, P;  // P 0: no projection
  bool lengths, reset, noise, peephole, bias, norm;

  int64_t outputs() const { return P ? P : H; }
  std::string name() const {
    char text[192];
    std::snprintf(text, sizeof text, "dtype %d T %d B %d I %d H %d D %d P %d lengths %d reset %d noise %d peephole %d norm %d %s",
                  (int)dtype, (int)T, (int)B, (int)I, (int)H, (int)D, (int)P, lengths, reset, noise, peephole, norm,
                  tg_isa());
    return text;
  }
};

// All arrays of one call, each in an allocation of its own.
struct Arrays {
  Case k;
  int64_t s, a;  // bytes of storage and accumulator elements
  std::mt19937 random{7};
  std::vector<std::unique_ptr<Bytes>> kept;
  std::vector<std::pair<std::string, Bytes*>> results;
  tg_lstm p{};
  std::vector<int64_t> lengths;
  std::vector<uint8_t> reset;

  Bytes* make(int64_t count, int64_t size) {
    kept.push_back(std::make_unique<Bytes>((size_t)(count * size)));
    return kept.back().get();
  }
  void set(void* at, int64_t n, int64_t size, double v) {
    if (size == 8) std::memcpy(static_cast<char*>(at) + 8 * n, &v, 8);
    float f = (float)v;
    if (size == 4) std::memcpy(static_cast<char*>(at) + 4 * n, &f, 4);
    if (size == 2) std::memcpy(static_cast<char*>(at) + 2 * n, reinterpret_cast<char*>(&f) + 2, 2);
  }
  void* input(int64_t count, int64_t size, double scale) {
    Bytes* b = make(count, size);
    std::normal_distribution<double> normal(0, scale);
    for (int64_t n = 0; n < count; ++n) set(b->data(), n, size, normal(random));
    return b->data();
  }
  void* output(const char* name, int64_t count, int64_t size) {
    results.push_back({name, make(count, size)});
    return results.back().second->data();
  }

  explicit Arrays(const Case& k)
      : k(k), s(k.dtype == TG_FLOAT64 ? 8 : k.dtype == TG_FLOAT32 ? 4 : 2), a(k.dtype == TG_FLOAT64 ? 8 : 4) {
    const int64_t T = k.T, B = k.B, I = k.I, H = k.H, D = k.D, P = k.outputs();
    p.version = TG_VERSION, p.dtype = k.dtype, p.threads = 1;
    p.T = T, p.B = B, p.I = I, p.H = H, p.D = D, p.P = k.P;
    p.x_stride_t = B * I, p.x_stride_b = I;
    p.dy_stride_t = B * D * P, p.dy_stride_b = D * P, p.dy_stride_d = P;
    p.x = input(T * B * I, s, 1), p.h_0 = input(D * B * P, s, 0.5), p.c_0 = input(D * B * H, a, 0.5);
    for (int64_t d = 0; d < D; ++d) {
      p.w_ih[d] = input(4 * H * I, s, 0.4), p.w_hh[d] = input(4 * H * P, s, 0.4);
      if (k.P) p.w_hr[d] = input(P * H, s, 0.4), p.d_w_hr[d] = output("d_w_hr", P * H, s);
      if (k.bias) p.b_ih[d] = input(4 * H, s, 0.4), p.b_hh[d] = input(4 * H, s, 0.4);
      if (k.peephole) p.w_ch[d] = input(3 * H, s, 0.4);
      p.d_w_ih[d] = output("d_w_ih", 4 * H * I, s), p.d_w_hh[d] = output("d_w_hh", 4 * H * P, s);
      if (k.bias) p.d_b_ih[d] = output("d_b_ih", 4 * H, s), p.d_b_hh[d] = output("d_b_hh", 4 * H, s);
      if (k.peephole) p.d_w_ch[d] = output("d_w_ch", 3 * H, s);
      if (!k.norm) continue;
      p.norm_ih[d] = input(4 * H, s, 1), p.norm_hh[d] = input(4 * H, s, 1), p.norm_c[d] = input(2 * H, s, 1);
      p.d_norm_ih[d] = output("d_norm_ih", 4 * H, s), p.d_norm_hh[d] = output("d_norm_hh", 4 * H, s);
      p.d_norm_c[d] = output("d_norm_c", 2 * H, s);
    }
    for (int64_t b = 0; b < B; ++b) lengths.push_back((int64_t)(random() % (uint64_t)(T + 1)));
    for (int64_t n = 0; n < T * B; ++n) reset.push_back(random() % 5 == 0);
    if (k.lengths) p.lengths = lengths.data();
    if (k.reset) p.reset = reset.data();
    p.training = 1, p.seed = 0x1234567;
    if (k.noise) p.recurrent_dropout = 0.3, p.zoneout_hidden = 0.2, p.zoneout_cell = 0.4;
    p.output = output("output", T * B * D * P, s), p.cells = output("cells", T * B * D * H, a);
    p.gates = make(D * T * B * tg_gate_width(k.dtype, H, k.norm), s)->data();
    p.h_n = output("h_n", D * B * P, s), p.c_n = output("c_n", D * B * H, a);
    p.d_output = input(T * B * D * P, s, 1), p.d_cells = input(T * B * D * H, a, 1);
    p.d_h_n = input(D * B * P, s, 1), p.d_c_n = input(D * B * H, a, 1);
    p.d_x = output("d_x", T * B * I, s);
    p.d_h_0 = output("d_h_0", D * B * P, s), p.d_c_0 = output("d_c_0", D * B * H, a);
  }

  void run(int64_t threads) {
    p.threads = threads;
    require(tg_forward(&p) == TG_OK, "forward " + k.name());
    require(tg_backward(&p) == TG_OK, "backward " + k.name());
  }

  // The sum whose gradient the backward pass computes (double only).
  double loss() {
    require(tg_forward(&p) == TG_OK, "forward " + k.name());
    auto dot = [](const void* x, const void* y, int64_t count) {
      double sum = 0;
      for (int64_t n = 0; n < count; ++n) sum += static_cast<const double*>(x)[n] * static_cast<const double*>(y)[n];
      return sum;
    };
    const int64_t states = k.D * k.B * k.H, outputs = k.D * k.B * k.outputs();
    return dot(p.output, p.d_output, k.T * outputs) + dot(p.cells, p.d_cells, k.T * states) +
           dot(p.h_n, p.d_h_n, outputs) + dot(p.c_n, p.d_c_n, states);
  }
};

void check_threads(const Case& k) {
  Arrays one(k), many(k);
  one.run(1);
  for (int64_t threads : {2, 3}) {
    many.run(threads);
    for (size_t n = 0; n < one.results.size(); ++n)
      require(*one.results[n].second == *many.results[n].second, one.results[n].first + " on threads, " + k.name());
  }
  std::vector<unsigned char> packed((size_t)tg_packed_bytes(&many.p));
  require(tg_pack(&many.p, packed.data()) == TG_OK, "pack");
  many.p.packed = packed.data();
  many.run(1);
  for (size_t n = 0; n < one.results.size(); ++n)
    require(*one.results[n].second == *many.results[n].second, one.results[n].first + " packed, " + k.name());
  many.p.packed = nullptr;

  // Kept packed by two calls, and again after the last weight has changed.
  const int64_t bytes = tg_kept_bytes(&many.p);
  std::unique_ptr<void, decltype(&std::free)> kept(std::aligned_alloc(64, (size_t)(bytes + 63) / 64 * 64), &std::free);
  std::memset(kept.get(), 0, 8);
  many.p.kept = kept.get();
  for (int call = 0; call < 4; ++call) {
    if (call == 2)
      for (Arrays* r : {&one, &many}) {
        const void* weights = k.P ? r->p.w_hr[k.D - 1] : r->p.w_hh[k.D - 1];
        auto last = static_cast<unsigned char*>(const_cast<void*>(weights)) + (k.P ? k.P : 4 * k.H) * k.H * r->s - 1;
        *last ^= 0x80;
      }
    if (call == 2) one.run(1);
    many.run(1 + call % 2);
    for (size_t n = 0; n < one.results.size(); ++n)
      require(*one.results[n].second == *many.results[n].second, one.results[n].first + " kept, " + k.name());
  }

  // No states, which are those of zeros.
  const size_t units = (size_t)(k.D * k.B * k.H), outputs = (size_t)(k.D * k.B * k.outputs());
  if (units > 0) std::memset(const_cast<void*>(one.p.h_0), 0, outputs * (size_t)one.s);
  if (units > 0) std::memset(const_cast<void*>(one.p.c_0), 0, units * (size_t)one.a);
  many.p.h_0 = many.p.c_0 = nullptr;
  one.run(1), many.run(2);
  for (size_t n = 0; n < one.results.size(); ++n)
    require(*one.results[n].second == *many.results[n].second, one.results[n].first + " without states, " + k.name());
}

void check_gradient(Case k) {
  k.dtype = TG_FLOAT64;
  Arrays r(k);
  r.run(1);
  struct Pair {
    const char* name;
    const void* value;
    const void* gradient;
    int64_t count;
  };
  std::vector<Pair> pairs = {{"x", r.p.x, r.p.d_x, k.T * k.B * k.I},
                             {"h_0", r.p.h_0, r.p.d_h_0, k.D * k.B * k.outputs()},
                             {"c_0", r.p.c_0, r.p.d_c_0, k.D * k.B * k.H},
                             {"w_ih", r.p.w_ih[0], r.p.d_w_ih[0], 4 * k.H * k.I},
                             {"w_hh", r.p.w_hh[k.D - 1], r.p.d_w_hh[k.D - 1], 4 * k.H * k.outputs()}};
  if (k.P) pairs.push_back({"w_hr", r.p.w_hr[k.D - 1], r.p.d_w_hr[k.D - 1], k.P * k.H});
  if (k.bias) pairs.push_back({"b_hh", r.p.b_hh[0], r.p.d_b_hh[0], 4 * k.H});
  if (k.peephole) pairs.push_back({"w_ch", r.p.w_ch[0], r.p.d_w_ch[0], 3 * k.H});
  if (k.norm) {
    pairs.push_back({"norm_ih", r.p.norm_ih[0], r.p.d_norm_ih[0], 4 * k.H});
    pairs.push_back({"norm_hh", r.p.norm_hh[k.D - 1], r.p.d_norm_hh[k.D - 1], 4 * k.H});
    pairs.push_back({"norm_c", r.p.norm_c[0], r.p.d_norm_c[0], 2 * k.H});
  }
  for (const Pair& pair : pairs)
    for (int64_t n = 0; n < pair.count; n += 1 + pair.count / 11) {
      double* at = static_cast<double*>(const_cast<void*>(pair.value)) + n;
      const double kept = *at, step = 1e-5;
      *at = kept + step;
      double above = r.loss();
      *at = kept - step;
      double below = r.loss();
      *at = kept;
      double expected = (above - below) / (2 * step), found = static_cast<const double*>(pair.gradient)[n];
      require(std::fabs(found - expected) <= 1e-5 * (1 + std::fabs(expected)),
              std::string("gradient of ") + pair.name + ", " + k.name());
    }
}

}  // namespace

int main() {
  tg_set_openmp(reinterpret_cast<void*>(&start_threads), reinterpret_cast<void*>(&index_now),
                reinterpret_cast<void*>(&count_now));
  tg_take_all_threads(1);
  const int64_t sizes[][4] = {{1, 1, 1, 1},  {4, 3, 2, 5},   {3, 7, 17, 16}, {6, 13, 5, 33}, {2, 1, 3, 70},
                              {9, 2, 33, 3}, {0, 3, 2, 4},   {3, 0, 2, 4},   {5, 25, 8, 64}, {40, 30, 3, 2},
                              {2, 40, 1, 128}, {32, 36, 2, 3}};
  int count = 0;
  std::string names = tg_isa_names();
  for (size_t from = 0; from <= names.size();) {
    size_t to = std::min(names.find(',', from), names.size());
    std::string isa = names.substr(from, to - from);
    require(tg_set_isa(isa.c_str()), "instruction set " + isa);
    for (auto& z : sizes)
      for (int64_t dtype : {TG_FLOAT32, TG_FLOAT64, TG_BFLOAT16})
        for (int options = 0; options < 8; ++options, ++count) {
          // Layer norm changes places from size to size, so that it meets all of the others,
          // and so does the projection.
          const int64_t P = (options + dtype + (&z - sizes)) % 3 == 0 ? (2 * z[3] + 2) / 3 : 0;
          Case k{dtype, z[0], z[1], z[2], z[3], 1 + options % 2, P, (options & 2) != 0, (options & 4) != 0,
                 options == 5 || options == 6, options % 3 == 0, options != 4, (options / 2 + (&z - sizes)) % 2 == 1};
          check_threads(k);
          // The Python tests compare gradients on every instruction set; here the fastest is enough.
          if (from == 0 && dtype == TG_FLOAT64 && z[0] * z[1] > 0 && z[0] * z[1] < 100) check_gradient(k);
        }
    from = to + 1;
  }
  tg_lstm bad{};
  require(tg_forward(&bad) == TG_BAD_CALL, "an empty call is refused");
  Arrays wrong({TG_FLOAT32, 3, 2, 2, 2, 1, 0, true, false, false, false, true, true});
  wrong.lengths[0] = 4;
  require(tg_forward(&wrong.p) == TG_BAD_CALL, "a length beyond the steps is refused");
  wrong.lengths[0] = 1, wrong.p.H = (int64_t)1 << 40;
  require(tg_forward(&wrong.p) == TG_BAD_CALL, "sizes that overflow are refused");
  wrong.p.H = 2, wrong.p.P = 1;
  require(tg_forward(&wrong.p) == TG_BAD_CALL, "a projection without weights is refused");
  wrong.p.P = 0, wrong.p.norm_c[0] = nullptr;
  require(tg_forward(&wrong.p) == TG_BAD_CALL, "one norm without the others is refused");
  tg_pool_trim();
  std::printf("%d cases on %s: no error\n", count, names.c_str());
  return 0;
}
