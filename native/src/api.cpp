// The C interface: checks a call, picks the instruction set, and hands over.
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <utility>
#include <vector>

#include "kernel.h"
#include "team.h"

namespace tg {

#define TG_DECLARE(isa)         \
  namespace isa {               \
  extern const Kernels KERNELS; \
  }
#ifdef TG_HAVE_AVX512
TG_DECLARE(avx512_bf16)
TG_DECLARE(avx512)
#endif
#ifdef TG_HAVE_AVX2
TG_DECLARE(avx2)
#endif
#ifdef TG_HAVE_NEON
TG_DECLARE(neon)
#endif
TG_DECLARE(portable)

namespace {

struct Isa {
  const char* name;
  const Kernels* kernels;
  bool (*runs)();
};

const Isa ISAS[] = {
#ifdef TG_HAVE_AVX512
    {"avx512_bf16", &avx512_bf16::KERNELS,
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512bf16");
     }},
    {"avx512", &avx512::KERNELS,
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") != 0;
     }},
#endif
#ifdef TG_HAVE_AVX2
    {"avx2", &avx2::KERNELS, [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") != 0; }},
#endif
#ifdef TG_HAVE_NEON
    {"neon", &neon::KERNELS, [] { return true; }},
#endif
    {"portable", &portable::KERNELS, [] { return true; }},
};

// Those that this processor runs, fastest first.
const std::vector<const Isa*>& usable() {
  static const std::vector<const Isa*> found = [] {
    std::vector<const Isa*> all;
    for (const Isa& isa : ISAS)
      if (isa.runs()) all.push_back(&isa);
#ifdef TG_HAVE_AVX512
    // Intel's dot products of bfloat16 run at half the rate of its FMA (Emerald Rapids: 163 and 331 GF/s on two cores).
    if (__builtin_cpu_is("intel") && all[0]->kernels == &avx512_bf16::KERNELS) std::swap(all[0], all[1]);
#endif
    return all;
  }();
  return found;
}

const Isa* find(const char* name) {
  for (const Isa* isa : usable())
    if (!std::strcmp(isa->name, name)) return isa;
  return nullptr;
}

const Isa*& current() {
  static const Isa* isa = usable()[0];
  return isa;
}

constexpr int64_t LIMIT = (int64_t)1 << 31;        // of a single size
constexpr int64_t ELEMENTS = (int64_t)1 << 56;     // of an array: its bytes stay far below 2^63

bool product_fits(std::initializer_list<int64_t> sizes) {
  int64_t product = 1;
  for (int64_t size : sizes)
    if (__builtin_mul_overflow(product, size, &product) || product > ELEMENTS) return false;
  return true;
}

bool valid(const tg_lstm* p) {
  if (!p || p->version != TG_VERSION || p->dtype < 0 || p->dtype > 2) return false;
  if (p->T < 0 || p->B < 0 || p->I < 0 || p->H < 1 || p->P < 0 || p->D < 1 || p->D > 2) return false;
  if (p->first_direction != 0 && (p->first_direction != 1 || p->D != 1)) return false;
  if (p->T >= LIMIT || p->B >= LIMIT || p->I >= LIMIT || p->H >= LIMIT || p->P >= LIMIT) return false;
  if (p->threads < 1 || p->threads > 4096) return false;
  int64_t H = p->H + 64, I = p->I + 64, P = p->P + 64;
  if (!product_fits({p->T + 1, p->B + 1, 2, 9 * H}) || !product_fits({p->T + 1, p->B + 1, 2, P})) return false;
  if (!product_fits({p->T + 1, p->B + 1, I})) return false;
  if (!product_fits({4 * H, I}) || !product_fits({4 * H, H}) || !product_fits({4 * H, P})) return false;
  for (int64_t d = 0; d < p->D; ++d)  // weights that are given are all given
    if (p->w_ih[d] && !p->w_hr[d] != !p->P) return false;
  for (int64_t d = 0; d < p->D; ++d)  // layer normalisation is whole or absent, and so are its gradients
    if (!p->norm_ih[d] != !p->norm_ih[0] || !p->norm_hh[d] != !p->norm_ih[0] || !p->norm_c[d] != !p->norm_ih[0])
      return false;
  if (p->lengths)
    for (int64_t b = 0; b < p->B; ++b)
      if (p->lengths[b] < 0 || p->lengths[b] > p->T) return false;
  return true;
}

}  // namespace
}  // namespace tg

using namespace tg;

extern "C" {

int tg_forward(const tg_lstm* call) {
  if (!valid(call) || (call->gates && !call->cells)) return TG_BAD_CALL;
  return current()->kernels->forward(*call);
}

int tg_step(const tg_steps* steps) {
  const void* x = steps->x;
  for (int64_t n = 0; n < steps->layers; ++n) {
    tg_lstm call = steps->calls[n];
    const int64_t rows = n * call.B;
    const int64_t h = rows * (call.P ? call.P : call.H) * (call.dtype == TG_FLOAT64 ? 8 : call.dtype == TG_FLOAT32 ? 4 : 2);
    const int64_t c = rows * call.H * (call.dtype == TG_FLOAT64 ? 8 : 4);
    call.x = x;
    call.h_0 = static_cast<const char*>(steps->h_0) + h;
    call.c_0 = static_cast<const char*>(steps->c_0) + c;
    call.h_n = static_cast<char*>(steps->h_n) + h;
    call.c_n = static_cast<char*>(steps->c_n) + c;
    call.output = n + 1 < steps->layers ? call.h_n : steps->output;
    call.reset = steps->reset;
    if (int code = tg_forward(&call)) return code;
    x = call.output;
  }
  return TG_OK;
}

int tg_backward(const tg_lstm* call) {
  if (!valid(call) || call->open_gates) return TG_BAD_CALL;
  if (call->T > 0 && call->B > 0 && (!call->gates || !call->cells)) return TG_BAD_CALL;
  return current()->kernels->backward(*call);
}

int64_t tg_gate_width(int64_t dtype, int64_t H, int64_t norm) {
  return current()->kernels->gate_width(dtype, H, norm != 0);
}

int64_t tg_packed_bytes(const tg_lstm* call) { return valid(call) ? current()->kernels->packed_bytes(*call) : -1; }

int tg_pack(const tg_lstm* call, void* packed) {
  return valid(call) ? current()->kernels->pack(*call, packed) : TG_BAD_CALL;
}

int64_t tg_kept_bytes(const tg_lstm* call) { return valid(call) ? current()->kernels->kept_bytes(*call) : -1; }

const char* tg_isa_names(void) {
  static const std::string names = [] {
    std::string all;
    for (const Isa* isa : usable()) all += (all.empty() ? "" : ",") + std::string(isa->name);
    return all;
  }();
  return names.c_str();
}

const char* tg_isa(void) { return current()->name; }

int tg_set_isa(const char* name) {
  const Isa* isa = name ? find(name) : nullptr;
  if (!isa) return 0;
  current() = isa;
  return 1;
}

int tg_activation(int64_t function, int64_t dtype, const void* x, void* y, int64_t count) {
  return current()->kernels->activation(function, dtype, x, y, count);
}

double tg_measure_peak(int64_t dtype, int64_t threads, double seconds) {
  auto now = [] {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
  };
  const Kernels* kernels = current()->kernels;
  double best[64] = {}, stop = now() + seconds;  // of each thread: other work may stop one now and then
  do {
    auto body = [&](int thread, int) {
      if (thread >= 64) return;
      double start = now(), done = kernels->peak_operations(dtype, 100000), rate = done / (now() - start);
      if (rate > best[thread]) best[thread] = rate;
    };
    run_parallel(body, (int)(threads < 64 ? threads : 64));
  } while (now() < stop);
  double sum = 0;
  for (double rate : best) sum += rate;
  return sum;
}

}  // extern "C"
