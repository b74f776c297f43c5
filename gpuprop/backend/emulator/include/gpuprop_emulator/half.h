// Operations on __half and __nv_bfloat16 that NVIDIA's headers offer on the device only. Computed in float, rounded
// once.
#pragma once

namespace gpe {
inline float widen(__half x) { return __half2float(x); }
inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
template <class T>
T narrow(double x);  // float is exact for what the callers pass, or rounds as the GPU does
template <>
inline __half narrow<__half>(double x) {
  return __float2half_rn(static_cast<float>(x));
}
template <>
inline __nv_bfloat16 narrow<__nv_bfloat16>(double x) {
  return __float2bfloat16_rn(static_cast<float>(x));
}
inline __half low(__half2 x) { return __low2half(x); }
inline __half high(__half2 x) { return __high2half(x); }
inline __half2 pair(__half a, __half b) { return __halves2half2(a, b); }
inline __nv_bfloat16 low(__nv_bfloat162 x) { return __low2bfloat16(x); }
inline __nv_bfloat16 high(__nv_bfloat162 x) { return __high2bfloat16(x); }
inline __nv_bfloat162 pair(__nv_bfloat16 a, __nv_bfloat16 b) { return __halves2bfloat162(a, b); }

template <class T>
T fused(T a, T b, T c) {
  return narrow<T>(static_cast<double>(widen(a)) * static_cast<double>(widen(b)) + static_cast<double>(widen(c)));
}
// At most 1 and at least 0, a NaN becomes 0.
template <class T>
T saturated(T x) {
  return narrow<T>(widen(x) > 0 ? (widen(x) < 1 ? widen(x) : 1.0f) : 0.0f);
}
template <class T>
T rectified(T x) {
  return widen(x) < 0 ? narrow<T>(0) : x;
}
}  // namespace gpe

namespace {
#define GPE_HALF_FUNCTION(NAME, EXPRESSION)               \
  GPE_HALF_FUNCTION_OF(NAME, EXPRESSION, __half, __half2) \
  GPE_HALF_FUNCTION_OF(NAME, EXPRESSION, __nv_bfloat16, __nv_bfloat162)
#define GPE_HALF_FUNCTION_OF(NAME, EXPRESSION, T, T2) \
  inline T h##NAME(T value) {                         \
    const float x = gpe::widen(value);                \
    return gpe::narrow<T>(EXPRESSION);                \
  }                                                   \
  inline T2 h2##NAME(T2 value) { return gpe::pair(h##NAME(gpe::low(value)), h##NAME(gpe::high(value))); }
GPE_HALF_FUNCTION(exp, ::expf(x))
GPE_HALF_FUNCTION(exp2, ::exp2f(x))
GPE_HALF_FUNCTION(exp10, ::powf(10.0f, x))
GPE_HALF_FUNCTION(log, ::logf(x))
GPE_HALF_FUNCTION(log2, ::log2f(x))
GPE_HALF_FUNCTION(log10, ::log10f(x))
GPE_HALF_FUNCTION(sqrt, ::sqrtf(x))
GPE_HALF_FUNCTION(rsqrt, 1.0f / ::sqrtf(x))
GPE_HALF_FUNCTION(rcp, 1.0f / x)
GPE_HALF_FUNCTION(sin, ::sinf(x))
GPE_HALF_FUNCTION(cos, ::cosf(x))
GPE_HALF_FUNCTION(tanh, ::tanhf(x))
GPE_HALF_FUNCTION(tanh_approx, ::tanhf(x))
GPE_HALF_FUNCTION(ceil, ::ceilf(x))
GPE_HALF_FUNCTION(floor, ::floorf(x))
GPE_HALF_FUNCTION(rint, ::nearbyintf(x))
GPE_HALF_FUNCTION(trunc, ::truncf(x))
#undef GPE_HALF_FUNCTION
#undef GPE_HALF_FUNCTION_OF

#define GPE_FUSED(T, T2)                                                              \
  inline T __hfma(T a, T b, T c) { return gpe::fused(a, b, c); }                      \
  inline T __hfma_sat(T a, T b, T c) { return gpe::saturated(gpe::fused(a, b, c)); }  \
  inline T __hfma_relu(T a, T b, T c) { return gpe::rectified(gpe::fused(a, b, c)); } \
  GPE_FUSED_PAIR(__hfma2, __hfma, T2)                                                 \
  GPE_FUSED_PAIR(__hfma2_sat, __hfma_sat, T2) GPE_FUSED_PAIR(__hfma2_relu, __hfma_relu, T2)
#define GPE_FUSED_PAIR(NAME, OF, T2)                                                                           \
  inline T2 NAME(T2 a, T2 b, T2 c) {                                                                           \
    return gpe::pair(OF(gpe::low(a), gpe::low(b), gpe::low(c)), OF(gpe::high(a), gpe::high(b), gpe::high(c))); \
  }
GPE_FUSED(__half, __half2)
GPE_FUSED(__nv_bfloat16, __nv_bfloat162)
#undef GPE_FUSED
#undef GPE_FUSED_PAIR

// _rz is in NVIDIA's headers for the host too.
#define GPE_HALF_TO(NAME, TO, T)                                                                                \
  inline TO NAME##_rn(T x) { return static_cast<TO>(gpe::to_integer<long long>(::nearbyintf(gpe::widen(x)))); } \
  inline TO NAME##_ru(T x) { return static_cast<TO>(gpe::to_integer<long long>(::ceilf(gpe::widen(x)))); }      \
  inline TO NAME##_rd(T x) { return static_cast<TO>(gpe::to_integer<long long>(::floorf(gpe::widen(x)))); }
GPE_HALF_TO(__half2int, int, __half)
GPE_HALF_TO(__half2ll, long long, __half)
GPE_HALF_TO(__bfloat162int, int, __nv_bfloat16)
GPE_HALF_TO(__bfloat162ll, long long, __nv_bfloat16)
#undef GPE_HALF_TO
}  // namespace
