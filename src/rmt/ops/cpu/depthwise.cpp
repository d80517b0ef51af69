// Depthwise convolution of tokens (B, h, w, C), lanes across channels: forward, and all gradients in one pass.
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
  const element *x, *plus, *dout;      // plus: added to the result, or null; dout: the gradient of the result
  const float *weight, *bias, *shift;  // weight (K·K, C); bias (C) or null; shift (C) or null: added to x
  element* out;                        // the result, or the gradient of x; contiguous
  float* dweight;                      // (K·K + 1, C): the gradient of the weight, and in the last row that of the bias
  int64_t x_image, x_token, plus_image, plus_token, dout_image, dout_token;  // strides in elements
  int64_t images, height, width, channels, gelu, residual, threads;
};

// K rows at a time of one block of channels, copied to the layout that the taps read: vector by vector, the tokens of a row
// one after the other, with zeros around them. Each tap is then at a fixed distance, borders are no special case, and
// everything is in first- and second-level cache (in the input, the tokens of one vector are a kilobyte apart, which maps
// them to a few cache sets). GELU is computed once for all taps.
struct Rows {
  const int64_t height, width, vectors, pitch;  // pitch: floats of one vector's row
  float* const data;

  static int64_t row_floats(int64_t width) { return ((width + GROUP - 1) / GROUP * GROUP + 2 * R) * LANES; }
  int64_t size() const { return K * vectors * pitch; }

  Rows(const Convolution& p, int64_t vectors, float* memory)
      : height(p.height), width(p.width), vectors(vectors), pitch(row_floats(p.width)), data(memory) {
    std::memset(data, 0, size() * sizeof(float));
  }

  float* at(int64_t y, int64_t v) { return data + ((y + K) % K * vectors + v) * pitch; }
  vec token(int64_t y, int64_t v, int64_t x) { return load(at(y, v) + (x + R) * LANES); }

  // Copy row y of an image, whose tokens are `step` elements apart, as f(value, its vector of channels, place in a row).
  template <typename F>
  void read(const element* image, int64_t step, int64_t y, F f) {
    if (y < 0 || y >= height) {
      std::memset(at(y, 0), 0, vectors * pitch * sizeof(float));
      return;
    }
    const element* from = image + y * width * step;
    float* to = at(y, 0);
    const int64_t n = vectors, apart = pitch;  // the compiler cannot know that stores to `to` leave them alone
    for (int64_t x = 0, place = R * LANES; x < width; x++, from += step, place += LANES)
      for (int64_t v = 0; v < n; v++) store(to + v * apart + place, f(load(from + v * LANES), v, v * apart + place));
  }

  // sums[i] = Σ taps ∘ the tokens around (y, x + i), for GROUP tokens. TRANSPOSED: the taps in reverse order.
  template <bool TRANSPOSED>
  void convolve(const float* weight, int64_t channels, int64_t y, int64_t v, int64_t x, vec* sums) {
    for (int i = 0; i < GROUP; i++) sums[i] = vec{};
    for (int ky = 0; ky < K; ky++) {
      const float* in = at(y + ky - R, v) + x * LANES;
      vec w[K];
      for (int kx = 0; kx < K; kx++) {
        const int tap = ky * K + kx;
        w[kx] = load(weight + (TRANSPOSED ? K * K - 1 - tap : tap) * channels);
      }
#pragma GCC unroll 16
      for (int i = 0; i < GROUP + K - 1; i++) {
        const vec value = load(in + i * LANES);
#pragma GCC unroll 8
        for (int kx = 0; kx < K; kx++)
          if (i >= kx && i - kx < GROUP) sums[i - kx] += w[kx] * value;
      }
    }
  }
};

// Channels of a block: all of them if `rows` of their rows fit into the cache, since contiguous memory is read fastest.
static int64_t block_size(const Convolution& p, int64_t rows, int64_t fewest, int64_t bands) {
  int64_t block = std::max(fewest, CACHE * LANES / (rows * Rows::row_floats(p.width)) / fewest * fewest);
  block = std::min(block, (p.channels + fewest - 1) / fewest * fewest);
  while (block > fewest && p.images * bands * ((p.channels + block - 1) / block) < p.threads) block -= fewest;
  return block;
}

// out = conv(f(x)) [+ bias] [+ f(x)] [+ plus], f(x) = x [+ shift] [through GELU]
static void forward_band(const Convolution& p, int64_t b, int64_t channel, int64_t vectors, int64_t first, int64_t last,
                         float* memory) {
  Rows rows(p, vectors, memory);
  const element* image = p.x + b * p.x_image + channel;
  const float* shift = p.shift + channel;
  const auto read = [&](int64_t y) {
    if (p.gelu && p.shift)
      rows.read(image, p.x_token, y, [=](vec x, int64_t v, int64_t) { return gelu<element>(x + load(shift + v * LANES)); });
    else if (p.gelu)
      rows.read(image, p.x_token, y, [](vec x, int64_t, int64_t) { return gelu<element>(x); });
    else if (p.shift)
      rows.read(image, p.x_token, y, [=](vec x, int64_t v, int64_t) { return x + load(shift + v * LANES); });
    else
      rows.read(image, p.x_token, y, [](vec x, int64_t, int64_t) { return x; });
  };
  for (int64_t y = first - R; y < first + R; y++) read(y);
  for (int64_t y = first; y < last; y++) {
    read(y + R);
    for (int64_t x0 = 0; x0 < p.width; x0 += GROUP)
      for (int64_t v = 0; v < vectors; v++) {
        const int64_t c = channel + v * LANES, token = y * p.width + x0;
        vec sums[GROUP];
        rows.convolve<false>(p.weight + c, p.channels, y, v, x0, sums);
        const vec bias = p.bias ? load(p.bias + c) : vec{};  // after the taps, so that their sum is rounded without it
        element* out = p.out + (b * p.height * p.width + token) * p.channels + c;
        const element* plus = p.plus + b * p.plus_image + token * p.plus_token + c;
        for (int64_t i = 0; i < std::min<int64_t>(GROUP, p.width - x0); i++) {
          vec sum = sums[i] + bias;
          if (p.residual) sum += rows.token(y, v, x0 + i);
          if (p.plus) sum += load(plus + i * p.plus_token);
          store(out + i * p.channels, sum);
        }
      }
  }
}

extern "C" void depthwise_forward(const Convolution* problem) {
  const Convolution& p = *problem;
  // Bands of rows if there are fewer images than threads; each reads K − 1 rows of its neighbours.
  const int64_t bands = p.images % p.threads ? (p.height + 7) / 8 : 1;
  const int64_t block = block_size(p, K, FEWEST, bands), blocks = (p.channels + block - 1) / block;
#pragma omp parallel for num_threads(p.threads) schedule(static)
  for (int64_t part = 0; part < p.images * blocks * bands; part++) {
    const int64_t b = part / (blocks * bands), channel = part / bands % blocks * block, band = part % bands;
    forward_band(p, b, channel, std::min(block, p.channels - channel) / LANES, p.height * band / bands,
                 p.height * (band + 1) / bands, scratch(K * block / LANES * Rows::row_floats(p.width)));
  }
}

// total (K·K + 1 vectors) += Σ_x dout(y, x) ∘ the tokens around (y, x), and Σ_x dout(y, x).
static void add_weight_gradient(Rows& tokens, Rows& gradients, int64_t y, int64_t v, float* total) {
  constexpr int TOGETHER = K == 3 ? 3 : 1;  // rows of taps: enough sums not to wait for each other, few enough for registers
  const float* up = gradients.at(y, v) + R * LANES;
  for (int ky = 0; ky < K; ky += TOGETHER) {
    vec sums[TOGETHER][K] = {}, bias = {};
    const float* in[TOGETHER];
    for (int t = 0; t < TOGETHER; t++) in[t] = tokens.at(y + ky + t - R, v);
    for (int64_t x = 0; x < tokens.width; x++) {
      const vec g = load(up + x * LANES);
      bias += g;
#pragma GCC unroll 8
      for (int t = 0; t < TOGETHER; t++)
#pragma GCC unroll 8
        for (int kx = 0; kx < K; kx++) sums[t][kx] += g * load(in[t] + (x + kx) * LANES);
    }
#pragma GCC unroll 8
    for (int t = 0; t < TOGETHER; t++)
#pragma GCC unroll 8
      for (int kx = 0; kx < K; kx++) {
        float* sum = total + ((ky + t) * K + kx) * LANES;
        store(sum, load(sum) + sums[t][kx]);
      }
    if (!ky) store(total + K * K * LANES, load(total + K * K * LANES) + bias);
  }
}

// The gradient of x for one image, and its share of that of the weight and bias: (K·K + 1, C) in `share`.
static void backward_image(const Convolution& p, int64_t b, int64_t channel, int64_t vectors, float* share,
                           float* memory) {
  Rows tokens(p, vectors, memory), gradients(p, vectors, memory + tokens.size());
  Rows slopes(p, p.gelu ? vectors : 0, memory + 2 * tokens.size());
  float* totals = slopes.data + slopes.size();
  std::memset(totals, 0, vectors * (K * K + 1) * LANES * sizeof(float));
  const element *image = p.x + b * p.x_image + channel, *dout = p.dout + b * p.dout_image + channel;
  const auto read = [&](int64_t y) {
    gradients.read(dout, p.dout_token, y, [](vec g, int64_t, int64_t) { return g; });
    if (!p.gelu) return tokens.read(image, p.x_token, y, [](vec x, int64_t, int64_t) { return x; });
    float* to = slopes.at(y, 0);
    tokens.read(image, p.x_token, y, [=](vec x, int64_t, int64_t place) {
      vec slope;
      const vec value = gelu<element>(x, slope);
      store(to + place, slope);
      return value;
    });
  };
  for (int64_t y = -R; y < R; y++) read(y);
  for (int64_t y = 0; y < p.height; y++) {
    read(y + R);
    for (int64_t v = 0; v < vectors; v++) {
      const int64_t c = channel + v * LANES;
      for (int64_t x0 = 0; x0 < p.width; x0 += GROUP) {
        vec sums[GROUP];
        gradients.convolve<true>(p.weight + c, p.channels, y, v, x0, sums);
        element* dx = p.out + ((b * p.height + y) * p.width + x0) * p.channels + c;
        for (int64_t i = 0; i < std::min<int64_t>(GROUP, p.width - x0); i++) {
          vec sum = p.residual ? sums[i] + gradients.token(y, v, x0 + i) : sums[i];
          if (p.gelu) sum *= slopes.token(y, v, x0 + i);
          store(dx + i * p.channels, sum);
        }
      }
      add_weight_gradient(tokens, gradients, y, v, totals + v * (K * K + 1) * LANES);
    }
  }
  for (int64_t v = 0; v < vectors; v++)
    for (int t = 0; t <= K * K; t++)
      store(share + t * p.channels + channel + v * LANES, load(totals + (v * (K * K + 1) + t) * LANES));
}

extern "C" void depthwise_backward(const Convolution* problem) {
  const Convolution& p = *problem;
  const int64_t size = (K * K + 1) * p.channels, rows = (p.gelu ? 3 : 2) * K;
  const int64_t block = block_size(p, rows, LANES, 1), blocks = (p.channels + block - 1) / block;
  Buffer shares;  // of the images, added in their order: no result depends on the number of threads
  shares.reserve(p.images * size);
#pragma omp parallel for num_threads(p.threads) schedule(static)
  for (int64_t part = 0; part < p.images * blocks; part++) {
    const int64_t b = part / blocks, channel = part % blocks * block;
    float* memory = scratch(block / LANES * rows * Rows::row_floats(p.width) + block * (K * K + 1));
    backward_image(p, b, channel, std::min(block, p.channels - channel) / LANES, shares + b * size, memory);
  }
  std::memcpy(p.dweight, shares, size * sizeof(float));
  for (int64_t b = 1; b < p.images; b++)
    for (int64_t i = 0; i < size; i++) p.dweight[i] += shares[b * size + i];
}
