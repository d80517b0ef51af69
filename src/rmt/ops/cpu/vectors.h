// Vectors of floats, as wide as the machine's registers; the element types of tensors; the functions of one vector that
// the kernels share.

#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifdef __AVX512F__
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif

typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef uint32_t uvec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef uint16_t shorts __attribute__((vector_size(LANES * 2), aligned(2), may_alias));
typedef int32_t word __attribute__((may_alias));
using std::int64_t;

static inline vec splat(float x) { return x - vec{}; }
static inline vec splat_word(const float* p) { return (vec)(*(const word*)p - ivec{}); }  // any 32 bits

// ---- Elements: 16-bit ones are widened as they are read, and rounded to the nearest, ties to even, as they are written --

struct bf16 { uint16_t bits; };
struct half { uint16_t bits; };

#ifndef ELEMENT
#define ELEMENT float
#endif
typedef ELEMENT element;  // of the tensors that a library is built for

// The type of the factors of forward products, which are summed in float. Products of two bf16 are an instruction on some
// processors; WIDEN leaves it out, so that what the others do can be tested.
#if defined(__AVX512BF16__) && !defined(WIDEN)
#define BF16_PRODUCTS
typedef std::conditional_t<std::is_same_v<element, bf16>, bf16, float> factor;
#else
typedef float factor;
#endif

static inline vec load(const float* p) { return *(const vec*)p; }
static inline void store(float* p, vec x) { *(vec*)p = x; }

static inline uvec widen(shorts x) {
#if defined(__AVX512F__)  // which GCC 12 does in two halves
  return (uvec)_mm512_cvtepu16_epi32((__m256i)x);
#else
  return __builtin_convertvector(x, uvec);
#endif
}

static inline vec load(const bf16* p) { return (vec)(widen(*(const shorts*)p) << 16); }
static inline void store(bf16* p, vec x) {
#ifdef BF16_PRODUCTS
  *(shorts*)p = (shorts)_mm512_cvtneps_pbh((__m512)x);
#else
  const uvec bits = (uvec)x, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  *(shorts*)p = __builtin_convertvector(x == x ? rounded : uvec{} + 0x7fc0, shorts);  // the carry would hide a NaN
#endif
}

#if defined(__AVX512F__)
static inline vec load(const half* p) { return (vec)_mm512_cvtph_ps((__m256i)*(const shorts*)p); }
static inline void store(half* p, vec x) { *(shorts*)p = (shorts)_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT); }
#elif defined(__F16C__)
static inline vec load(const half* p) { return (vec)_mm256_cvtph_ps((__m128i)*(const shorts*)p); }
static inline void store(half* p, vec x) { *(shorts*)p = (shorts)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT); }
#elif defined(__FLT16_MAX__)
static inline vec load(const half* p) {
  vec x;
  for (int i = 0; i < LANES; i++) x[i] = ((const _Float16*)p)[i];
  return x;
}
static inline void store(half* p, vec x) {
  for (int i = 0; i < LANES; i++) ((_Float16*)p)[i] = x[i];
}
#endif

// The first n lanes, n ≤ LANES.
template <typename T>
static inline void store_first(T* p, vec x, int n) {
  if (n >= LANES) return store(p, x);
  T lanes[LANES];
  store(lanes, x);
  std::memcpy(p, lanes, n * sizeof(T));
}

// n elements of one type to another, or the same.
template <typename From, typename To>
static inline void copy(const From* from, To* to, int64_t n) {
  if constexpr (std::is_same_v<From, To>) {
    std::memcpy(to, from, n * sizeof(To));
  } else {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) store(to + i, load(from + i));
    if (i == n) return;
    From rest[LANES] = {};
    std::memcpy(rest, from + i, (n - i) * sizeof(From));
    store_first(to + i, load(rest), n - i);
  }
}

struct Buffer {
  std::unique_ptr<float[]> data;
  int64_t size = 0;
  void reserve(int64_t n) {
    if (n > size) data.reset(new float[n + 16]), size = n;
  }
  operator float*() const { return (float*)(((uintptr_t)data.get() + 63) / 64 * 64); }  // on a cache line's border
};

// Memory of this thread, valid until the next call. It is kept: the allocator returns a block of this size to the system
// when it is freed, and the system clears its pages before every use, which took longer than a convolution.
static inline float* scratch(int64_t n) {
  static thread_local Buffer buffer;
  buffer.reserve(n);
  return buffer;
}

// 2^x for x ≤ 0: 2^n·2^r with |r| ≤ ½, to 2 units in the last place of a float, or 1e-4 for elements of 16 bits. NaN stays
// NaN. Below 2^−100 the result is 0, which does not change a sum that contains a 1, and keeps slow denormal numbers out of
// the products.
template <typename T>
static inline vec power_of_two(vec x) {
  const vec magic = splat(12582912.0f);  // 1.5·2^23: adding it rounds to the nearest integer
  const vec t = x + magic, r = x - (t - magic);
  vec p;
  if constexpr (std::is_same_v<T, float>) {
    p = splat(1.32764e-3f);
    p = p * r + 9.67554e-3f;
    p = p * r + 5.550713e-2f;
    p = p * r + 2.402212e-1f;
    p = p * r + 6.9314697e-1f;
    p = p * r + 1.00000007f;
  } else {
    p = splat(5.5171669e-2f);
    p = p * r + 2.4261113e-1f;
    p = p * r + 6.9326097e-1f;
    p = p * r + 9.9992806e-1f;
  }
  p = (vec)((ivec)p + ((ivec)t << 23));
  return x < splat(-100.0f) ? vec{} : p;
}

// The exact GELU, x·Φ(x): Φ(x) = ½ + x·P(x²) where |x| < EDGE; beyond, Φ is taken as 0 or 1. For floats to 2e-7, with Φ to
// 3e-8; for elements of 16 bits to 6e-5. No branch and no division, so that it costs less than reading x. NaN stays NaN.
template <typename T>
constexpr float EDGE = std::is_same_v<T, float> ? 5.4f : 4.2f;

template <typename T>
static inline vec gelu_polynomial(vec x) {  // P(x²)
  // Least maximum of |x·P(x²) − (Φ(x) − ½)|, in powers of s = 2x²/EDGE² − 1, which is in −1…1: nothing cancels.
  static constexpr float FINE[] = {0.130928114f,    -0.0653280541f,  0.0484995916f,  -0.039206814f,   0.0321165994f,
                            -0.0257464517f,  0.0196451191f,   -0.0139633399f, 0.00965127349f,  -0.00671530236f,
                            0.00365880062f,  -0.00118644151f, 0.000875028083f, -0.00102835847f, 0.000392830174f};
  static constexpr float COARSE[] = {0.167856142f,  -0.0814820379f, 0.0558144413f,   -0.0389556289f, 0.0250049997f,
                              -0.0136753665f, 0.00810455065f, -0.00581758842f, 0.00219667959f};
  constexpr bool IS_FLOAT = std::is_same_v<T, float>;
  constexpr const float* P = IS_FLOAT ? FINE : COARSE;
  constexpr int DEGREE = IS_FLOAT ? 14 : 8;
  const vec s = x * x * (2 / (EDGE<T> * EDGE<T>)) - 1.0f;
  vec p = splat(P[DEGREE]);
#pragma GCC unroll 16
  for (int i = DEGREE - 1; i >= 0; i--) p = p * s + P[i];
  return p;
}

template <typename T>
static inline vec gelu(vec x) {
  const vec y = x * (x * gelu_polynomial<T>(x) + 0.5f);
  return x < -EDGE<T> ? vec{} : x > EDGE<T> ? x : y;
}

// GELU, and its derivative Φ(x) + x·φ(x) in `slope`, with an error of 2e-7 for floats, 2e-4 for elements of 16 bits.
template <typename T>
static inline vec gelu(vec x, vec& slope) {
  const vec cdf = x * gelu_polynomial<T>(x) + 0.5f, y = x * cdf;
  const vec density = 0.39894228f * power_of_two<T>(x * x * -0.72134752f);
  slope = (x < -EDGE<T> ? vec{} : x > EDGE<T> ? splat(1) : cdf) + x * density;
  return x < -EDGE<T> ? vec{} : x > EDGE<T> ? x : y;
}
