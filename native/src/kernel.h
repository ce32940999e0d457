// What every instruction set provides.
#pragma once

#include "tidegate.h"

namespace tg {

struct Kernels {
  int (*forward)(const tg_lstm&);
  int (*backward)(const tg_lstm&);
  int64_t (*packed_bytes)(const tg_lstm&);
  int (*pack)(const tg_lstm&, void*);
  int64_t (*kept_bytes)(const tg_lstm&);
  int64_t (*gate_width)(int64_t dtype, int64_t H, bool norm);
  double (*peak_operations)(int64_t dtype, int64_t rounds);  // runs them, returns how many
  int (*activation)(int64_t function, int64_t dtype, const void* x, void* y, int64_t count);
};

}  // namespace tg
