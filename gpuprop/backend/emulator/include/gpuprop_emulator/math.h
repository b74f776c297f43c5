// Math, conversion and bit intrinsics that are not in the C library. Fast variants (__expf) are computed accurately.
#pragma once

namespace gpe {
// Evaluates `f` in another rounding mode. The volatile keeps the compiler from moving the work out of it.
template <class T, class F>
GPE_UNCHECKED inline T rounded(int mode, F f) {
  const int before = fegetround();
  fesetround(mode);
  volatile T result = f();
  fesetround(before);
  return result;
}

// To an integer as the GPU does it: NaN becomes 0, what does not fit the nearest value that does.
template <class To, class From>
GPE_UNCHECKED inline To to_integer(From rounded_value) {
  if (rounded_value != rounded_value) return 0;
  constexpr To low = static_cast<To>(sizeof(To) == 4 ? (std::is_signed<To>::value ? INT32_MIN : 0)
                                                     : (std::is_signed<To>::value ? INT64_MIN : 0));
  constexpr To high = static_cast<To>(sizeof(To) == 4 ? (std::is_signed<To>::value ? INT32_MAX : UINT32_MAX)
                                                      : (std::is_signed<To>::value ? INT64_MAX : UINT64_MAX));
  if (rounded_value <= static_cast<From>(low)) return low;
  if (rounded_value >= static_cast<From>(high)) return high;
  return static_cast<To>(rounded_value);
}
template <class To, class From>
GPE_UNCHECKED inline To bits(From value) {
  static_assert(sizeof(To) == sizeof(From), "bit patterns of one size");
  To result;
  memcpy(&result, &value, sizeof result);
  return result;
}
}  // namespace gpe

namespace {
// The user's own overloads of these names must not hide the C library's.
using ::abs;
using ::atan;
using ::atan2;
using ::cbrt;
using ::ceil;
using ::cos;
using ::cosh;
using ::erf;
using ::erfc;
using ::exp;
using ::exp2;
using ::expm1;
using ::fabs;
using ::floor;
using ::fma;
using ::fmax;
using ::fmin;
using ::fmod;
using ::isfinite;
using ::isinf;
using ::isnan;
using ::log;
using ::log10;
using ::log1p;
using ::log2;
using ::pow;
using ::rint;
using ::round;
using ::sin;
using ::sinh;
using ::sqrt;
using ::tan;
using ::tanh;
using ::trunc;

// CUDA's min and max take mixed integers and mixed floats, and ignore a NaN as fmin and fmax do.
template <class A, class B>
GPE_INLINE typename std::common_type<A, B>::type min(A a, B b) {
  using T = typename std::common_type<A, B>::type;
  if constexpr (std::is_floating_point<T>::value)
    return fmin(static_cast<T>(a), static_cast<T>(b));
  else
    return static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b) : static_cast<T>(a);
}
template <class A, class B>
GPE_INLINE typename std::common_type<A, B>::type max(A a, B b) {
  using T = typename std::common_type<A, B>::type;
  if constexpr (std::is_floating_point<T>::value)
    return fmax(static_cast<T>(a), static_cast<T>(b));
  else
    return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
}

// Loads and stores with a cache hint.
#define GPE_LOAD(NAME)                  \
  template <class T>                    \
  GPE_INLINE T NAME(const T* address) { \
    return *address;                    \
  }
GPE_LOAD(__ldg)
GPE_LOAD(__ldca)
GPE_LOAD(__ldcg)
GPE_LOAD(__ldcs)
GPE_LOAD(__ldlu)
GPE_LOAD(__ldcv)
#undef GPE_LOAD
#define GPE_STORE(NAME)                                                     \
  template <class T>                                                        \
  GPE_INLINE void NAME(T* address, typename gpe::identity<T>::type value) { \
    *address = value;                                                       \
  }
GPE_STORE(__stwb)
GPE_STORE(__stcg)
GPE_STORE(__stcs)
GPE_STORE(__stwt)
#undef GPE_STORE
#ifndef __clang__
GPE_INLINE void __builtin_assume(bool) {}
#endif

// Fast approximations.
inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return powf(10.0f, x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __log10f(float x) { return log10f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __tanf(float x) { return tanf(x); }
inline float __tanhf(float x) { return tanhf(x); }
inline void __sincosf(float x, float* s, float* c) { *s = sinf(x), *c = cosf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float fdividef(float a, float b) { return a / b; }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }  // a NaN becomes 0

// Functions CUDA adds to the C library's.
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float rsqrt(float x) { return rsqrtf(x); }
inline float rcbrtf(float x) { return 1.0f / cbrtf(x); }
inline double rcbrt(double x) { return 1.0 / cbrt(x); }
inline float rhypotf(float x, float y) { return 1.0f / hypotf(x, y); }
inline double rhypot(double x, double y) { return 1.0 / hypot(x, y); }
inline double sinpi(double x) { return sin(M_PI * fmod(x, 2.0)); }
inline double cospi(double x) { return cos(M_PI * fmod(x, 2.0)); }
inline float sinpif(float x) { return static_cast<float>(sinpi(x)); }
inline float cospif(float x) { return static_cast<float>(cospi(x)); }
inline double normcdf(double x) { return 0.5 * erfc(-x * M_SQRT1_2); }
inline float normcdff(float x) { return static_cast<float>(normcdf(x)); }
inline double erfcx(double x) { return exp(x * x) * erfc(x); }
inline float erfcxf(float x) { return static_cast<float>(erfcx(x)); }
inline float norm3df(float a, float b, float c) {
  return static_cast<float>(sqrt(double(a) * a + double(b) * b + double(c) * c));
}

// Arithmetic with a stated rounding.
#define GPE_ROUNDED(TYPE, NAME, PARAMETERS, EXPRESSION)                             \
  inline TYPE NAME##_rn PARAMETERS { return EXPRESSION; }                           \
  inline TYPE NAME##_rz PARAMETERS {                                                \
    return gpe::rounded<TYPE>(FE_TOWARDZERO, [=]() -> TYPE { return EXPRESSION; }); \
  }                                                                                 \
  inline TYPE NAME##_ru PARAMETERS {                                                \
    return gpe::rounded<TYPE>(FE_UPWARD, [=]() -> TYPE { return EXPRESSION; });     \
  }                                                                                 \
  inline TYPE NAME##_rd PARAMETERS {                                                \
    return gpe::rounded<TYPE>(FE_DOWNWARD, [=]() -> TYPE { return EXPRESSION; });   \
  }
GPE_ROUNDED(float, __fadd, (float a, float b), a + b)
GPE_ROUNDED(float, __fsub, (float a, float b), a - b)
GPE_ROUNDED(float, __fmul, (float a, float b), a* b)
GPE_ROUNDED(float, __fdiv, (float a, float b), a / b)
GPE_ROUNDED(float, __frcp, (float a), 1.0f / a)
GPE_ROUNDED(float, __fsqrt, (float a), sqrtf(a))
GPE_ROUNDED(float, __fmaf, (float a, float b, float c), fmaf(a, b, c))
GPE_ROUNDED(double, __dadd, (double a, double b), a + b)
GPE_ROUNDED(double, __dsub, (double a, double b), a - b)
GPE_ROUNDED(double, __dmul, (double a, double b), a* b)
GPE_ROUNDED(double, __ddiv, (double a, double b), a / b)
GPE_ROUNDED(double, __drcp, (double a), 1.0 / a)
GPE_ROUNDED(double, __dsqrt, (double a), sqrt(a))
GPE_ROUNDED(double, __fma, (double a, double b, double c), fma(a, b, c))
#undef GPE_ROUNDED
inline float __frsqrt_rn(float a) { return static_cast<float>(1.0 / sqrt(static_cast<double>(a))); }

// Conversions.
#define GPE_TO_INTEGER(NAME, TO, FROM)                                           \
  inline TO NAME##_rn(FROM x) { return gpe::to_integer<TO>(std::nearbyint(x)); } \
  inline TO NAME##_rz(FROM x) { return gpe::to_integer<TO>(std::trunc(x)); }     \
  inline TO NAME##_ru(FROM x) { return gpe::to_integer<TO>(std::ceil(x)); }      \
  inline TO NAME##_rd(FROM x) { return gpe::to_integer<TO>(std::floor(x)); }
GPE_TO_INTEGER(__float2int, int, float)
GPE_TO_INTEGER(__float2uint, unsigned, float)
GPE_TO_INTEGER(__float2ll, long long, float)
GPE_TO_INTEGER(__float2ull, unsigned long long, float)
GPE_TO_INTEGER(__double2int, int, double)
GPE_TO_INTEGER(__double2uint, unsigned, double)
GPE_TO_INTEGER(__double2ll, long long, double)
GPE_TO_INTEGER(__double2ull, unsigned long long, double)
#undef GPE_TO_INTEGER
#define GPE_FROM(NAME, TO, FROM)                             \
  inline TO NAME##_rn(FROM x) { return static_cast<TO>(x); } \
  inline TO NAME##_rz(FROM x) {                              \
    return gpe::rounded<TO>(FE_TOWARDZERO, [=]() -> TO {     \
      volatile FROM v = x;                                   \
      return static_cast<TO>(v);                             \
    });                                                      \
  }                                                          \
  inline TO NAME##_ru(FROM x) {                              \
    return gpe::rounded<TO>(FE_UPWARD, [=]() -> TO {         \
      volatile FROM v = x;                                   \
      return static_cast<TO>(v);                             \
    });                                                      \
  }                                                          \
  inline TO NAME##_rd(FROM x) {                              \
    return gpe::rounded<TO>(FE_DOWNWARD, [=]() -> TO {       \
      volatile FROM v = x;                                   \
      return static_cast<TO>(v);                             \
    });                                                      \
  }
GPE_FROM(__int2float, float, int)
GPE_FROM(__uint2float, float, unsigned)
GPE_FROM(__ll2float, float, long long)
GPE_FROM(__ull2float, float, unsigned long long)
GPE_FROM(__ll2double, double, long long)
GPE_FROM(__ull2double, double, unsigned long long)
GPE_FROM(__double2float, float, double)
#undef GPE_FROM
inline double __int2double_rn(int x) { return x; }
inline double __uint2double_rn(unsigned x) { return x; }
inline int __float_as_int(float x) { return gpe::bits<int>(x); }
inline unsigned __float_as_uint(float x) { return gpe::bits<unsigned>(x); }
inline float __int_as_float(int x) { return gpe::bits<float>(x); }
inline float __uint_as_float(unsigned x) { return gpe::bits<float>(x); }
inline long long __double_as_longlong(double x) { return gpe::bits<long long>(x); }
inline double __longlong_as_double(long long x) { return gpe::bits<double>(x); }
inline int __double2hiint(double x) { return static_cast<int>(gpe::bits<unsigned long long>(x) >> 32); }
inline int __double2loint(double x) { return static_cast<int>(gpe::bits<unsigned long long>(x)); }
inline double __hiloint2double(int high, int low) {
  return gpe::bits<double>(static_cast<unsigned long long>(static_cast<unsigned>(high)) << 32 |
                           static_cast<unsigned>(low));
}

// Integers and bits.
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
  unsigned result = 0;
  for (int i = 0; i < 32; i++) result |= (x >> i & 1u) << (31 - i);
  return result;
}
inline unsigned long long __brevll(unsigned long long x) {
  return static_cast<unsigned long long>(__brev(static_cast<unsigned>(x))) << 32 |
         __brev(static_cast<unsigned>(x >> 32));
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const unsigned long long bytes = static_cast<unsigned long long>(y) << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; i++)
    result |= static_cast<unsigned>(bytes >> (8 * (selector >> (4 * i) & 7)) & 0xff) << (8 * i);
  return result;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((static_cast<unsigned long long>(high) << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((static_cast<unsigned long long>(high) << 32 | low) >> (shift & 31));
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}
inline int __mulhi(int a, int b) { return static_cast<int>(static_cast<long long>(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline long long __mul64hi(long long a, long long b) {
  return static_cast<long long>(static_cast<__int128>(a) * b >> 64);
}
inline int __mul24(int a, int b) {
  return static_cast<int>(static_cast<unsigned>(a << 8 >> 8) * static_cast<unsigned>(b << 8 >> 8));
}
inline unsigned __umul24(unsigned a, unsigned b) { return (a & 0xffffffu) * (b & 0xffffffu); }
inline unsigned __sad(int a, int b, unsigned c) {
  const long long difference = static_cast<long long>(a) - b;
  return static_cast<unsigned>(difference < 0 ? -difference : difference) + c;
}
inline unsigned __usad(unsigned a, unsigned b, unsigned c) { return (a < b ? b - a : a - b) + c; }
inline int __hadd(int a, int b) { return static_cast<int>((static_cast<long long>(a) + b) >> 1); }
inline int __rhadd(int a, int b) { return static_cast<int>((static_cast<long long>(a) + b + 1) >> 1); }
inline unsigned __uhadd(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<unsigned long long>(a) + b) >> 1);
}
inline unsigned __urhadd(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<unsigned long long>(a) + b + 1) >> 1);
}
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; i++) c += static_cast<signed char>(a >> 8 * i) * static_cast<signed char>(b >> 8 * i);
  return c;
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (int i = 0; i < 4; i++) c += (a >> 8 * i & 0xff) * (b >> 8 * i & 0xff);
  return c;
}
}  // namespace
