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

// What the rows of a warp give to dweight and dbias, and the sums over the warps of a block, in their order:
// partial[block, 0, c] and [block, 1, c]. A lane adds up its columns, K packs of SIZE: in registers, or where they would take
// most of these, 32 columns a lane, in shared memory of its own, WARPS * 2 * 32 * K * SIZE numbers from `memory` on.
template <typename Acc, int K, int SIZE, bool IN_MEMORY = sizeof(Acc) == 4 && (K * SIZE > 16)> struct ColumnSums {
  Acc dweight[K][SIZE] = {}, dbias[K][SIZE] = {};

  __device__ explicit ColumnSums(void*) {}
  __device__ void add(int k, const Acc (&w)[SIZE], const Acc (&b)[SIZE]) {
#pragma unroll
    for (int e = 0; e < SIZE; ++e) dweight[k][e] += w[e], dbias[k][e] += b[e];
  }
  __device__ void finish(Acc* __restrict__ partial, int width) {
    __shared__ Acc totals[2][32 * K * SIZE];
    for (int warp = 0; warp < WARPS; ++warp) {
      if (threadIdx.x / 32 == warp) {
#pragma unroll
        for (int k = 0; k < K; ++k)
#pragma unroll
          for (int e = 0; e < SIZE; ++e) {
            const int c = (32 * k + threadIdx.x % 32) * SIZE + e;
            totals[0][c] = dweight[k][e] + (warp == 0 ? Acc(0) : totals[0][c]);
            totals[1][c] = dbias[k][e] + (warp == 0 ? Acc(0) : totals[1][c]);
          }
      }
      __syncthreads();
    }
    for (int i = threadIdx.x; i < 2 * width; i += THREADS)
      partial[(long long)blockIdx.x * 2 * width + i] = totals[i / width][i % width];
  }
};

// In memory, four columns of a lane lie together, and those of all lanes after one another, so that no two ask one bank.
template <typename Acc, int K, int SIZE> struct ColumnSums<Acc, K, SIZE, true> {
  static constexpr int COLUMNS = 32 * K * SIZE;
  Acc *all, *own;

  __device__ explicit ColumnSums(void* memory) : all(static_cast<Acc*>(memory)) {
    own = all + threadIdx.x / 32 * 2 * COLUMNS + threadIdx.x % 32 * 4;
#pragma unroll 1
    for (int i = 0; i < 2 * COLUMNS; i += 128) store_pack(own + i, Pack<Acc, 4>{});
  }
  __device__ void add(int k, const Acc (&w)[SIZE], const Acc (&b)[SIZE]) {
#pragma unroll
    for (int e = 0; e < SIZE; e += 4) {
      Acc* place = own + (k * SIZE + e) * 32;
      Pack<Acc, 4> first = load_pack<Acc, 4>(place), second = load_pack<Acc, 4>(place + COLUMNS);
#pragma unroll
      for (int j = 0; j < 4; ++j) first.v[j] += w[e + j], second.v[j] += b[e + j];
      store_pack(place, first);
      store_pack(place + COLUMNS, second);
    }
  }
  __device__ void finish(Acc* __restrict__ partial, int width) {
    __syncthreads();
    for (int i = threadIdx.x; i < 2 * width; i += THREADS) {
      const int c = i % width, pack = c / SIZE, e = pack / 32 * SIZE + c % SIZE;
      const Acc* from = all + i / width * COLUMNS + e / 4 * 128 + pack % 32 * 4 + e % 4;
      Acc sum = 0;
      for (int warp = 0; warp < WARPS; ++warp) sum = from[warp * 2 * COLUMNS] + sum;
      partial[(long long)blockIdx.x * 2 * width + i] = sum;
    }
  }
};

// n is a row of x and g one of dy; on return g is the row's gradient. What the row gives to dweight and dbias is added.
template <typename T, typename Acc, int K>
__device__ inline void gradient_of_row(Acc (&n)[K][Pack<T>::SIZE], Acc (&g)[K][Pack<T>::SIZE],
                                       const T* __restrict__ weight, Acc mu, Acc scale, int width,
                                       ColumnSums<Acc, K, Pack<T>::SIZE>& sums) {
  constexpr int SIZE = Pack<T>::SIZE;
  Acc sum = 0, along = 0;
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const int c = place<T>(k);
    const Pack<T> w = c < width ? load_pack(weight + c) : Pack<T>{};
    Acc dw[SIZE], db[SIZE];
#pragma unroll
    for (int e = 0; e < SIZE; ++e) {
      n[k][e] = (n[k][e] - mu) * scale;
      dw[e] = g[k][e] * n[k][e];
      db[e] = g[k][e];
      g[k][e] *= to_acc(w.v[e]);
      sum += g[k][e];
      along += g[k][e] * n[k][e];
    }
    sums.add(k, dw, db);
  }
  sum = team_reduce<32>(sum, Sum()) / width;
  along = team_reduce<32>(along, Sum()) / width;
#pragma unroll
  for (int k = 0; k < K; ++k)
#pragma unroll
    for (int e = 0; e < SIZE; ++e) g[k][e] = scale * (g[k][e] - sum - n[k][e] * along);
}
