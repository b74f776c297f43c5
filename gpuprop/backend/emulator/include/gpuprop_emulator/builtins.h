// Declaration specifiers, built-in variables, barriers, fences, assert and printf.
#pragma once

#undef __global__
#undef __device__
#undef __host__
#undef __constant__
#undef __shared__
#undef __managed__
#undef __grid_constant__
#undef __launch_bounds__
#undef __cluster_dims__
#undef __maxnreg__
#undef __forceinline__
#undef __noinline__
#undef __align__
#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __maxnreg__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))
// One copy is enough: one block runs at a time, and what others of a cluster hold is set aside. The builder reads its
// range from the symbol table. Without `used` the compiler takes a variable that nobody writes for zeros.
#define __shared__ static __attribute__((used))

#define GPUPROP_EMULATOR 1

// Code that the checker must not see: the shim's own bookkeeping.
#define GPE_UNCHECKED __attribute__((no_sanitize("thread")))
// Thin wrappers around an access that the checker must see, with the user's line as its place.
#define GPE_INLINE inline __attribute__((always_inline))
// The place of the call, as trailing parameters.
#define GPE_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

#define GPE_UNSUPPORTED(text) _Pragma(text)

namespace gpe {
#ifdef GPE_CHECK
// `const` is true for the thread that calls: the compiler may keep the value, and the checker is not asked about it.
#define GPE_BUILTIN __attribute__((const, noinline, no_sanitize("thread"))) static
GPE_BUILTIN uint3 thread_index() { return gpe_now.thread->index; }
GPE_BUILTIN uint3 block_index() { return gpe_now.block; }
GPE_BUILTIN uint3 block_size() { return {gpe_now.block_dim.x, gpe_now.block_dim.y, gpe_now.block_dim.z}; }
GPE_BUILTIN uint3 grid_size() { return {gpe_now.grid_dim.x, gpe_now.grid_dim.y, gpe_now.grid_dim.z}; }
#undef GPE_BUILTIN
#else
static inline const uint3& thread_index() { return gpe_now.thread->index; }
static inline const uint3& block_index() { return gpe_now.block; }
static inline dim3 block_size() { return gpe_now.block_dim; }
static inline dim3 grid_size() { return gpe_now.grid_dim; }
#endif
GPE_UNCHECKED static inline unsigned lane() { return gpe_now.thread->lane; }
GPE_UNCHECKED static inline void* dynamic_shared() { return gpe_now.dynamic_shared; }

// `extern __shared__ T name[];` outside a function: the launch's buffer, looked up at each use.
template <class T>
struct DynamicShared {
  GPE_UNCHECKED operator T*() const { return static_cast<T*>(gpe_now.dynamic_shared); }
};
}  // namespace gpe

#define threadIdx (gpe::thread_index())
#define blockIdx (gpe::block_index())
#define blockDim (gpe::block_size())
#define gridDim (gpe::grid_size())
constexpr int warpSize = 32;

namespace {
inline void __syncthreads(GPE_PLACE) { gpe_barrier(gpe::BARRIER_PLAIN, nullptr, file, line); }
GPE_UNCHECKED inline int __syncthreads_and(int predicate, GPE_PLACE) {
  int value = predicate != 0;
  gpe_barrier(gpe::BARRIER_AND, &value, file, line);
  return value;
}
GPE_UNCHECKED inline int __syncthreads_or(int predicate, GPE_PLACE) {
  int value = predicate != 0;
  gpe_barrier(gpe::BARRIER_OR, &value, file, line);
  return value;
}
GPE_UNCHECKED inline int __syncthreads_count(int predicate, GPE_PLACE) {
  int value = predicate != 0;
  gpe_barrier(gpe::BARRIER_COUNT, &value, file, line);
  return value;
}

inline void __threadfence_block() { gpe_fence(gpe::FENCE_BLOCK); }
inline void __threadfence() { gpe_fence(gpe::FENCE_DEVICE); }
inline void __threadfence_system() { gpe_fence(gpe::FENCE_SYSTEM); }

inline void __trap(GPE_PLACE) { gpe_stop("trap", "__trap() was called", file, line); }
inline void __brkpt(GPE_PLACE) { gpe_stop("trap", "__brkpt() was called", file, line); }
inline void __nanosleep(unsigned) {}
inline long long clock64() { return gpe_clock(); }
inline clock_t clock() { return static_cast<clock_t>(gpe_clock()); }
inline unsigned long long __globaltimer() { return static_cast<unsigned long long>(gpe_clock()); }
}  // namespace

#include <assert.h>  // ours
