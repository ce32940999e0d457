// Threads: one parallel region a call in the OpenMP runtime that is already loaded, and spin
// barriers inside it.
#pragma once

#include <atomic>
#include <cstdint>

namespace tg {

// All threads of a team pass it together. One counter of arrivals on one cache line: the last thread goes on
// at once, the others after one more transfer of the line. A waiting thread spins for some microseconds,
// then yields, so that a machine with more threads than processors still makes progress.
struct alignas(64) Barrier {
  std::atomic<uint64_t> arrived{0};

  void wait(uint32_t team);
};

// Did threads lately wait for one another so long that other work must have held their processor? A small
// call then does better alone: true for some calls after the last such wait.
bool crowded();

using Body = void (*)(void* data, int thread, int threads);

// Runs body on up to `threads` threads; it gets the number of threads that really came.
void parallel(Body body, void* data, int threads);

// Memory of one call, aligned to cache lines and cached between calls; null when there is none.
void* workspace_take(int64_t bytes);
void workspace_give(void* data);

template <class F>
void run_parallel(F& f, int threads) {
  parallel([](void* data, int thread, int count) { (*static_cast<F*>(data))(thread, count); }, &f, threads);
}

}  // namespace tg
