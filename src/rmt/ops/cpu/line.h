// A line: tokens that attend to each other.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "products.h"

template <typename T>
struct Span {  // tokens in memory, `step` elements apart
  T* data;
  int64_t step;
  T* operator[](int64_t i) const { return data + i * step; }
  Span from(int64_t i, int64_t every = 1) const { return {(*this)[i], every * step}; }
};

// Copy tokens to rows of STRIDE factors, followed by zero rows up to a whole group of queries.
template <typename Factor, typename T>
static void gather_rows(Span<T> from, int64_t length, float* rows) {
  constexpr int64_t WORDS = ROW_WORDS<Factor>;
  if (STRIDE > D) std::memset(rows, 0, length * WORDS * 4);
  std::memset(rows + length * WORDS, 0, (round_up(length, QUERIES) - length) * WORDS * 4);
  for (int64_t j = 0; j < length; j++) copy(from[j], (Factor*)(rows + j * WORDS), D);
}

// Copy tokens to rows of STRIDE words, each of which holds a channel of PER_WORD tokens.
template <typename Factor, typename T>
static void gather_summands(Span<T> from, int64_t length, float* rows) {
  if constexpr (PER_WORD<Factor> == 1) {
    gather_rows<Factor>(from, length, rows);
  } else {
    for (int64_t j = 0; j < length; j += 2, rows += STRIDE)
      for (int c = 0; c < D; c += LANES) {
        shorts pair[2] = {};
        for (int t = 0; t < 2 && j + t < length; t++) std::memcpy(&pair[t], from[j + t] + c, std::min(LANES, D - c) * 2);
        const uvec low = widen(pair[0]), high = widen(pair[1]);
        store(rows + c, (vec)(low | high << 16));
      }
  }
}

// Copy tokens to tiles of columns; columns beyond `length` are zero.
template <typename Factor, typename T>
static void gather_columns(Span<T> from, int64_t length, float* columns) {
  constexpr int WORDS = TOKEN_WORDS<Factor>, PER = PER_WORD<Factor>;
  for (int64_t j = 0; j < length; j += LANES) {
    float* to = tile<Factor>(columns, j / TILE * TILE) + j % TILE;
    for (int c = 0; c < WORDS; c += LANES) {
      vec block[LANES] = {};
      for (int64_t r = 0; r < std::min<int64_t>(LANES, length - j); r++)
        copy(from[j + r] + c * PER, (Factor*)&block[r], std::min(LANES, WORDS - c) * PER);
      transpose(block);
      for (int r = 0; r < std::min(LANES, WORDS - c); r++) store(to + (c + r) * TILE, block[r]);
    }
  }
}

// A row, a column, or (full form) a whole plane of rows of `width` tokens; `width` is 0 on an axis.
//
// The bias of query i with key j is |Δ|·log₂ γ. On one axis all queries share a vector of distances, each from its own
// offset; on a grid the bias rows are written out for one group of queries at a time.
constexpr float LN_2 = 0.693147180559945f;  // keys come times log₂ e

template <typename Factor>
class Line {
  static constexpr int64_t CHUNK = 256;  // keys per step: their scores and values fit in first-level cache
  const int64_t length, padded, width, middle;
  float log_gamma = 0;
  int64_t radius = 0;
  Buffer distance, bias_rows, q, k, v, kt, vt, s, ds, dout, dq, dk, dv, result, zeros;
  const float *bias[QUERIES], *query[QUERIES];
  int64_t begin, end;  // the keys that a group of queries sees

  void set_bias(int64_t i) {
    begin = std::max<int64_t>(0, i - radius) / TILE * TILE;
    end = std::min(length, i + QUERIES + radius);
    for (int r = 0; r < QUERIES; r++) {
      if (!width) {
        bias[r] = distance + middle - (i + r);
        continue;
      }
      float* row = bias_rows + r * (padded + LANES);
      bias[r] = row;
      const int64_t y = std::min(i + r, length - 1) / width, x = std::min(i + r, length - 1) % width;
      for (int64_t ky = begin / width; ky * width < end; ky++)
        for (int64_t kx = 0; kx < width; kx += LANES)  // whole vectors: the next row overwrites the excess
          store(row + ky * width + kx, load(distance + middle - x + kx) + log_gamma * float(std::abs(y - ky)));
    }
  }

 public:
  Line(int64_t length, int64_t width, bool backward)
      : length(length), padded(round_up(length, TILE)), width(width), middle((width ? width : padded) + LANES) {
    const int64_t rows = round_up(length, QUERIES) * STRIDE;  // floats; twice as many as factors of 16 bits need
    distance.reserve(2 * middle + LANES);
    if (width) bias_rows.reserve(QUERIES * (padded + LANES));
    v.reserve(rows), kt.reserve(D * padded), s.reserve(QUERIES * padded), result.reserve(QUERIES * STRIDE);
    if (!backward) return;
    for (Buffer* buffer : {&q, &k, &dout, &dq, &dk, &dv}) buffer->reserve(rows);
    vt.reserve(D * padded), ds.reserve(QUERIES * padded), zeros.reserve(padded);
    std::memset(zeros, 0, padded * 4);
  }

  void set_head(float log_gamma_, int64_t radius_) {
    log_gamma = log_gamma_;
    radius = std::min(width ? radius_ * width + width : radius_, length);
    for (int64_t i = 0; i < 2 * middle + LANES; i++) distance[i] = log_gamma * float(std::abs(i - middle));
  }

  int64_t groups() const { return (length + QUERIES - 1) / QUERIES; }

  // to[i] = Σ_j softmax_j(q_i·k_j + bias_ij)·v_j, to base 2, for the groups of queries from `first` to `last`.
  template <typename Value, typename Result>
  void forward(Span<Factor> q_from, Span<Factor> k_from, Span<Value> v_from, Span<Result> to, int64_t first, int64_t last) {
    const float* values = v;
    int64_t values_step = STRIDE;
    if constexpr (std::is_same_v<Value, float> && D % LANES == 0) // whole vectors, read where they are
      values = v_from.data, values_step = v_from.step;
    else
      gather_summands<Factor>(v_from, length, v);
    gather_columns<Factor>(k_from, length, kt);
    for (int64_t i = first * QUERIES; i < std::min(length, last * QUERIES); i += QUERIES) {
      alignas(64) float shift[LANES], keep[LANES];
      vec top[QUERIES], total = {};
      set_bias(i);
      for (int r = 0; r < QUERIES; r++) top[r] = splat(-1e30f);
      store(shift, splat(-1e30f));
      for (int r = 0; r < QUERIES; r++) query[r] = (const float*)q_from[std::min(i + r, length - 1)];
      for (int64_t from = begin; from < end; from += CHUNK) {
        const int64_t to = std::min(end, from + CHUNK);
        scores<Factor>(query, kt, bias, s, padded, from, to, top);
        // Online softmax: a new maximum rescales the sums of earlier chunks.
        const vec largest = largest_across(top), kept = power_of_two<float>(load(shift) - largest);
        store(shift, largest), store(keep, kept);
        total = total * kept + exp2_and_sum<Factor>(s, padded, from, to, shift);
        accumulate_values<Factor>(s, padded, values, values_step, from, to, from == begin ? nullptr : keep, result);
      }
      store(keep, 1 / total);
      for (int64_t r = 0; r < std::min<int64_t>(QUERIES, length - i); r++)
        for (int c = 0; c < D; c += LANES) store_first(to[i + r] + c, load(result + r * STRIDE + c) * keep[r], D - c);
    }
  }

  // The gradients of forward: added to dq and dk, written to dv. In float32.
  template <typename Value, typename Gradient, typename ValueGradient>
  void backward(Span<Factor> q_from, Span<Factor> k_from, Span<Value> v_from, Span<Gradient> dout_from, Span<float> dq_to,
                Span<float> dk_to, Span<ValueGradient> dv_to) {
    static_assert(std::is_same_v<Factor, float>);
    gather_rows<Factor>(q_from, length, q);
    gather_rows<Factor>(k_from, length, k);
    gather_rows<Factor>(dout_from, length, dout);
    gather_columns<Factor>(k_from, length, kt);
    gather_columns<Factor>(v_from, length, vt);
    const int64_t bytes = round_up(length, QUERIES) * STRIDE * 4;
    for (float* gradient : {(float*)dq, (float*)dk, (float*)dv}) std::memset(gradient, 0, bytes);
    alignas(64) float shift[LANES], factors[LANES], means[LANES];
    const float *no_bias[QUERIES], *upstream[QUERIES];
    for (int r = 0; r < QUERIES; r++) no_bias[r] = zeros;
    for (int64_t i = 0; i < length; i += QUERIES) {
      vec top[QUERIES], inner[QUERIES] = {};
      set_bias(i);
      for (int r = 0; r < QUERIES; r++) {
        top[r] = splat(-1e30f);
        query[r] = q + (i + r) * STRIDE, upstream[r] = dout + (i + r) * STRIDE;
      }
      scores<Factor>(query, kt, bias, s, padded, begin, end, top);
      store(shift, largest_across(top));
      store(factors, 1 / exp2_and_sum<Factor>(s, padded, begin, end, shift));
      scores<Factor>(upstream, vt, no_bias, ds, padded, begin, end, top);
      for (int r = 0; r < QUERIES; r++) {  // dS = P∘(dP − Σ P∘dP), the last over each query's keys
        float *p = s + r * padded, *dp = ds + r * padded;
        for (int64_t j = begin; j < end; j += LANES) {
          const vec weight = load(p + j) * factors[r];
          store(p + j, weight);
          inner[r] += weight * load(dp + j);
        }
      }
      store(means, sums_across(inner));
      for (int r = 0; r < QUERIES; r++) {
        float *p = s + r * padded, *dp = ds + r * padded;
        for (int64_t j = begin; j < end; j += LANES) store(dp + j, load(p + j) * (load(dp + j) - means[r]));
      }
      accumulate_values<Factor>(ds, padded, k, STRIDE, begin, end, nullptr, dq + i * STRIDE);
      scatter(ds, padded, q + i * STRIDE, begin, end, dk);
      scatter(s, padded, dout + i * STRIDE, begin, end, dv);
    }
    for (int64_t i = 0; i < length; i++) {
      for (int c = 0; c < D; c++) dq_to[i][c] += dq[i * STRIDE + c] * LN_2, dk_to[i][c] += dk[i * STRIDE + c];
      copy((float*)dv + i * STRIDE, dv_to[i], D);
    }
  }
};
