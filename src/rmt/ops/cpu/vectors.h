// Vectors of floats, as wide as the machine's registers, and the functions of one that the kernels share.

#pragma once

#include <cstdint>
#include <memory>

#ifdef __AVX512F__
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif

typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
using std::int64_t;

static inline vec load(const float* p) { return *(const vec*)p; }
static inline void store(float* p, vec x) { *(vec*)p = x; }
static inline vec splat(float x) { return x - vec{}; }

struct Buffer {
  std::unique_ptr<float[]> data;
  void reserve(int64_t n) { data.reset(new float[n + 16]); }
  operator float*() const { return (float*)(((uintptr_t)data.get() + 63) / 64 * 64); }  // on a cache line's border
};

// x·Φ(x), the exact GELU: Φ(x) − ½ = x·P(x²), to 2e-7, where |x| < 5.4; beyond, Φ is 0 or 1 to 3e-8. No branch and no
// division, so that it costs less than reading x. NaN stays NaN.
static inline vec gelu(vec x) {
  constexpr float EDGE = 5.4f;
  // Least maximum of |x·P(x²) − (Φ(x) − ½)|, in powers of s = 2x²/EDGE² − 1, which is in −1…1: nothing cancels.
  constexpr float P[] = {0.130928114f,    -0.0653280541f,  0.0484995916f,  -0.039206814f,   0.0321165994f,
                         -0.0257464517f,  0.0196451191f,   -0.0139633399f, 0.00965127349f,  -0.00671530236f,
                         0.00365880062f,  -0.00118644151f, 0.000875028083f, -0.00102835847f, 0.000392830174f};
  const vec s = x * x * (2 / (EDGE * EDGE)) - 1.0f;
  vec p = splat(P[14]);
  for (int i = 13; i >= 0; i--) p = p * s + P[i];
  const vec y = x * (x * p + 0.5f);
  return x < -EDGE ? vec{} : x > EDGE ? x : y;
}
