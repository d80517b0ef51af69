// LayerNorm of tokens (rows, C), and of the sum of two tensors, which is written too. C is a multiple of 16.
//
// PyTorch's reads its input twice, and the sum is a pass of its own. Built once per element type; sums are float32.

#include <algorithm>
#include <cmath>

#include "lanes.h"

struct Norm {
  const element *x, *plus;     // plus: added to x, or null
  const float *weight, *bias;  // (C), or null
  element *sum, *out;          // sum: x + plus, or null
  int64_t rows, channels, threads;
  double eps;
};

// Rows `first` to `last`, at most ROWS of them: their floats stay in first-level cache from one pass to the next.
static void normalise(const Norm& p, int64_t first, int64_t last, float* tokens) {
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
  alignas(64) float mean[LANES], scale[LANES];
  store(mean, sums_across(totals) * (1.0f / n));
  for (int64_t r = 0; r < last - first; r++)
    for (int64_t c = 0; c < n; c += LANES) {
      const vec difference = load(tokens + r * n + c) - mean[r];
      squares[r] += difference * difference;
    }
  store(scale, sums_across(squares));
  for (int64_t r = 0; r < last - first; r++) {
    const float factor = 1 / std::sqrt(scale[r] / n + float(p.eps));
    for (int64_t c = 0; c < n; c += LANES) {
      vec y = (load(tokens + r * n + c) - mean[r]) * factor;
      if (p.weight) y = y * load(p.weight + c) + load(p.bias + c);
      store(p.out + (first + r) * n + c, y);
    }
  }
}

// out = LayerNorm(x [+ plus]) [∘ weight + bias]
extern "C" void layer_norm(const Norm* problem) {
  const Norm& p = *problem;
#pragma omp parallel num_threads(p.threads)
  {
    Buffer tokens;
    tokens.reserve(ROWS * p.channels);
#pragma omp for schedule(static)
    for (int64_t r = 0; r < p.rows; r += ROWS) normalise(p, r, std::min(p.rows, r + ROWS), tokens);
  }
}
