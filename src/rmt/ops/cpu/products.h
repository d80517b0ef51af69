// The products of attention for a group of queries at a time.

#pragma once

#include "lanes.h"

constexpr int D = HEAD_DIM;
constexpr int QUERIES = ROWS;  // AVX-512 has 32 registers: 16 for 8 queries × 2 vectors of keys, the others for operands
constexpr int TILE = 2 * LANES;
constexpr int VECTORS = (D + LANES - 1) / LANES, STRIDE = VECTORS * LANES;  // a token's channels, padded with zeros

static inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// The factors of a product lie in 32-bit words: one float each, or two bf16, neighbours along the summed dimension.
template <typename Factor>
constexpr int PER_WORD = 4 / sizeof(Factor);
template <typename Factor>
constexpr int TOKEN_WORDS = D / PER_WORD<Factor>;  // D is even
template <typename Factor>
constexpr int ROW_WORDS = STRIDE / PER_WORD<Factor>;

template <typename Factor>
static inline vec multiply_add(vec a, vec b, vec sum) {
#ifdef BF16_PRODUCTS
  if constexpr (std::is_same_v<Factor, bf16>) return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#endif
  return sum + a * b;
}

// ---- The products, for QUERIES rows at a time ---------------------------------------------------------------------

// Transposed tokens lie in tiles: TILE tokens' first words, then their second ones, and so on.
template <typename Factor>
static inline float* tile(float* columns, int64_t j) { return columns + j * TOKEN_WORDS<Factor>; }

// s[i][j…] = bias[i][j…] + a[i]·b[j…] for one tile, or its first half (VECS 1); columns from `end` on get −∞.
template <typename Factor, int VECS>
static inline void score_step(const float* const* a, const float* b, const float* const* bias, float* s, int64_t lds,
                              int64_t j, int64_t end, vec* top) {
  vec acc[QUERIES][VECS];
  for (int i = 0; i < QUERIES; i++)
    for (int u = 0; u < VECS; u++) acc[i][u] = load(bias[i] + j + u * LANES);
#pragma GCC unroll 4
  for (int c = 0; c < TOKEN_WORDS<Factor>; c++) {
    vec x[VECS];
    for (int u = 0; u < VECS; u++) x[u] = load(b + c * TILE + u * LANES);
    for (int i = 0; i < QUERIES; i++)
      for (int u = 0; u < VECS; u++)
        acc[i][u] = multiply_add<Factor>(splat_word(a[i] + c), x[u], acc[i][u]);
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
template <typename Factor>
static void scores(const float* const* a, float* columns, const float* const* bias, float* s, int64_t lds, int64_t begin,
                   int64_t end, vec* top) {
  int64_t j = begin;
  for (; j + LANES < end; j += TILE) score_step<Factor, 2>(a, tile<Factor>(columns, j), bias, s, lds, j, end, top);
  if (j < end) score_step<Factor, 1>(a, tile<Factor>(columns, j), bias, s, lds, j, end, top);
}

// out[i] = out[i]·keep[i] + Σ_j s[i][j]·b[j], W vectors of channels at a time, j counting words; without `keep`, out[i] is
// not read. With one vector, two words at a time: eight sums would wait for each other.
template <typename Factor, int W>
static inline void accumulate_step(const float* s, int64_t lds, const float* b, int64_t ldb, int64_t begin, int64_t end,
                                   const float* keep, float* out) {
  constexpr int KEYS = W == 1 ? 2 : 1;
  vec acc[KEYS][QUERIES][W] = {};
  int64_t j = begin;
  for (; j + KEYS <= end; j += KEYS)
    for (int t = 0; t < KEYS; t++)
      for (int u = 0; u < W; u++) {
        const vec x = load(b + (j + t) * ldb + u * LANES);
        for (int i = 0; i < QUERIES; i++)
          acc[t][i][u] = multiply_add<Factor>(splat_word(s + i * lds + j + t), x, acc[t][i][u]);
      }
  if (j < end)
    for (int i = 0; i < QUERIES; i++)
      acc[0][i][0] = multiply_add<Factor>(splat_word(s + i * lds + j), load(b + j * ldb), acc[0][i][0]);
  for (int i = 0; i < QUERIES; i++)
    for (int u = 0; u < W; u++) {
      float* p = out + i * STRIDE + u * LANES;
      const vec sum = KEYS == 2 ? acc[0][i][u] + acc[KEYS - 1][i][u] : acc[0][i][u];
      store(p, keep ? load(p) * keep[i] + sum : sum);
    }
}

// For the keys from `begin`, even, to `end`. With two factors per word, those of an odd last key are followed by zeros.
template <typename Factor>
static void accumulate_values(const float* s, int64_t lds, const float* b, int64_t ldb, int64_t begin, int64_t end,
                              const float* keep, float* out) {
  begin /= PER_WORD<Factor>, end = round_up(end, PER_WORD<Factor>) / PER_WORD<Factor>;
  int u = 0;
  for (; u + 2 <= VECTORS; u += 2) accumulate_step<Factor, 2>(s, lds, b + u * LANES, ldb, begin, end, keep, out + u * LANES);
  if (u < VECTORS) accumulate_step<Factor, 1>(s, lds, b + u * LANES, ldb, begin, end, keep, out + u * LANES);
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

// 2^(s − shift[i]) in place, as factors, and their sums (for QUERIES rows, see `across`). One loop per row, so that rows
// do not wait for each other.
template <typename Factor>
static vec exp2_and_sum(float* s, int64_t lds, int64_t begin, int64_t end, const float* shift) {
  vec sums[QUERIES] = {};
  for (int i = 0; i < QUERIES; i++)
    for (int64_t j = begin; j < end; j += LANES) {
      const vec p = power_of_two<Factor>(load(s + i * lds + j) - shift[i]);
      store((Factor*)(s + i * lds) + j, p);
      sums[i] += p;
    }
  return sums_across(sums);
}
