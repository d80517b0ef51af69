// A line: tokens that attend to each other.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "products.h"

struct Span {  // tokens in memory, `step` floats apart
  float* data;
  int64_t step;
  float* operator[](int64_t i) const { return data + i * step; }
};

// Copy tokens to rows of STRIDE floats, followed by zero rows up to a whole group of queries.
static void gather_rows(Span from, int64_t length, float* rows) {
  if (STRIDE > D || length % QUERIES) std::memset(rows, 0, round_up(length, QUERIES) * STRIDE * 4);
  for (int64_t j = 0; j < length; j++) std::memcpy(rows + j * STRIDE, from[j], D * 4);
}

// Copy tokens to tiles of columns; columns beyond `length` are zero.
static void gather_columns(Span from, int64_t length, float* columns) {
  for (int64_t j = 0; j < length; j += LANES) {
    float* to = tile(columns, j / TILE * TILE) + j % TILE;
    for (int c = 0; c < D; c += LANES) {
      vec block[LANES] = {};
      for (int64_t r = 0; r < std::min<int64_t>(LANES, length - j); r++)
        std::memcpy(&block[r], from[j + r] + c, std::min(LANES, D - c) * 4);
      transpose(block);
      for (int r = 0; r < std::min(LANES, D - c); r++) store(to + (c + r) * TILE, block[r]);
    }
  }
}

// A row, a column, or (full form) a whole plane of rows of `width` tokens; `width` is 0 on an axis.
//
// The bias of query i with key j is |Δ|·log₂ γ. On one axis all queries share a vector of distances, each from its own
// offset; on a grid the bias rows are written out for one group of queries at a time.
constexpr float LN_2 = 0.693147180559945f;  // keys come times log₂ e

class Line {
  static constexpr int64_t CHUNK = 256;  // keys per step: their scores and values fit in first-level cache
  const int64_t length, padded, width, middle;
  float log_gamma = 0;
  int64_t radius = 0;
  Buffer distance, bias_rows, q, k, v, kt, vt, s, ds, dout, dq, dk, dv, result, zeros;
  const float* bias[QUERIES];
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
    const int64_t rows = round_up(length, QUERIES) * STRIDE;
    distance.reserve(2 * middle + LANES);
    if (width) bias_rows.reserve(QUERIES * (padded + LANES));
    for (Buffer* buffer : {&q, &v}) buffer->reserve(rows);
    kt.reserve(D * padded), s.reserve(QUERIES * padded), result.reserve(QUERIES * STRIDE);
    if (!backward) return;
    for (Buffer* buffer : {&k, &dout, &dq, &dk, &dv}) buffer->reserve(rows);
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
  void forward(Span q_from, Span k_from, Span v_from, Span to, int64_t first, int64_t last) {
    gather_rows(q_from, length, q);
    gather_rows(v_from, length, v);
    gather_columns(k_from, length, kt);
    for (int64_t i = first * QUERIES; i < std::min(length, last * QUERIES); i += QUERIES) {
      float shift[QUERIES], total[QUERIES] = {}, keep[QUERIES], added[QUERIES];
      vec top[QUERIES];
      set_bias(i);
      for (int r = 0; r < QUERIES; r++) top[r] = splat(-1e30f), shift[r] = -1e30f;
      std::memset(result, 0, QUERIES * STRIDE * 4);
      for (int64_t from = begin; from < end; from += CHUNK) {
        const int64_t to = std::min(end, from + CHUNK);
        scores(q + i * STRIDE, kt, bias, s, padded, from, to, top);
        for (int r = 0; r < QUERIES; r++) {  // online softmax: a new maximum rescales the sums of earlier chunks
          const float before = shift[r];
          shift[r] = largest(top[r]);
          keep[r] = from == begin ? 0 : std::exp2(before - shift[r]);
        }
        exp2_and_sum(s, padded, from, to, shift, added);
        for (int r = 0; r < QUERIES; r++) total[r] = total[r] * keep[r] + added[r];
        accumulate_values(s, padded, v, from, to, keep, result);
      }
      for (int64_t r = 0; r < std::min<int64_t>(QUERIES, length - i); r++) {
        const float factor = 1 / total[r];
        float* out = to[i + r];
        for (int c = 0; c < D; c++) out[c] = result[r * STRIDE + c] * factor;
      }
    }
  }

  // The gradients of forward: added to dq and dk, written to dv.
  void backward(Span q_from, Span k_from, Span v_from, Span dout_from, Span dq_to, Span dk_to, Span dv_to) {
    gather_rows(q_from, length, q);
    gather_rows(k_from, length, k);
    gather_rows(dout_from, length, dout);
    gather_columns(k_from, length, kt);
    gather_columns(v_from, length, vt);
    const int64_t bytes = round_up(length, QUERIES) * STRIDE * 4;
    for (float* gradient : {(float*)dq, (float*)dk, (float*)dv}) std::memset(gradient, 0, bytes);
    float shift[QUERIES], total[QUERIES], keep[QUERIES] = {};
    const float* no_bias[QUERIES];
    for (int r = 0; r < QUERIES; r++) no_bias[r] = zeros;
    for (int64_t i = 0; i < length; i += QUERIES) {
      vec top[QUERIES];
      set_bias(i);
      for (int r = 0; r < QUERIES; r++) top[r] = splat(-1e30f);
      scores(q + i * STRIDE, kt, bias, s, padded, begin, end, top);
      for (int r = 0; r < QUERIES; r++) shift[r] = largest(top[r]);
      exp2_and_sum(s, padded, begin, end, shift, total);
      scores(dout + i * STRIDE, vt, no_bias, ds, padded, begin, end, top);
      for (int r = 0; r < QUERIES; r++) {  // dS = P∘(dP − Σ P∘dP), the last over each query's keys
        float *p = s + r * padded, *dp = ds + r * padded;
        const float factor = 1 / total[r];
        vec inner = {};
        for (int64_t j = begin; j < end; j += LANES) {
          const vec weight = load(p + j) * factor;
          store(p + j, weight);
          inner += weight * load(dp + j);
        }
        const float mean = sum(inner);
        for (int64_t j = begin; j < end; j += LANES) store(dp + j, load(p + j) * (load(dp + j) - mean));
      }
      accumulate_values(ds, padded, k, begin, end, keep, dq + i * STRIDE);
      scatter(ds, padded, q + i * STRIDE, begin, end, dk);
      scatter(s, padded, dout + i * STRIDE, begin, end, dv);
    }
    for (int64_t i = 0; i < length; i++) {
      for (int c = 0; c < D; c++) dq_to[i][c] += dq[i * STRIDE + c] * LN_2, dk_to[i][c] += dk[i * STRIDE + c];
      std::memcpy(dv_to[i], dv + i * STRIDE, D * 4);
    }
  }
};
