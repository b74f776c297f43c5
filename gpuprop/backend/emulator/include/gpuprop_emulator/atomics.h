// Atomics. Fibers never interrupt each other, so a plain read and write is atomic; the checker is told what it was.
#pragma once

namespace gpe {
template <class T, class... Types>
constexpr bool one_of = (std::is_same<T, Types>::value || ...);
template <class T>
struct identity {
  using type = T;
};
template <class T>
using same = typename identity<T>::type;  // a parameter that converts to T and does not deduce it
using ull = unsigned long long;
using ll = long long;

// The value before, and `update(value)` in its place.
template <class T, class Update>
GPE_UNCHECKED inline T read_modify_write(T* address, Update update, const char* file, int line) {
  gpe_atomic(address, sizeof(T), file, line);
  T old, next;
  memcpy(static_cast<void*>(&old), address, sizeof(T));
  next = update(old);
  memcpy(static_cast<void*>(address), &next, sizeof(T));
  return old;
}
GPE_UNCHECKED inline __half add(__half a, __half b) { return __float2half_rn(__half2float(a) + __half2float(b)); }
GPE_UNCHECKED inline __nv_bfloat16 add(__nv_bfloat16 a, __nv_bfloat16 b) {
  return __float2bfloat16_rn(__bfloat162float(a) + __bfloat162float(b));
}
GPE_UNCHECKED inline __half2 add(__half2 a, __half2 b) {
  return __halves2half2(add(__low2half(a), __low2half(b)), add(__high2half(a), __high2half(b)));
}
GPE_UNCHECKED inline __nv_bfloat162 add(__nv_bfloat162 a, __nv_bfloat162 b) {
  return __halves2bfloat162(add(__low2bfloat16(a), __low2bfloat16(b)), add(__high2bfloat16(a), __high2bfloat16(b)));
}
GPE_UNCHECKED inline float2 add(float2 a, float2 b) { return {a.x + b.x, a.y + b.y}; }
GPE_UNCHECKED inline float4 add(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }
GPE_UNCHECKED inline int add(int a, int b) {
  return static_cast<int>(static_cast<unsigned>(a) + static_cast<unsigned>(b));
}
GPE_UNCHECKED inline unsigned add(unsigned a, unsigned b) { return a + b; }
GPE_UNCHECKED inline ull add(ull a, ull b) { return a + b; }
GPE_UNCHECKED inline float add(float a, float b) { return a + b; }
GPE_UNCHECKED inline double add(double a, double b) { return a + b; }
}  // namespace gpe

namespace {
// Defines NAME and its _block and _system forms for the types CUDA has it for.
#define GPE_ATOMIC(NAME, EXPRESSION, ...)          \
  GPE_ATOMIC_SCOPED(NAME, EXPRESSION, __VA_ARGS__) \
  GPE_ATOMIC_SCOPED(NAME##_block, EXPRESSION, __VA_ARGS__) GPE_ATOMIC_SCOPED(NAME##_system, EXPRESSION, __VA_ARGS__)
#define GPE_ATOMIC_SCOPED(NAME, EXPRESSION, ...)                                        \
  template <class T>                                                                    \
  GPE_UNCHECKED T NAME(T* address, gpe::same<T> value, GPE_PLACE) {                     \
    static_assert(gpe::one_of<T, __VA_ARGS__>, "CUDA has no " #NAME " for this type");  \
    return gpe::read_modify_write(                                                      \
        address, [value](T old) GPE_UNCHECKED -> T { return EXPRESSION; }, file, line); \
  }
GPE_ATOMIC(atomicAdd, gpe::add(old, value), int, unsigned, gpe::ull, float, double, __half, __half2, __nv_bfloat16,
           __nv_bfloat162, float2, float4)
GPE_ATOMIC(atomicSub, static_cast<T>(static_cast<unsigned>(old) - static_cast<unsigned>(value)), int, unsigned)
GPE_ATOMIC(atomicExch, ((void)old, value), int, unsigned, gpe::ull, float)
GPE_ATOMIC(atomicMin, value < old ? value : old, int, unsigned, gpe::ll, gpe::ull)
GPE_ATOMIC(atomicMax, old < value ? value : old, int, unsigned, gpe::ll, gpe::ull)
GPE_ATOMIC(atomicAnd, old & value, int, unsigned, gpe::ull)
GPE_ATOMIC(atomicOr, old | value, int, unsigned, gpe::ull)
GPE_ATOMIC(atomicXor, old ^ value, int, unsigned, gpe::ull)
GPE_ATOMIC(atomicInc, old >= value ? 0u : old + 1, unsigned)
GPE_ATOMIC(atomicDec, old == 0 || old > value ? value : old - 1, unsigned)
#undef GPE_ATOMIC
#undef GPE_ATOMIC_SCOPED

#define GPE_COMPARE_AND_SWAP(NAME)                                                                                 \
  template <class T>                                                                                               \
  GPE_UNCHECKED T NAME(T* address, gpe::same<T> expected, gpe::same<T> desired, GPE_PLACE) {                       \
    static_assert(gpe::one_of<T, int, unsigned, gpe::ull, unsigned short>, "CUDA has no " #NAME " for this type"); \
    return gpe::read_modify_write(                                                                                 \
        address, [=](T old) GPE_UNCHECKED -> T { return old == expected ? desired : old; }, file, line);           \
  }
GPE_COMPARE_AND_SWAP(atomicCAS)
GPE_COMPARE_AND_SWAP(atomicCAS_block)
GPE_COMPARE_AND_SWAP(atomicCAS_system)
#undef GPE_COMPARE_AND_SWAP
}  // namespace
