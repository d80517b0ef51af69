// What moves between the lanes of vectors: transposition, and sums over the lanes of several vectors.

#pragma once

#include "vectors.h"

constexpr int ROWS = LANES / 2;  // vectors whose lanes are summed at a time

static inline vec larger(vec a, vec b) { return a < b ? b : a; }

// a₀ b₀ a₁ b₁ …, in two vectors.
static inline void interleave(vec a, vec b, vec& low, vec& high) {
#if !defined(__clang__) && __GNUC__ < 12  // no __builtin_shufflevector
  for (int i = 0; i < LANES / 2; i++) {
    low[2 * i] = a[i], low[2 * i + 1] = b[i];
    high[2 * i] = a[i + LANES / 2], high[2 * i + 1] = b[i + LANES / 2];
  }
#elif defined(__AVX512F__)
  low = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  high = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#else
  low = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
  high = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#endif
}

static inline vec swap_halves(vec x) {
#if !defined(__clang__) && __GNUC__ < 12
  vec y;
  for (int i = 0; i < LANES; i++) y[i] = x[(i + LANES / 2) % LANES];
  return y;
#elif defined(__AVX512F__)
  return __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
#else
  return __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3);
#endif
}

// Rows of LANES words to columns: interleaving the two halves of a list of vectors log₂ LANES times transposes it.
static inline void transpose(vec* rows) {
  vec other[LANES];
  for (int stage = 1; stage < LANES; stage *= 2) {
    for (int i = 0; i < LANES / 2; i++) interleave(rows[i], rows[i + LANES / 2], other[2 * i], other[2 * i + 1]);
    for (int i = 0; i < LANES; i++) rows[i] = other[i];
  }
}

// Combine the lanes of each of ROWS vectors, to lane i for vector i (and again from lane ROWS on).
template <typename Combine>
static inline vec across(const vec* rows, Combine combine) {
  vec x[ROWS], low, high;
  for (int i = 0; i < ROWS; i++) x[i] = rows[i];
  for (int n = ROWS / 2; n; n /= 2)
    for (int i = 0; i < n; i++) {
      interleave(x[i], x[i + n], low, high);
      x[i] = combine(low, high);
    }
  return combine(x[0], swap_halves(x[0]));
}
static inline vec sums_across(const vec* rows) {
  return across(rows, [](vec a, vec b) { return a + b; });
}
static inline vec largest_across(const vec* rows) {
  return across(rows, larger);
}
