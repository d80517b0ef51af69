// LayerNorm of tokens (rows, C), and of the sum of two tensors, which is written too; its gradients. C is a multiple of 16.
//
// PyTorch's reads its input twice, and the sum is a pass of its own; under autocast it converts its input to float32 and the
// next layer its result back. Built once per element type of the input and of the result; sums are float32.

#include <algorithm>
#include <cmath>

#include "lanes.h"

#ifndef RESULT
#define RESULT ELEMENT
#endif
typedef RESULT result;

struct Norm {
  const element *x, *plus;     // plus: added to x, or null
  const result* dout;          // the gradient of the result
  const float *weight, *bias;  // (C), or null
  element *sum, *dx;           // sum: x + plus, or null; dx: the gradient of x
  result* out;
  float* dweight;  // (2, C): the gradients of weight and bias
  int64_t rows, channels, threads;
  double eps;
};

// Copy the rows `first` to `last` of x [+ plus], at most ROWS of them, to `tokens`, where they stay in first-level cache;
// their means, and 1/√(variance + ε).
static void read(const Norm& p, int64_t first, int64_t last, float* tokens, float* mean, float* factor) {
  const int64_t n = p.channels;
  vec totals[ROWS] = {}, squares[ROWS] = {};
  for (int64_t r = first; r < last; r++) {
    float* token = tokens + (r - first) * n;
    for (int64_t c = 0; c < n; c += LANES) {
      vec x = load(p.x + r * n + c);
      if (p.plus) {
        x += load(p.plus + r * n + c);
        store(p.sum + r * n + c, x);
      }
      store(token + c, x);
      totals[r - first] += x;
    }
  }
  store(mean, sums_across(totals) * (1.0f / n));
  for (int64_t r = 0; r < last - first; r++)
    for (int64_t c = 0; c < n; c += LANES) {
      const vec difference = load(tokens + r * n + c) - mean[r];
      squares[r] += difference * difference;
    }
  store(factor, sums_across(squares));
  for (int64_t r = 0; r < last - first; r++) factor[r] = 1 / std::sqrt(factor[r] / n + float(p.eps));
}

static void normalise(const Norm& p, int64_t first, int64_t last, float* tokens) {
  alignas(64) float mean[LANES], factor[LANES];
  const int64_t n = p.channels;
  read(p, first, last, tokens, mean, factor);
  for (int64_t r = 0; r < last - first; r++)
    for (int64_t c = 0; c < n; c += LANES) {
      vec y = (load(tokens + r * n + c) - mean[r]) * factor[r];
      if (p.weight) y = y * load(p.weight + c) + load(p.bias + c);
      store(p.out + (first + r) * n + c, y);
    }
}

// dx of the rows, and their share of the gradients of weight and bias, added to `share` (2, C). With g = dout∘weight:
// dx = (g − mean(g) − x̂·mean(g∘x̂))/√(variance + ε).
static void differentiate(const Norm& p, int64_t first, int64_t last, float* tokens, float* share) {
  alignas(64) float mean[LANES], factor[LANES], level[LANES], slope[LANES];
  const int64_t n = p.channels, count = last - first;
  float* gradients = tokens + ROWS * n;
  read(p, first, last, tokens, mean, factor);
  vec levels[ROWS] = {}, slopes[ROWS] = {};
  for (int64_t c = 0; c < n; c += LANES) {
    const vec weight = load(p.weight + c);
    vec dweight = load(share + c), dbias = load(share + n + c);
    for (int64_t r = 0; r < count; r++) {
      const vec y = (load(tokens + r * n + c) - mean[r]) * factor[r], dout = load(p.dout + (first + r) * n + c);
      const vec g = dout * weight;
      dweight += dout * y, dbias += dout;
      levels[r] += g, slopes[r] += g * y;
      store(tokens + r * n + c, y), store(gradients + r * n + c, g);
    }
    store(share + c, dweight), store(share + n + c, dbias);
  }
  store(level, sums_across(levels) * (1.0f / n)), store(slope, sums_across(slopes) * (1.0f / n));
  for (int64_t r = 0; r < count; r++)
    for (int64_t c = 0; c < n; c += LANES) {
      const vec g = load(gradients + r * n + c), y = load(tokens + r * n + c);
      store(p.dx + (first + r) * n + c, (g - level[r] - y * slope[r]) * factor[r]);
    }
}

// out = LayerNorm(x [+ plus]) [∘ weight + bias]
extern "C" void layer_norm(const Norm* problem) {
  const Norm& p = *problem;
#pragma omp parallel for num_threads(p.threads) schedule(static)
  for (int64_t r = 0; r < p.rows; r += ROWS) normalise(p, r, std::min(p.rows, r + ROWS), scratch(ROWS * p.channels));
}

extern "C" void layer_norm_backward(const Norm* problem) {
  const Norm& p = *problem;
  constexpr int64_t PARTS = 64;  // whose shares are added in their order: no result depends on the number of threads
  const int64_t n = p.channels, rows = (p.rows + PARTS * ROWS - 1) / (PARTS * ROWS) * ROWS;
  Buffer shares;
  shares.reserve(PARTS * 2 * n);
  std::memset(shares, 0, PARTS * 2 * n * sizeof(float));
#pragma omp parallel for num_threads(p.threads) schedule(static)
  for (int64_t part = 0; part < PARTS; part++)
    for (int64_t r = part * rows; r < std::min(p.rows, (part + 1) * rows); r += ROWS)
      differentiate(p, r, std::min(p.rows, r + ROWS), scratch(2 * ROWS * n), shares + part * 2 * n);
  std::memset(p.dweight, 0, 2 * n * sizeof(float));
  for (int64_t part = 0; part < PARTS; part++)
    for (int64_t c = 0; c < 2 * n; c++) p.dweight[c] += shares[part * 2 * n + c];
}
