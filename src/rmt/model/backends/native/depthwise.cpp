// Depthwise convolution of tokens (B, h, w, C), lanes across channels: forward, and both gradients.
//
// PyTorch's own is as fast forward, but several times slower backward, and wants copies of views.
// Built once per kernel size. C is a multiple of 16.

#include <algorithm>
#include <cstdint>
#include <cstring>

#ifdef __AVX512F__
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif

typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
using std::int64_t;

constexpr int K = KERNEL, R = K / 2, GROUP = 8;  // tokens of a row at a time

static inline vec load(const float* p) { return *(const vec*)p; }
static inline void store(float* p, vec x) { *(vec*)p = x; }

struct Convolution {
  const float *x, *plus, *weight, *bias;  // weight (K·K, C); bias (C) or null; plus as x, or null
  float* out;
  int64_t x_image, x_token, plus_image, plus_token;  // strides in floats; `out` is contiguous
  int64_t images, height, width, channels, threads;
};

// N tokens of a row, from column x0, for one vector of channels; EDGE: some taps may lie outside.
template <int N, bool EDGE>
static inline void convolve(const Convolution& p, const float* image, int64_t y, int64_t x0, int64_t c, vec* acc) {
  for (int ky = 0; ky < K; ky++) {
    const int64_t row = y + ky - R;
    if (row < 0 || row >= p.height) continue;
    for (int kx = 0; kx < K; kx++) {
      const vec w = load(p.weight + (ky * K + kx) * p.channels + c);
      for (int i = 0; i < N; i++) {
        const int64_t column = x0 + i + kx - R;
        if (EDGE && (column < 0 || column >= p.width)) continue;
        acc[i] += w * load(image + (row * p.width + column) * p.x_token + c);
      }
    }
  }
}

// out = conv(x) [+ bias] [+ plus]
extern "C" void depthwise_forward(const Convolution* problem) {
  const Convolution& p = *problem;
#pragma omp parallel for num_threads(p.threads) schedule(static)
  for (int64_t line = 0; line < p.images * p.height; line++) {
    const int64_t b = line / p.height, y = line % p.height;
    const float* image = p.x + b * p.x_image;
    for (int64_t c = 0; c < p.channels; c += LANES) {
      const vec bias = p.bias ? load(p.bias + c) : vec{};
      for (int64_t x0 = 0; x0 < p.width;) {
        const bool inside = x0 >= R && x0 + GROUP + R <= p.width;
        const int n = inside ? GROUP : 1;
        vec acc[GROUP];
        for (int i = 0; i < n; i++) {
          const float* plus = p.plus + b * p.plus_image + (y * p.width + x0 + i) * p.plus_token + c;
          acc[i] = p.plus ? bias + load(plus) : bias;
        }
        if (inside)
          convolve<GROUP, false>(p, image, y, x0, c, acc);
        else
          convolve<1, true>(p, image, y, x0, c, acc);
        for (int i = 0; i < n; i++) store(p.out + (line * p.width + x0 + i) * p.channels + c, acc[i]);
        x0 += n;
      }
    }
  }
}

// The gradient of the weights, into out (K·K + 1, C), the last row that of the bias: `plus` is that of the output.
extern "C" void depthwise_weight_gradient(const Convolution* problem) {
  const Convolution& p = *problem;
#pragma omp parallel for num_threads(p.threads) schedule(static)
  for (int64_t c = 0; c < p.channels; c += LANES) {
    vec total[K * K + 1] = {};
    for (int64_t b = 0; b < p.images; b++) {
      const float *image = p.x + b * p.x_image + c, *gradient = p.plus + b * p.plus_image + c;
      for (int64_t y = 0; y < p.height; y++) {
        vec bias = {};
        for (int64_t x = 0; x < p.width; x++) bias += load(gradient + (y * p.width + x) * p.plus_token);
        total[K * K] += bias;
        for (int ky = 0; ky < K; ky++) {
          const int64_t row = y + ky - R;
          if (row < 0 || row >= p.height) continue;
          vec acc[K] = {};
          const float *in = image + row * p.width * p.x_token, *up = gradient + y * p.width * p.plus_token;
          for (int64_t x = 0; x < p.width; x++) {
            const vec g = load(up + x * p.plus_token);
            if (x >= R && x + R < p.width) {
              for (int kx = 0; kx < K; kx++) acc[kx] += g * load(in + (x + kx - R) * p.x_token);
            } else {
              for (int kx = 0; kx < K; kx++)
                if (x + kx >= R && x + kx - R < p.width) acc[kx] += g * load(in + (x + kx - R) * p.x_token);
            }
          }
          for (int kx = 0; kx < K; kx++) total[ky * K + kx] += acc[kx];
        }
      }
    }
    for (int t = 0; t <= K * K; t++) store(p.out + t * p.channels + c, total[t]);
  }
}
