// What the layer norm kernels share: a row in the registers of a warp, and sums over rows. README.md derives the equations.
//
// A lane holds K packs of 16 bytes: pack k is elements place(k) .. of the row, zeros past its end. Rows are whole packs.
#pragma once
#include "common.cuh"

constexpr int THREADS = 256, WARPS = THREADS / 32;

template <typename T> __device__ inline int place(int k) { return (32 * k + threadIdx.x % 32) * Pack<T>::SIZE; }

template <typename T, typename Acc, int K>
__device__ inline void load_row(const T* __restrict__ row, int width, Acc (&v)[K][Pack<T>::SIZE]) {
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const int c = place<T>(k);
    const Pack<T> pack = c < width ? load_pack(row + c) : Pack<T>{};
#pragma unroll
    for (int e = 0; e < Pack<T>::SIZE; ++e) v[k][e] = to_acc(pack.v[e]);
  }
}

// Writes weight * n + bias, where n is v with mean 0 and variance 1, and the row's mean and 1 / sqrt(variance + eps).
template <typename T, typename Acc, int K>
__device__ inline void normalize_row(const Acc (&v)[K][Pack<T>::SIZE], const T* __restrict__ weight,
                                     const T* __restrict__ bias, T* __restrict__ y, Acc* __restrict__ mean,
                                     Acc* __restrict__ inverse, int width, Acc eps) {
  constexpr int SIZE = Pack<T>::SIZE;
  Acc sum = 0, squares = 0;
#pragma unroll
  for (int k = 0; k < K; ++k)
#pragma unroll
    for (int e = 0; e < SIZE; ++e) sum += v[k][e];
  const Acc mu = team_reduce<32>(sum, Sum()) / width;
#pragma unroll
  for (int k = 0; k < K; ++k)
#pragma unroll
    for (int e = 0; e < SIZE; ++e)
      if (place<T>(k) < width) squares += (v[k][e] - mu) * (v[k][e] - mu);
  const Acc scale = 1 / sqrt(team_reduce<32>(squares, Sum()) / width + eps);
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const int c = place<T>(k);
    if (c >= width) break;
    const Pack<T> w = load_pack(weight + c), b = load_pack(bias + c);
    Pack<T> result;
#pragma unroll
    for (int e = 0; e < SIZE; ++e) result.v[e] = from_acc<T>(to_acc(w.v[e]) * (v[k][e] - mu) * scale + to_acc(b.v[e]));
    store_pack(y + c, result);
  }
  if (threadIdx.x % 32 != 0) return;
  *mean = mu;
  *inverse = scale;
}

// n is a row of x and g one of dy; on return g is the row's gradient. What the row gives to dweight and dbias is added.
template <typename T, typename Acc, int K>
__device__ inline void gradient_of_row(Acc (&n)[K][Pack<T>::SIZE], Acc (&g)[K][Pack<T>::SIZE],
                                       const T* __restrict__ weight, Acc mu, Acc scale, int width,
                                       Acc (&dweight)[K][Pack<T>::SIZE], Acc (&dbias)[K][Pack<T>::SIZE]) {
  constexpr int SIZE = Pack<T>::SIZE;
  Acc sum = 0, along = 0;
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const int c = place<T>(k);
    const Pack<T> w = c < width ? load_pack(weight + c) : Pack<T>{};
#pragma unroll
    for (int e = 0; e < SIZE; ++e) {
      n[k][e] = (n[k][e] - mu) * scale;
      dweight[k][e] += g[k][e] * n[k][e];
      dbias[k][e] += g[k][e];
      g[k][e] *= to_acc(w.v[e]);
      sum += g[k][e];
      along += g[k][e] * n[k][e];
    }
  }
  sum = team_reduce<32>(sum, Sum()) / width;
  along = team_reduce<32>(along, Sum()) / width;
#pragma unroll
  for (int k = 0; k < K; ++k)
#pragma unroll
    for (int e = 0; e < SIZE; ++e) g[k][e] = scale * (g[k][e] - sum - n[k][e] * along);
}

// partial[block, 0, c] and [block, 1, c]: what the warps of a block have added up, added in their order.
template <typename T, typename Acc, int K>
__device__ inline void add_over_warps(const Acc (&dweight)[K][Pack<T>::SIZE], const Acc (&dbias)[K][Pack<T>::SIZE],
                                      Acc* __restrict__ partial, int width) {
  __shared__ Acc totals[2][32 * K * Pack<T>::SIZE];
  for (int warp = 0; warp < WARPS; ++warp) {
    if (threadIdx.x / 32 == warp) {
#pragma unroll
      for (int k = 0; k < K; ++k)
#pragma unroll
        for (int e = 0; e < Pack<T>::SIZE; ++e) {
          const int c = place<T>(k) + e;
          totals[0][c] = dweight[k][e] + (warp == 0 ? Acc(0) : totals[0][c]);
          totals[1][c] = dbias[k][e] + (warp == 0 ? Acc(0) : totals[1][c]);
        }
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < 2 * width; i += THREADS)
    partial[(long long)blockIdx.x * 2 * width + i] = totals[i / width][i % width];
}
