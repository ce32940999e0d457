// How a call's work is cut: into thread groups (of rows, or of blocks of units) and into chunks.
// None of these choices changes a result, except CHUNK_* of the weight gradients, which therefore
// depend on shapes only.
#pragma once

#include "layout.h"

namespace tg {
namespace TG_ISA {

constexpr int64_t L2_BYTES = 768 * 1024;  // what weights may fill of it
constexpr int64_t LAST_BYTES = 8 << 20;   // of one direction's weights, where both may be too many for the last cache

struct Split {
  int64_t groups;  // of rows, each with its own pace
  int64_t team;    // threads of a group, which share its blocks and meet after every step
};

// Rows whose gradients of biases and gains are summed as they come, at most 32 sums in all. Threads
// take whole bundles, so the sums do not depend on the number of threads.
template <class S>
inline int64_t norm_bundle(const Sizes<S>& z) {
  return z.B > 32 ? (z.B + 31) / 32 : 1;
}
template <class S>
inline int64_t norm_bundles(const Sizes<S>& z) {
  return (z.B + norm_bundle(z) - 1) / norm_bundle(z);
}

constexpr int64_t NEAR_BYTES = 128 * 1024;  // recurrent weights that few rows are worth reading for

// Rows are cut while every thread keeps enough of them for the weights that it reads; otherwise units are cut, and the
// threads meet after every step.
template <class S>
inline Split split_threads(const Sizes<S>& z, int64_t rows, int64_t threads, bool backward) {
  if (threads == 1) return {1, 1};
  if (z.norm) {  // a step needs sums over all units: only rows are cut
    int64_t most = backward ? norm_bundles(z) : rows;
    return {most < 1 ? 1 : (threads < most ? threads : most), 1};
  }
  int64_t weights = z.recurrent() * (int64_t)sizeof(S);
  int64_t wanted = backward ? 16 * MAX_ROWS : 8 * MAX_ROWS;
  if (weights <= 2 * L2_BYTES) wanted = MAX_ROWS;
  if (weights <= NEAR_BYTES && rows < MAX_ROWS) wanted = 2;
  int64_t groups = threads;
  while (groups > 1 && (threads % groups || rows / groups < wanted)) --groups;
  int64_t team = threads / groups;
  if (team > z.blocks) return {groups, z.blocks};
  return {groups, team};
}

// Do both directions run at the same time, each on half of the threads? Not where a row or two read weights from beyond the
// L2 caches, of which one direction at a time needs half, or where the last cache holds one direction's only.
template <class S>
inline bool side_by_side(const Sizes<S>& z, int64_t threads) {
  if (z.D == 1 || threads % 2) return false;
  const int64_t weights = z.recurrent() * (int64_t)sizeof(S);
  return z.norm || !(weights > LAST_BYTES || (z.B <= 2 && weights / (threads / 2) > L2_BYTES));
}

// Threads worth waking for this call: a very small one is over before they come, and for a small one it is tried. A single
// step of few rows is bound by how fast the caches give the weights, and two processors have two L2 caches.
template <class S>
inline Choice useful_threads(const tg_lstm& p, bool backward) {
  Sizes<S> z(p);
  const double step = (double)z.recurrent() * (double)z.B * (double)z.D;  // multiply-adds of the recurrent part
  int64_t most = z.D * z.B * (z.norm ? 1 : z.blocks);  // with norm only rows are cut
  if (p.threads < most) most = p.threads;
  const bool far = z.T == 1 && (z.I * z.G + z.recurrent()) * (int64_t)sizeof(S) > L2_BYTES;
  if (step * (double)z.T < 4e5 && !far && !takes_all_threads()) most = 1;
  const bool small = step < 6e5 && z.B < 2 * MAX_ROWS;
  return {backward ? 2 : p.gates ? 1 : 0, step, z.T, most < 1 ? 1 : (int)most, small};
}

// Rows of inputs that are projected at once, 0 for none: small weights, and those of a single step, join the step's tile.
template <class S>
inline int64_t projection_rows(const Sizes<S>& z, int64_t rows, int64_t team) {
  int64_t weights = (z.I * z.G + z.recurrent()) / team * (int64_t)sizeof(S);
  if (z.norm) return rows > 160 ? rows : (rows * z.T < 160 ? rows * z.T : 160);
  if (rows >= MAX_ROWS && weights <= L2_BYTES) return 0;
  if (rows >= 96 || z.T == 1) return 0;
  int64_t chunk = 160;
  if (chunk > rows * z.T) chunk = rows * z.T;
  return chunk > rows ? chunk : rows;
}

// Parts of the rows whose backward passes share nothing but their inputs: each has its own chunks and sums of
// weight gradients, so threads with parts of their own need not wait for each other or pass lines to and fro.
template <class S>
inline int64_t row_parts(const Sizes<S>& z) {
  const int64_t weights = z.recurrent() * (int64_t)sizeof(S);
  if (z.norm || weights > 2 * L2_BYTES) return 1;
  const int64_t sums = (z.I * z.G + z.recurrent()) * (int64_t)sizeof(typename Types<S>::A);
  int64_t parts = 1, rows = weights <= NEAR_BYTES ? 2 : 4, all = 128;  // of B and of T B, that each of two keeps at least
  while (parts < 8 && z.B / (2 * parts) >= rows && z.T * z.B / (2 * parts) >= all && 2 * parts * sums <= (16 << 20))
    parts *= 2, rows = 16, all = 512;
  return parts;
}

// Teams of threads that take such parts, no more than `most`: each as many threads and as many parts as the others.
inline int64_t part_teams(int64_t parts, int64_t threads, int64_t most) {
  int64_t teams = most < threads ? most : threads;
  while (parts % teams || threads % teams) --teams;
  return teams;
}

// Rows of the backward pass's chunks, for a part of so many rows of the batch.
template <class S>
inline int64_t gradient_rows(const Sizes<S>& z, int64_t part) {
  int64_t rows = (int64_t)(2 << 20) / (z.G * (int64_t)sizeof(S));
  rows = rows < 256 ? 256 : (rows > 1024 ? 1024 : rows);
  if (z.G * (int64_t)sizeof(S) >= 8192) rows = 1024;
  if (rows > z.T * part) rows = z.T * part;
  return rows < part ? part : rows;
}

}  // namespace TG_ISA
}  // namespace tg
