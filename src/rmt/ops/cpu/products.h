// The exponential of vectors, and the products of attention for a group of queries at a time.

#pragma once

#include "vectors.h"

constexpr int D = HEAD_DIM;
constexpr int QUERIES = LANES / 2;  // AVX-512 has 32 registers: 16 for 8 queries × 2 vectors of keys, the others for operands
constexpr int TILE = 2 * LANES;
constexpr int VECTORS = (D + LANES - 1) / LANES, STRIDE = VECTORS * LANES;  // a token's channels, padded with zeros

static inline vec larger(vec a, vec b) { return a < b ? b : a; }
static inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

typedef float quad __attribute__((vector_size(16), aligned(4), may_alias));

// Reduce the lanes of a vector: to four lanes, then to one.
template <typename Combine>
static inline float across(vec x, Combine combine) {
  alignas(64) float lane[LANES];
  store(lane, x);
  quad a = *(const quad*)lane;
  for (int i = 4; i < LANES; i += 4) a = combine(a, *(const quad*)(lane + i));
  const quad b = combine(a, quad{a[2], a[3], a[2], a[3]});
  return combine(b, quad{b[1], b[1], b[1], b[1]})[0];
}
static inline float sum(vec x) {
  return across(x, [](quad a, quad b) { return a + b; });
}
static inline float largest(vec x) {
  return across(x, [](quad a, quad b) { return a < b ? b : a; });
}

// 2^x for x ≤ 0 to 2 units in the last place: 2^n·2^r with |r| ≤ ½. NaN stays NaN. Below 2^−100 the result is 0,
// which does not change a sum that contains a 1, and keeps slow denormal numbers out of the products.
static inline vec power_of_two(vec x) {
  const vec magic = splat(12582912.0f);  // 1.5·2^23: adding it rounds to the nearest integer
  const vec t = x + magic, r = x - (t - magic);
  vec p = splat(1.32764e-3f);
  p = p * r + 9.67554e-3f;
  p = p * r + 5.550713e-2f;
  p = p * r + 2.402212e-1f;
  p = p * r + 6.9314697e-1f;
  p = p * r + 1.00000007f;
  p = (vec)((ivec)p + ((ivec)t << 23));
  return x < splat(-100.0f) ? vec{} : p;
}

// ---- The products, for QUERIES rows at a time ---------------------------------------------------------------------

// Transposed tokens lie in tiles: TILE tokens' first channels, then their second ones, and so on.
static inline float* tile(float* columns, int64_t j) { return columns + j * D; }

// s[i][j…] = bias[i][j…] + a[i]·b[j…] for one tile, or its first half (VECS 1); columns from `end` on get −∞.
template <int VECS>
static inline void score_step(const float* a, const float* b, const float* const* bias, float* s, int64_t lds,
                              int64_t j, int64_t end, vec* top) {
  vec acc[QUERIES][VECS];
  for (int i = 0; i < QUERIES; i++)
    for (int u = 0; u < VECS; u++) acc[i][u] = load(bias[i] + j + u * LANES);
#pragma GCC unroll 4
  for (int c = 0; c < D; c++) {
    vec x[VECS];
    for (int u = 0; u < VECS; u++) x[u] = load(b + c * TILE + u * LANES);
    for (int i = 0; i < QUERIES; i++)
      for (int u = 0; u < VECS; u++) acc[i][u] += a[i * STRIDE + c] * x[u];
  }
  if (j + VECS * LANES > end) {
    ivec lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    for (int u = 0; u < VECS; u++) {
      const ivec inside = lane + int(j + u * LANES) < int(end) - ivec{};
      for (int i = 0; i < QUERIES; i++) acc[i][u] = inside ? acc[i][u] : splat(-1e30f);
    }
  }
  for (int i = 0; i < QUERIES; i++)
    for (int u = 0; u < VECS; u++) {
      store(s + i * lds + j + u * LANES, acc[i][u]);
      top[i] = larger(top[i], acc[i][u]);
    }
}

// The same for all columns from `begin`, a tile's first, to `end`; top[i] is raised to the largest per lane.
static void scores(const float* a, float* columns, const float* const* bias, float* s, int64_t lds, int64_t begin,
                   int64_t end, vec* top) {
  int64_t j = begin;
  for (; j + LANES < end; j += TILE) score_step<2>(a, tile(columns, j), bias, s, lds, j, end, top);
  if (j < end) score_step<1>(a, tile(columns, j), bias, s, lds, j, end, top);
}

// out[i] = out[i]·keep[i] + Σ_j s[i][j]·b[j], W vectors of channels at a time. With one vector, two keys at a time:
// eight sums would wait for each other.
template <int W>
static inline void accumulate_step(const float* s, int64_t lds, const float* b, int64_t begin, int64_t end, const float* keep,
                            float* out) {
  constexpr int KEYS = W == 1 ? 2 : 1;
  vec acc[KEYS][QUERIES][W] = {};
  int64_t j = begin;
  for (; j + KEYS <= end; j += KEYS)
    for (int t = 0; t < KEYS; t++)
      for (int u = 0; u < W; u++) {
        const vec x = load(b + (j + t) * STRIDE + u * LANES);
        for (int i = 0; i < QUERIES; i++) acc[t][i][u] += s[i * lds + j + t] * x;
      }
  if (j < end)
    for (int i = 0; i < QUERIES; i++) acc[0][i][0] += s[i * lds + j] * load(b + j * STRIDE);
  for (int i = 0; i < QUERIES; i++)
    for (int u = 0; u < W; u++) {
      float* p = out + i * STRIDE + u * LANES;
      store(p, load(p) * keep[i] + (KEYS == 2 ? acc[0][i][u] + acc[KEYS - 1][i][u] : acc[0][i][u]));
    }
}

static void accumulate_values(const float* s, int64_t lds, const float* b, int64_t begin, int64_t end, const float* keep,
                float* out) {
  int u = 0;
  for (; u + 2 <= VECTORS; u += 2) accumulate_step<2>(s, lds, b + u * LANES, begin, end, keep, out + u * LANES);
  if (u < VECTORS) accumulate_step<1>(s, lds, b + u * LANES, begin, end, keep, out + u * LANES);
}

// b[j] += Σ_i s[i][j]·a[i], the transposed product of the backward pass.
static void scatter(const float* s, int64_t lds, const float* a, int64_t begin, int64_t end, float* b) {
  for (int u = 0; u < VECTORS; u++) {
    vec x[QUERIES];
    for (int i = 0; i < QUERIES; i++) x[i] = load(a + i * STRIDE + u * LANES);
    for (int64_t j = begin; j < end; j++) {
      float* p = b + j * STRIDE + u * LANES;
      vec acc = load(p);
      for (int i = 0; i < QUERIES; i++) acc += s[i * lds + j] * x[i];
      store(p, acc);
    }
  }
}

// 2^(s − shift[i]) in place, and their sums. One loop per row, so that rows do not wait for each other.
static void exp2_and_sum(float* s, int64_t lds, int64_t begin, int64_t end, const float* shift, float* total) {
  vec sums[QUERIES] = {};
  for (int i = 0; i < QUERIES; i++)
    for (int64_t j = begin; j < end; j += LANES) {
      const vec p = power_of_two(load(s + i * lds + j) - shift[i]);
      store(s + i * lds + j, p);
      sums[i] += p;
    }
  for (int i = 0; i < QUERIES; i++) total[i] = sum(sums[i]);
}

// ---- Transposition ------------------------------------------------------------------------------------------------

#if defined(__clang__) || __GNUC__ >= 12
// Rows of LANES floats to columns: interleaving the two halves of a list of vectors log₂ LANES times transposes it.
static inline void transpose(vec* rows) {
  vec other[LANES];
  for (int stage = 1; stage < LANES; stage *= 2) {
    for (int i = 0; i < LANES / 2; i++) {
      const vec a = rows[i], b = rows[i + LANES / 2];
#ifdef __AVX512F__
      other[2 * i] = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      other[2 * i + 1] = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#else
      other[2 * i] = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
      other[2 * i + 1] = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#endif
    }
    for (int i = 0; i < LANES; i++) rows[i] = other[i];
  }
}
#else  // older compilers do not have __builtin_shufflevector
static inline void transpose(vec* rows) {
  for (int i = 0; i < LANES; i++)
    for (int j = 0; j < i; j++) {
      const float x = rows[i][j];
      rows[i][j] = rows[j][i], rows[j][i] = x;
    }
}
#endif
