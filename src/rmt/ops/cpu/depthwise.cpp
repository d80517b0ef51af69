// Depthwise convolution of tokens (B, h, w, C), lanes across channels: forward, and both gradients.
//
// PyTorch's own reads every token once per tap, is several times slower backward, and copies views first.
// Built once per kernel size and element type. C is a multiple of 16. Sums, weights and biases are float32.

#include <algorithm>
#include <cstring>

#include "vectors.h"

constexpr int K = KERNEL, R = K / 2;
constexpr int GROUP = 8;            // tokens of a row at a time
constexpr int64_t CACHE = 1 << 17;  // floats of rows at a time, half of a second-level cache
constexpr int64_t FEWEST = 64;      // channels at a time

struct Convolution {
  const element *x, *plus;            // plus as x, or null
  const float *weight, *bias, *shift; // weight (K·K, C); bias (C) or null; shift (C) or null: added to x
  void* out;                          // elements; floats for the gradient of the weights
  int64_t x_image, x_token, plus_image, plus_token;  // strides in elements; `out` is contiguous
  int64_t images, height, width, channels, gelu, threads;
};

// K rows of the input at a time for one block of channels, copied to the layout that the taps read: vector by vector, the
// tokens of a row one after the other, with zeros around them. Each tap is then at a fixed distance, borders are no
// special case, and everything is in first- and second-level cache (in the input, the tokens of one vector are a kilobyte
// apart, which maps them to a few cache sets). GELU is computed once for all taps.
struct Rows {
  const Convolution& p;
  const int64_t channel, vectors, groups, pitch;  // pitch: floats of one vector's row
  Buffer data;

  Rows(const Convolution& p, int64_t channel, int64_t vectors)
      : p(p), channel(channel), vectors(vectors), groups((p.width + GROUP - 1) / GROUP),
        pitch((groups * GROUP + 2 * R) * LANES) {
    data.reserve(K * vectors * pitch);
    std::memset(data, 0, K * vectors * pitch * sizeof(float));
  }

  float* at(int64_t y, int64_t v) { return data + ((y + K) % K * vectors + v) * pitch; }

  void read(int64_t b, int64_t y) {
    if (y < 0 || y >= p.height)
      std::memset(at(y, 0), 0, vectors * pitch * sizeof(float));
    else if (p.gelu)
      p.shift ? read_row<true, true>(b, y) : read_row<false, true>(b, y);
    else
      p.shift ? read_row<true, false>(b, y) : read_row<false, false>(b, y);
  }

  template <bool SHIFT, bool GELU>
  void read_row(int64_t b, int64_t y) {
    const element* from = p.x + b * p.x_image + y * p.width * p.x_token + channel;
    const float* shift = p.shift + channel;
    float* to = at(y, 0) + R * LANES;
    const int64_t n = vectors, step = pitch;  // the compiler cannot know that stores to `to` leave them alone
    for (int64_t x = 0; x < p.width; x++, from += p.x_token, to += LANES)
      for (int64_t v = 0; v < n; v++) {
        vec value = load(from + v * LANES);
        if (SHIFT) value += load(shift + v * LANES);
        store(to + v * step, GELU ? gelu<element>(value) : value);
      }
  }

  // Row y of the output.
  void convolve(int64_t b, int64_t y) {
    for (int64_t g = 0; g < groups; g++)
      for (int64_t v = 0; v < vectors; v++) {
        const int64_t c = channel + v * LANES, x0 = g * GROUP, n = std::min<int64_t>(GROUP, p.width - x0);
        const element* plus = p.plus + b * p.plus_image + (y * p.width + x0) * p.plus_token + c;
        vec acc[GROUP];
        for (int i = 0; i < GROUP; i++) acc[i] = vec{};
        for (int ky = 0; ky < K; ky++) {
          const float* in = at(y + ky - R, v) + x0 * LANES;
          vec w[K];
          for (int kx = 0; kx < K; kx++) w[kx] = load(p.weight + (ky * K + kx) * p.channels + c);
#pragma GCC unroll 16
          for (int i = 0; i < GROUP + K - 1; i++) {
            const vec value = load(in + i * LANES);
#pragma GCC unroll 8
            for (int kx = 0; kx < K; kx++)
              if (i >= kx && i - kx < GROUP) acc[i - kx] += w[kx] * value;
          }
        }
        const vec bias = p.bias ? load(p.bias + c) : vec{};  // after the taps, so that their sum is rounded without it
        element* out = (element*)p.out + ((b * p.height + y) * p.width + x0) * p.channels + c;
        for (int i = 0; i < GROUP; i++) {
          if (i >= n) break;
          store(out + i * p.channels, p.plus ? acc[i] + bias + load(plus + i * p.plus_token) : acc[i] + bias);
        }
      }
  }
};

// out = conv(f(x)) [+ bias] [+ plus], f(x) = x [+ shift] [through GELU]
extern "C" void depthwise_forward(const Convolution* problem) {
  const Convolution& p = *problem;
  // All channels if K rows of them fit into the cache, since contiguous memory is read fastest; otherwise fewer channels,
  // and bands of rows (each reads K − 1 rows of its neighbours) if there are fewer images than threads.
  const int64_t bands = p.images % p.threads ? (p.height + 7) / 8 : 1;
  int64_t block = std::max(FEWEST, CACHE / (K * (p.width + GROUP + K)) / FEWEST * FEWEST);
  block = std::min(block, (p.channels + FEWEST - 1) / FEWEST * FEWEST);
  while (block > FEWEST && p.images * bands * ((p.channels + block - 1) / block) < p.threads) block -= FEWEST;
  const int64_t blocks = (p.channels + block - 1) / block;
#pragma omp parallel for num_threads(p.threads) schedule(static)
  for (int64_t part = 0; part < p.images * blocks * bands; part++) {
    const int64_t b = part / (blocks * bands), channel = part / bands % blocks * block, band = part % bands;
    Rows rows(p, channel, std::min(block, p.channels - channel) / LANES);
    const int64_t first = p.height * band / bands, last = p.height * (band + 1) / bands;
    for (int64_t y = first - R; y < first + R; y++) rows.read(b, y);
    for (int64_t y = first; y < last; y++) {
      rows.read(b, y + R);
      rows.convolve(b, y);
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
      const element *image = p.x + b * p.x_image + c, *gradient = p.plus + b * p.plus_image + c;
      for (int64_t y = 0; y < p.height; y++) {
        vec bias = {};
        for (int64_t x = 0; x < p.width; x++) bias += load(gradient + (y * p.width + x) * p.plus_token);
        total[K * K] += bias;
        for (int ky = 0; ky < K; ky++) {
          const int64_t row = y + ky - R;
          if (row < 0 || row >= p.height) continue;
          vec acc[K] = {};
          const element *in = image + row * p.width * p.x_token, *up = gradient + y * p.width * p.plus_token;
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
    for (int t = 0; t <= K * K; t++) store((float*)p.out + t * p.channels + c, total[t]);
  }
}
