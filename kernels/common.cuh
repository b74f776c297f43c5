// Pieces that every kernel file shares. Compiles under NVRTC (no standard headers) and under the CPU emulator.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

// Arithmetic is done in float (in double for double arrays): half types are only how values are stored.
__device__ inline float to_acc(float v) { return v; }
__device__ inline double to_acc(double v) { return v; }
__device__ inline float to_acc(__half v) { return __half2float(v); }
__device__ inline float to_acc(__nv_bfloat16 v) { return __bfloat162float(v); }

template <typename T> __device__ inline T from_acc(float v);
template <> __device__ inline float from_acc<float>(float v) { return v; }
template <> __device__ inline __half from_acc<__half>(float v) { return __float2half(v); }
template <> __device__ inline __nv_bfloat16 from_acc<__nv_bfloat16>(float v) { return __float2bfloat16(v); }
template <typename T> __device__ inline T from_acc(double v) { return v; }

// The smallest finite value: where a running maximum starts (NVRTC has no INFINITY).
template <typename T> __device__ inline T lowest();
template <> __device__ inline float lowest<float>() { return -3.402823466e+38f; }
template <> __device__ inline double lowest<double>() { return -1.7976931348623157e+308; }

// n / d for 0 <= n, 0 < d. A 64-bit division costs several times a 32-bit one, and few arrays need it.
__device__ inline long long quotient(long long n, int d) {
  return n <= 0xffffffffLL ? (long long)((unsigned)n / (unsigned)d) : n / d;
}

// This thread's index in the whole grid, and the number of threads: for loops over any number of elements.
__device__ inline long long grid_thread() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ inline long long grid_threads() { return (long long)gridDim.x * blockDim.x; }

struct Sum {
  template <typename T> __device__ T operator()(T a, T b) const { return a + b; }
};
struct Max {
  template <typename T> __device__ T operator()(T a, T b) const { return a < b ? b : a; }
};

// Whether v at place t goes before the largest so far, at `winner` (-1: none): among equal ones the first, NaN before all.
template <typename Acc>
__device__ inline bool wins(Acc v, int t, Acc largest, int winner) {
  return winner < 0 || v > largest || (v == largest && t < winner) || v != v;
}

// Combines `v` over a team of TEAM neighbouring threads and hands the result to each of them, always in the same order.
// TEAM is a power of two: up to 32 it is a part of a warp, above it is the whole (one-dimensional) block.
// Every thread of the block must call it.
template <int TEAM, typename T, typename Combine>
__device__ T team_reduce(T v, Combine combine) {
  for (int offset = (TEAM < 32 ? TEAM : 32) / 2; offset > 0; offset /= 2)
    v = combine(v, __shfl_xor_sync(0xffffffffu, v, offset));
  if (TEAM > 32) {
    __shared__ T of_warp[TEAM > 32 ? TEAM / 32 : 1];
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = v;
    __syncthreads();
    v = of_warp[0];
    for (int warp = 1; warp < TEAM / 32; ++warp) v = combine(v, of_warp[warp]);
    __syncthreads();  // of_warp is free again for the next call
  }
  return v;
}

// N neighbouring elements, moved by one instruction: as a rule 16 bytes. The address must be a multiple of their size.
template <typename T, int N = 16 / sizeof(T)> struct alignas(sizeof(T) * N) Pack {
  static constexpr int SIZE = N;
  T v[N];
};
template <typename T, int N = 16 / sizeof(T)> __device__ inline Pack<T, N> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, N>*>(from);
}
template <typename T, int N> __device__ inline void store_pack(T* to, const Pack<T, N>& pack) {
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

// A pack of elements i.. of x; zeros for those outside start..stop.
template <typename T, typename Index>
__device__ inline Pack<T> load_within(const T* __restrict__ x, Index i, Index start, Index stop) {
  if (i >= start && i + Pack<T>::SIZE <= stop) return load_pack(x + i);
  Pack<T> pack = {};
  for (int e = 0; e < Pack<T>::SIZE; ++e)
    if (i + e >= start && i + e < stop) pack.v[e] = x[i + e];
  return pack;
}

template <typename T, typename Index>
__device__ inline void store_within(T* __restrict__ x, const Pack<T>& pack, Index i, Index start, Index stop) {
  if (i >= start && i + Pack<T>::SIZE <= stop) {
    store_pack(x + i, pack);
    return;
  }
  for (int e = 0; e < Pack<T>::SIZE; ++e)
    if (i + e >= start && i + e < stop) x[i + e] = pack.v[e];
}

// result[c] = sum of partial[part * stride + c] over the parts, for the 32 columns c of a tile: each is shared by THREADS / 32
// threads of a block, which add every so many parts in order; then theirs are added in order.
template <int THREADS, typename Acc, typename T>
__device__ void sum_of_parts(const Acc* __restrict__ partial, long long stride, int parts, T* __restrict__ result,
                             int columns, int tile) {
  __shared__ Acc sums[THREADS / 32][32];
  const int lane = threadIdx.x % 32, share = threadIdx.x / 32, c = tile * 32 + lane;
  Acc sum = 0;
  if (c < columns)
    for (int part = share; part < parts; part += THREADS / 32) sum += partial[part * stride + c];
  sums[share][lane] = sum;
  __syncthreads();
  if (share != 0 || c >= columns) return;
  for (int other = 1; other < THREADS / 32; ++other) sum += sums[other][lane];
  result[c] = from_acc<T>(sum);
}

// Whether this block is the last of the grid to come here. `arrived` starts as 0 and is 0 again afterwards. Only the
// order in which blocks come may vary, so what the last one does must not depend on which it is. Call it from one
// thread a block: what that thread wrote or read before is then over in every block.
__device__ inline bool last_to_arrive(unsigned* arrived) {
  __threadfence();
  const bool last = atomicAdd(arrived, 1u) == gridDim.x - 1;
  if (last) atomicExch(arrived, 0u);
  __threadfence();
  return last;
}

// Adds `sum` over all threads of all blocks, of THREADS threads each, always in the same order for the same grid. True in one
// thread of the grid, where `sum` is then the total. partials: one a block.
template <int THREADS, typename Acc>
__device__ bool sum_over_grid(Acc& sum, volatile Acc* partials, unsigned* arrived) {
  sum = team_reduce<THREADS>(sum, Sum());
  __shared__ bool last;
  if (threadIdx.x == 0) {
    partials[blockIdx.x] = sum;
    last = last_to_arrive(arrived);
  }
  __syncthreads();
  if (!last) return false;
  sum = 0;
  for (int block = threadIdx.x; block < gridDim.x; block += THREADS) sum += partials[block];
  sum = team_reduce<THREADS>(sum, Sum());
  return threadIdx.x == 0;
}
