// Threads, barriers, and the memory that is kept between calls.
#include "team.h"

#include <chrono>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <vector>

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

#include "tidegate.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tg {
namespace {

using ParallelFunction = void (*)(void (*)(void*), void*, unsigned, unsigned);
using CountFunction = int (*)();

std::atomic<ParallelFunction> gomp_parallel{nullptr};
std::atomic<CountFunction> gomp_thread{nullptr}, gomp_threads{nullptr};
// The child of a fork has none of the runtime's threads, and asking for them would hang.
std::atomic<bool> forked{false};

int64_t nanoseconds() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// Threads that wait for work look out for it for some milliseconds, then they sleep. Each thread that calls has others of
// its own, so what they did last is its own affair.
constexpr int64_t PAUSE = 1000000;  // nanoseconds
thread_local int64_t together_until = 0;  // when the last region of several threads ended

bool rested(int64_t now) { return now - together_until > PAUSE; }

struct Region {
  Body body;
  void* data;
  bool rested;  // may threads have slept before it?
  int processor;
};

int processor() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

// From this processor to another one that the thread may use, if there are enough for all.
void leave([[maybe_unused]] int taken, [[maybe_unused]] int threads) {
#if defined(__linux__)
  cpu_set_t all;
  if (sched_getaffinity(0, sizeof all, &all) || CPU_COUNT(&all) < threads) return;
  cpu_set_t others = all;
  CPU_CLR(taken, &others);
  if (!sched_setaffinity(0, sizeof others, &others)) sched_setaffinity(0, sizeof all, &all);
#endif
}

// Gives this processor to whoever waits for it, but not where that was other work lately, which keeps it for milliseconds.
void let_in() {
  constexpr int64_t LONG = 1000000, LATELY = 1000000000;  // nanoseconds
  static std::atomic<int64_t> crowded_until{0};
  const int64_t before = nanoseconds();
  if (before < crowded_until.load(std::memory_order_relaxed)) return;
  sched_yield();
  const int64_t after = nanoseconds();
  if (after - before > LONG) crowded_until.store(after + LATELY, std::memory_order_relaxed);
}

// Virtual machines take processors that have long been idle for busy ones, so threads that slept wake where the caller
// runs, and wait there for a time slice or two, beside an idle processor. The caller lets them in, and they move on.
void enter(void* at) {
  auto region = static_cast<Region*>(at);
  const int thread = gomp_thread.load(std::memory_order_relaxed)(),
            threads = gomp_threads.load(std::memory_order_relaxed)();
  if (region->rested) {
    if (thread == 0) let_in();
    else if (processor() >= 0 && processor() == region->processor) leave(region->processor, threads);
  }
  region->body(region->data, thread, threads);
}

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("isb");  // for as long as a pause takes; `yield` takes no time
#endif
}

// Blocks of memory, most recently used last; those in use are not listed.
struct Pool {
  struct Free {
    char* data;
    int64_t bytes;
  };
  static constexpr int64_t HEADER = 64, HUGE = 2 << 20, PAGE = 4096;
  static constexpr int AGE = 2000;  // blocks given back
  std::mutex lock;
  std::vector<Free> free;
  int64_t cached = 0;
  int64_t in_use = 0;
  int64_t most = 0;    // in use at once, in this age and the one before
  int64_t lately = 0;  // the same in this age
  int given = 0;       // in this age

  static int64_t size(int64_t bytes) {
    int64_t unit = bytes >= HUGE ? HUGE : PAGE;
    return (bytes + HEADER + unit - 1) / unit * unit;
  }

  void* take(int64_t bytes) {
    if (bytes < 0 || bytes > INT64_MAX / 2) return nullptr;
    int64_t need = size(bytes);
    std::lock_guard<std::mutex> guard(lock);
    size_t best = free.size();
    for (size_t n = free.size(); n-- > 0;)
      if (free[n].bytes >= need && (best == free.size() || free[n].bytes < free[best].bytes)) best = n;
    char* data = nullptr;
    // Up to twice what is needed: warm pages that would else be given back, as where float32 and bfloat16
    // calls take turns.
    if (best < free.size() && free[best].bytes <= 2 * need + (64 << 10)) {
      data = free[best].data;
      need = free[best].bytes;
      cached -= need;
      free.erase(free.begin() + (int64_t)best);
    } else {
      void* fresh = nullptr;
      if (posix_memalign(&fresh, need >= HUGE ? HUGE : PAGE, (size_t)need)) return nullptr;
#ifdef MADV_HUGEPAGE
      if (need >= HUGE) madvise(fresh, (size_t)need, MADV_HUGEPAGE);
#endif
      data = static_cast<char*>(fresh);
    }
    in_use += need;
    if (in_use > lately) lately = in_use;
    if (lately > most) most = lately;
    *reinterpret_cast<int64_t*>(data) = need;
    return data + HEADER;
  }

  // Keeps no more than was in use at once, so that the pool at most doubles the memory, and not for ever.
  void give(void* at) {
    if (!at) return;
    char* data = static_cast<char*>(at) - HEADER;
    std::lock_guard<std::mutex> guard(lock);
    int64_t bytes = *reinterpret_cast<int64_t*>(data);
    in_use -= bytes;
    free.push_back({data, bytes});
    cached += bytes;
    if (++given > AGE) {
      most = lately;
      lately = in_use;
      given = 0;
    }
    drop(most + (32 << 20) - in_use);
  }

  void drop(int64_t keep) {
    size_t n = 0;
    while (n < free.size() && cached > keep) {
      cached -= free[n].bytes;
      std::free(free[n++].data);
    }
    free.erase(free.begin(), free.begin() + (int64_t)n);
  }
};

Pool& pool() {
  static Pool* one = new Pool;  // outlives tensors that are freed while the process ends
  return *one;
}

// No lock may be held by a thread that the child does not have.
const int fork_handlers = pthread_atfork([] { pool().lock.lock(); }, [] { pool().lock.unlock(); },
                                         [] {
                                           forked = true;
                                           pool().lock.unlock();
                                         });

}  // namespace

#if defined(__linux__)
namespace {
// The counter's lower half, whose change the kernel looks for.
uint32_t* word(std::atomic<uint64_t>& counter) {
  return reinterpret_cast<uint32_t*>(&counter) + (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__);
}
}  // namespace
#endif

void Barrier::look_out(uint64_t all) {
  constexpr int64_t PATIENCE = 120000;  // nanoseconds
  int64_t began = 0;
  for (int n = 1;; ++n, pause()) {
    if (arrived.load(std::memory_order_acquire) >= all) return;
    if (n % 64) continue;
    const int64_t now = nanoseconds();
    if (!began) began = now;
    if (now - began > PATIENCE) break;
  }
#if defined(__linux__)
  ++sleepers;
  for (uint64_t now; (now = arrived.load()) < all;)
    syscall(SYS_futex, word(arrived), FUTEX_WAIT_PRIVATE, (uint32_t)now, nullptr, nullptr, 0);
  --sleepers;
#else
  while (arrived.load(std::memory_order_acquire) < all) sched_yield();
#endif
}

void Barrier::wake() {
#if defined(__linux__)
  syscall(SYS_futex, word(arrived), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
#endif
}

// Nanoseconds per unit of work of calls of one size, alone and together.
struct Choice::Trial {
  static constexpr int KINDS = 3, SIZES = 64;
  std::atomic<float> cost[2]{};
  std::atomic<uint32_t> calls{0};
  std::atomic<int64_t> alone_until{0};  // nanoseconds

  static Trial& of(int kind, double step, int64_t steps) {
    static Trial trials[KINDS][3][SIZES];
    int size = (int)(2 * std::log2(step + 1));
    return trials[kind][steps < 8 ? 0 : steps < 64 ? 1 : 2][size < SIZES ? size : SIZES - 1];
  }

  bool together(int64_t now) {
    if (now < alone_until.load(std::memory_order_relaxed)) return false;
    const uint32_t call = calls.fetch_add(1, std::memory_order_relaxed);
    if (call < 8) return call < 4;
    const float alone = cost[0].load(std::memory_order_relaxed), team = cost[1].load(std::memory_order_relaxed);
    // The slower one is tried again, more rarely the slower it is, and thrice, as sleeping threads come late.
    const float ratio = alone < team ? team / alone : alone / team;
    const uint32_t every = ratio < 1.25f ? 32 : ratio < 2 ? 128 : 512;
    return (team < alone) != (call % every < 3);
  }

  // The least time so far, which rises slowly: a call that was held up says little. But threads that other work keeps from
  // each other are a loss without bound, so after one they are left apart for longer than it lasted.
  void took(bool team, double work, int64_t begun, int64_t ended) {
    constexpr int64_t TIMES = 8, MOST = 1000000000;
    const int64_t time = ended - begun;
    float now = (float)((double)time / work);
    const float alone = cost[0].load(std::memory_order_relaxed);
    if (team && alone > 0 && now > 4 * alone)
      alone_until.store(ended + (time < MOST / TIMES ? TIMES * time : MOST), std::memory_order_relaxed);
    std::atomic<float>& least = cost[team];
    const float before = least.load(std::memory_order_relaxed);
    if (before > 0 && now > before) now = before + .125f * ((now < 2 * before ? now : 2 * before) - before);
    least.store(now, std::memory_order_relaxed);
  }
};

namespace {
// To wake threads takes longer than a short call, so that is left to calls that follow each other closely.
constexpr int64_t RUSH = 200000;  // nanoseconds
constexpr double SHORT = 4e6;     // multiply-adds
thread_local int64_t last_ended = 0, rush_began = 0;
std::atomic<bool> all_threads{false};

bool sleeping(int64_t now) {
  if (now - last_ended > PAUSE) rush_began = now;
  return now - rush_began < RUSH;
}
}  // namespace

bool takes_all_threads() { return all_threads.load(std::memory_order_relaxed); }

Choice::Choice(int kind, double step, int64_t steps, int most, bool small)
    : work(step * (double)steps),
      begun(most > 1 ? nanoseconds() : 0),
      wakes(most > 1 && rested(begun)),
      asleep(most > 1 && sleeping(begun) && work < SHORT && !takes_all_threads()),
      trial(most > 1 && (small || work < SHORT) && !asleep && !takes_all_threads() ? &Trial::of(kind, step, steps)
                                                                                  : nullptr),
      threads(asleep || (trial && !trial->together(begun)) ? 1 : most) {}

Choice::~Choice() {
  if (!begun) return;
  const int64_t now = nanoseconds();
  last_ended = now;
  if (trial && !(wakes && threads > 1)) trial->took(threads > 1, work, begun, now);
}

void parallel(Body body, void* data, int threads) {
  ParallelFunction start = gomp_parallel.load(std::memory_order_relaxed);
  if (threads <= 1 || !start || forked.load(std::memory_order_relaxed)) return body(data, 0, 1);
  const bool slept = rested(nanoseconds());
  Region region{body, data, slept, slept ? processor() : -1};
  start(enter, &region, (unsigned)threads, 0);
  together_until = nanoseconds();
}

int64_t l1_bytes() {
  static const int64_t bytes = [] {
    long known = 0;
#if defined(_SC_LEVEL1_DCACHE_SIZE)
    known = sysconf(_SC_LEVEL1_DCACHE_SIZE);
#endif
    return known > 0 ? (int64_t)known : (int64_t)32 << 10;
  }();
  return bytes;
}

void* workspace_take(int64_t bytes) { return pool().take(bytes); }
void workspace_give(void* data) { pool().give(data); }

}  // namespace tg

extern "C" {

void tg_set_openmp(void* parallel, void* thread_num, void* num_threads) {
  tg::gomp_thread = reinterpret_cast<tg::CountFunction>(thread_num);
  tg::gomp_threads = reinterpret_cast<tg::CountFunction>(num_threads);
  tg::gomp_parallel = reinterpret_cast<tg::ParallelFunction>(parallel);
}

void tg_take_all_threads(int64_t all) { tg::all_threads = all != 0; }

void* tg_pool_take(int64_t bytes) { return tg::pool().take(bytes); }
void tg_pool_give(void* data) { tg::pool().give(data); }

void tg_pool_trim(void) {
  std::lock_guard<std::mutex> guard(tg::pool().lock);
  tg::pool().drop(0);
  tg::pool().most = tg::pool().lately = tg::pool().in_use;
}

int64_t tg_pool_bytes(void) {
  std::lock_guard<std::mutex> guard(tg::pool().lock);
  return tg::pool().cached + tg::pool().in_use;
}

}  // extern "C"
