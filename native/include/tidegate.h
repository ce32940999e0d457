/* The C interface of tidegate's CPU kernels: one struct of sizes, strides and pointers.
 *
 * T steps, B batch rows, I inputs, H hidden units, P outputs of a step (H without projection), D
 * directions (1 or 2). Every field is eight bytes wide, so that a caller can fill the struct with
 * one call of Python's `struct.pack`. Arrays are contiguous except where a stride is given; strides
 * count elements. A null pointer leaves an optional array out.
 */
#ifndef TIDEGATE_H
#define TIDEGATE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define TG_API __attribute__((visibility("default")))
#else
#define TG_API
#endif

#define TG_VERSION 7

enum { TG_FLOAT32 = 0, TG_FLOAT64 = 1, TG_BFLOAT16 = 2 };

/* "S" is the storage type of `dtype`; "A" is what sums and long-term memories are kept in:
 * float for float32 and bfloat16, double for float64. */
typedef struct tg_lstm {
  int64_t version; /* TG_VERSION */
  int64_t dtype;
  int64_t threads; /* at most this many */
  int64_t T, B, I, H, D;
  int64_t P; /* of the projection by w_hr, 0 without one: a step's output is h of H units */
  int64_t x_stride_t, x_stride_b;                         /* of x and d_x; units are adjacent */
  int64_t dy_stride_t, dy_stride_b, dy_stride_d;          /* of d_output */
  const void *x;                                          /* S (T, B, I) */
  const void *h_0;                                        /* S (D, B, P), optional: zeros */
  const void *c_0;                                        /* A (D, B, H), optional: zeros */
  const void *w_ih[2], *w_hh[2];                          /* S (4H, I), (4H, P); gates i, f, g, o */
  const void *b_ih[2], *b_hh[2];                          /* S (4H,), optional */
  const void *w_ch[2];                                    /* S (3, H) peepholes of i, f, o, optional */
  const void *w_hr[2];                                    /* S (P, H) projection; both or none */
  const void *packed;                                     /* from tg_pack, optional */
  const int64_t *lengths;                                 /* (B,), optional */
  const uint8_t *reset;                                   /* (T, B), optional */
  int64_t seed;                                           /* of the random masks */
  double recurrent_dropout, zoneout_hidden, zoneout_cell; /* rates */
  int64_t training;                                       /* random masks, or their expectation */
  int64_t first_step;                                     /* the masks' index of the first step */
  int64_t first_direction;                                /* 1: the only direction reads from the end */
  void *output;                                           /* S (T, B, D, P) */
  void *cells;                                            /* A (T, B, D, H); optional without gates */
  void *gates;                                            /* S (D, T, B, tg_gate_width) for the backward pass, optional */
  void *h_n;                                              /* S (D, B, P) */
  void *c_n;                                              /* A (D, B, H) */
  /* The backward pass reads all of the above but h_n and c_n, and: */
  const void *d_output;                                   /* S, optional */
  const void *d_cells;                                    /* A (T, B, D, H), optional */
  const void *d_h_n;                                      /* S (D, B, P), optional */
  const void *d_c_n;                                      /* A (D, B, H), optional */
  void *d_x;                                              /* S (T, B, I), optional */
  void *d_h_0;                                            /* S (D, B, P), optional */
  void *d_c_0;                                            /* A (D, B, H), optional */
  void *d_w_ih[2], *d_w_hh[2];                            /* S, as the weights */
  void *d_b_ih[2], *d_b_hh[2];                            /* S (4H,), optional; the same numbers */
  void *d_w_ch[2];                                        /* S (3, H), optional */
  void *d_w_hr[2];                                        /* S (P, H), with w_hr */
  /* Layer normalisation: all three for each direction, or none. */
  const void *norm_ih[2], *norm_hh[2];                    /* S (4H,) gains of the input's and the recurrent part */
  const void *norm_c[2];                                  /* S (2, H) gain and bias of the long-term memory */
  void *d_norm_ih[2], *d_norm_hh[2], *d_norm_c[2];        /* S, as those */
  int64_t open_gates;                                     /* 1: `gates` is to look at, A (D, T, B, [i f g o][H rounded
                                                             up]), activated, whatever the layer, 0 past a row's
                                                             length; no backward pass */
  void *kept;                                             /* for tg_forward, optional: see tg_kept_bytes */
} tg_lstm;

enum { TG_OK = 0, TG_BAD_CALL = 1, TG_NO_MEMORY = 2, TG_STALE = 3 };

/* With `packed`, the weights given beside it are sampled: TG_STALE, and nothing is done, where the
 * packed ones were made from others. Without them (all w_ih, w_hh null) packed weights stand alone.
 * h_n may be output's last step. */
TG_API int tg_forward(const tg_lstm *call);
TG_API int tg_backward(const tg_lstm *call);

/* One step through a stack of one-directional layers: `calls` holds a prepared call for each, whose
 * arrays are replaced by those given here. One struct, as an argument costs ctypes more than a field. */
typedef struct tg_steps {
  const tg_lstm *calls;
  int64_t layers;
  const void *x;           /* S (B, I) */
  const void *h_0, *c_0;   /* S (layers, B, P) and A (layers, B, H) */
  const uint8_t *reset;    /* (B,), optional */
  void *output;            /* S (B, P) */
  void *h_n, *c_n;         /* S (layers, B, P) and A (layers, B, H) */
} tg_steps;
TG_API int tg_step(const tg_steps *steps);

/* One row of what is saved for the backward pass, in elements: the 4H activated gates, with H rounded
 * up to whole vectors; with layer normalisation twice that and two vectors. */
TG_API int64_t tg_gate_width(int64_t dtype, int64_t H, int64_t norm);

/* Weights of all directions as the forward kernels read them; tg_pack fills that many bytes. */
TG_API int64_t tg_packed_bytes(const tg_lstm *call);
TG_API int tg_pack(const tg_lstm *call, void *packed);

/* Memory, aligned to 64 bytes and its first 8 bytes zero at first, in which one layer's packed weights stay from call to
 * call: blocks of which any bit has changed since are packed again. No two calls use it at once. */
TG_API int64_t tg_kept_bytes(const tg_lstm *call);

/* Instruction sets: the names this build and this processor can run, joined by commas, fastest
 * first; the one in use; and a change of it (0 if unknown). */
TG_API const char *tg_isa_names(void);
TG_API const char *tg_isa(void);
TG_API int tg_set_isa(const char *name);

/* The OpenMP runtime that the process has already loaded: the addresses of GOMP_parallel,
 * omp_get_thread_num and omp_get_num_threads. Without it everything runs on one thread. */
TG_API void tg_set_openmp(void *parallel, void *thread_num, void *num_threads);

/* Shall all calls take all the threads that they may, also those that would be faster on fewer? For tests. */
TG_API void tg_take_all_threads(int64_t all);

/* Large buffers that are kept warm between calls (fresh pages cost more than the arithmetic). */
TG_API void *tg_pool_take(int64_t bytes);
TG_API void tg_pool_give(void *data);
TG_API void tg_pool_trim(void);
TG_API int64_t tg_pool_bytes(void);

/* The processor's FMA peak in operations per second over `threads` threads, for `seconds`. */
TG_API double tg_measure_peak(int64_t dtype, int64_t threads, double seconds);

/* Activation functions as the kernels compute them, for tests: 0 sigmoid, 1 tanh. */
TG_API int tg_activation(int64_t function, int64_t dtype, const void *x, void *y, int64_t count);

#ifdef __cplusplus
}
#endif
#endif
