// Manhattan attention on a CPU: rotary phases and the passes over rows and columns, for one (image, head) at a time.
// The decay, the softmax and both products are `Line::forward` in line.h.
//
// Scores stay in a few kilobytes of first-level cache and are never written to memory; the backward pass recomputes
// them. Built at first use by `build.py`, once per head width and element type. Sums are float32; so are the factors of
// products, except bf16 ones in the forward pass where the processor multiplies those.
//
// A plane is one head of one image, h × w tokens of D channels. Planes are distributed over threads; with few planes, the
// lines of each are. No result depends on the number of threads.

#include <cstdint>
#include <cstring>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "line.h"

struct Heads {  // (B, h·w, n, D): strides in elements, the last is 1
  element* data;
  int64_t image, token, head;
  Span<element> plane(int64_t b, int64_t i) const { return {data + b * image + i * head, token}; }
};

// Keys and decay carry this factor: the softmax then needs powers of two instead of e.
constexpr double LOG2_E = 1.44269504088896340736;

struct Problem {
  Heads q, k, v, out, dout, dq, dk, dv;
  int64_t images, height, width, heads, decomposed, half_split, threads;
  const float *sin, *cos;  // (h·w, D/2)
  const float* log_gamma;  // (n), to base 2; zeros for no decay
  const int64_t* radius;    // (n): keys farther away along an axis are left out
  double scale;            // of the keys
};

// The processor does not prefetch tokens of one head, which are too far apart: they are prefetched this many ahead.
constexpr int AHEAD = 24;

// to = scale·(from rotated by ± the phases of tokens first to last).
template <typename From, typename To>
static void rotate(const Problem& p, Span<From> from, Span<To> to, float scale, float sign, int64_t first, int64_t last) {
  constexpr int H = D / 2;
  float read[D], rotated[D];
  for (int64_t t = first; t < last; t++) {
    const float *__restrict cos = p.cos + t * H, *__restrict sin = p.sin + t * H, *__restrict x = read;
    float* __restrict y = rotated;
    for (int j = 0; j < D; j += 64 / sizeof(From)) __builtin_prefetch(from[t + AHEAD] + j);
    if constexpr (std::is_same_v<From, float>) x = from[t]; else copy(from[t], read, D);
    if constexpr (std::is_same_v<To, float>) y = to[t];
    if (p.half_split)
      for (int j = 0; j < H; j++) {
        const float a = x[j] * scale, b = x[j + H] * scale, s = sign * sin[j];
        y[j] = a * cos[j] - b * s;
        y[j + H] = b * cos[j] + a * s;
      }
    else
      for (int j = 0; j < H; j++) {
        const float a = x[2 * j] * scale, b = x[2 * j + 1] * scale, s = sign * sin[j];
        y[2 * j] = a * cos[j] - b * s;
        y[2 * j + 1] = b * cos[j] + a * s;
      }
    if constexpr (!std::is_same_v<To, float>) copy(rotated, to[t], D);
  }
}

struct ThreadShare {  // thread number `part` of the `parts` threads that work on one plane
  int64_t part, parts;
  int64_t from(int64_t n) const { return n * part / parts; }
  int64_t to(int64_t n) const { return n * (part + 1) / parts; }
  void wait() const {
    if (parts > 1) {
#pragma omp barrier
    }
  }
};

template <typename Factor>
struct Lines {  // the buffers of one thread
  Line<Factor> row, column;
  Lines(const Problem& p, bool backward)
      : row(p.decomposed ? p.width : p.height * p.width, p.decomposed ? 0 : p.width, backward),
        column(p.decomposed ? p.height : 1, 0, backward) {}
  void set_head(const Problem& p, int64_t i) {
    row.set_head(p.log_gamma[i], p.radius[i]), column.set_head(p.log_gamma[i], p.radius[i]);
  }
};

// `planes` holds 3 planes of scratch: rotated q and k, and the output of the row pass.
static void forward_plane(const Problem& p, Lines<factor>& lines, factor* planes, int64_t b, int64_t i, ThreadShare share) {
  const int64_t h = p.height, w = p.width, size = h * w * D;
  const Span<factor> q{planes, D}, k{planes + size, D}, mixed{planes + 2 * size, D};
  const Span<element> v = p.v.plane(b, i), out = p.out.plane(b, i);
  lines.set_head(p, i);
  rotate(p, p.q.plane(b, i), q, 1, 1, share.from(h * w), share.to(h * w));
  rotate(p, p.k.plane(b, i), k, float(p.scale * LOG2_E), 1, share.from(h * w), share.to(h * w));
  share.wait();
  if (!p.decomposed) {
    lines.row.forward(q, k, v, out, share.from(lines.row.groups()), share.to(lines.row.groups()));
  } else {
    for (int64_t y = share.from(h); y < share.to(h); y++)
      lines.row.forward(q.from(y * w), k.from(y * w), v.from(y * w), mixed.from(y * w), 0, lines.row.groups());
    share.wait();
    for (int64_t x = share.from(w); x < share.to(w); x++)
      lines.column.forward(q.from(x, w), k.from(x, w), mixed.from(x, w), out.from(x, w), 0, lines.column.groups());
  }
  share.wait();
}

// `planes` holds 6 planes of scratch.
static void backward_plane(const Problem& p, Lines<float>& lines, float* planes, int64_t b, int64_t i) {
  const int64_t h = p.height, w = p.width, size = h * w * D;
  const Span<float> q{planes, D}, k{planes + size, D}, dq{planes + 2 * size, D}, dk{planes + 3 * size, D};
  const Span<float> mixed{planes + 4 * size, D}, dmixed{planes + 5 * size, D};
  const Span<element> v = p.v.plane(b, i), dout = p.dout.plane(b, i), dv = p.dv.plane(b, i);
  lines.set_head(p, i);
  rotate(p, p.q.plane(b, i), q, 1, 1, 0, h * w);
  rotate(p, p.k.plane(b, i), k, float(p.scale * LOG2_E), 1, 0, h * w);
  std::memset(dq.data, 0, 2 * size * 4);
  if (!p.decomposed) {
    lines.row.backward(q, k, v, dout, dq, dk, dv);
  } else {
    for (int64_t y = 0; y < h; y++)
      lines.row.forward(q.from(y * w), k.from(y * w), v.from(y * w), mixed.from(y * w), 0, lines.row.groups());
    for (int64_t x = 0; x < w; x++)
      lines.column.backward(q.from(x, w), k.from(x, w), mixed.from(x, w), dout.from(x, w), dq.from(x, w), dk.from(x, w),
                            dmixed.from(x, w));
    for (int64_t y = 0; y < h; y++)
      lines.row.backward(q.from(y * w), k.from(y * w), v.from(y * w), dmixed.from(y * w), dq.from(y * w), dk.from(y * w),
                         dv.from(y * w));
  }
  rotate(p, dq, p.dq.plane(b, i), 1, -1, 0, h * w);
  rotate(p, dk, p.dk.plane(b, i), float(p.scale), -1, 0, h * w);
}

extern "C" void masa_forward(const Problem* problem) {
  const Problem& p = *problem;
  const int64_t planes = p.images * p.heads, size = 3 * p.height * p.width * D;
  const bool share = planes % p.threads && planes < 4 * p.threads;  // too few to distribute evenly
  Buffer common;
  if (share) common.reserve(size);
#pragma omp parallel num_threads(p.threads)
  {
#ifdef _OPENMP
    const int64_t part = omp_get_thread_num(), parts = omp_get_num_threads();
#else
    const int64_t part = 0, parts = 1;
#endif
    Lines<factor> lines(p, false);
    Buffer own;
    if (!share) own.reserve(size);
    if (share)
      for (int64_t t = 0; t < planes; t++) forward_plane(p, lines, (factor*)(float*)common, t / p.heads, t % p.heads, {part, parts});
    else
      for (int64_t t = planes * part / parts; t < planes * (part + 1) / parts; t++)
        forward_plane(p, lines, (factor*)(float*)own, t / p.heads, t % p.heads, {0, 1});
  }
}

extern "C" void masa_backward(const Problem* problem) {
  const Problem& p = *problem;
#pragma omp parallel num_threads(p.threads)
  {
    Lines<float> lines(p, true);
    Buffer own;
    own.reserve(6 * p.height * p.width * D);
#pragma omp for schedule(static)
    for (int64_t t = 0; t < p.images * p.heads; t++) backward_plane(p, lines, own, t / p.heads, t % p.heads);
  }
}
