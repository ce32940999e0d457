// Threads: one parallel region a call in the OpenMP runtime that is already loaded, and spin
// barriers inside it.
#pragma once

#include <atomic>
#include <cstdint>

namespace tg {

// All threads of a team pass it together. One counter of arrivals on one cache line: the last thread goes on
// at once, the others after one more transfer of the line. A waiting thread looks out for some time, then it sleeps: the
// thread that it waits for may have lost its processor to other work, and can go on where this one leaves.
struct alignas(64) Barrier {
  std::atomic<uint64_t> arrived{0};
  std::atomic<uint32_t> sleepers{0};

  void wait(uint32_t team) { await(arrive(team)); }
  // Its two halves, for what can be done between them: the second waits for what the first returned, or passes on 0.
  uint64_t arrive(uint32_t team) {
    const uint64_t before = arrived.fetch_add(1), rounds = before / team + 1;
    if (before + 1 == rounds * team && sleepers.load()) wake();
    return rounds * team;
  }
  void await(uint64_t all) {
    if (arrived.load(std::memory_order_acquire) < all) look_out(all);
  }

 private:
  void look_out(uint64_t all);
  void wake();
};

// One thread or several for a small call? Several meet after every step, and what that costs is a matter of how far
// apart their processors are and of who else works there. So both are tried now and then, and the faster one is
// taken; after a pause, when the others sleep, a short call wakes none. Results do not depend on it. Lives as long as
// the call, whose time it takes.
class Choice {
  struct Trial;
  const double work;
  const int64_t begun;  // in nanoseconds, or 0 where one thread is all there may be
  const bool wakes;     // may the other threads have slept before it? Then its time says nothing
  const bool asleep;    // are the other threads, and is the call too short to wake them?
  Trial* const trial;   // null where there is nothing to choose

 public:
  // `kind`: 0 inference, 1 a forward pass that saves, 2 a backward pass; `step`: the work of a step, of which there
  // are `steps`. A call that is not small takes as many threads as it may.
  Choice(int kind, double step, int64_t steps, int most, bool small);
  ~Choice();
  Choice(const Choice&) = delete;
  const int threads;
};

using Body = void (*)(void* data, int thread, int threads);

// Runs body on up to `threads` threads; it gets the number of threads that really came.
void parallel(Body body, void* data, int threads);

// Memory of one call, aligned to cache lines and cached between calls; null when there is none.
void* workspace_take(int64_t bytes);
void workspace_give(void* data);

// Shall calls take all the threads that they may, also where fewer would be faster?
bool takes_all_threads();

// What the L1 data cache of a processor holds.
int64_t l1_bytes();

template <class F>
void run_parallel(F& f, int threads) {
  parallel([](void* data, int thread, int count) { (*static_cast<F*>(data))(thread, count); }, &f, threads);
}

}  // namespace tg
