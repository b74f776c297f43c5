// The largest of each column over the positions of a text that count: what pooling.cu and conv1d_relu_max_products.cu share.
#pragma once
#include "common.cuh"

constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr int LEAST = 3;  // blocks a processor; for more, some compilers save registers and spill

// Columns that a block owns, N a thread, make a tile.
template <int N> __device__ inline int tiles_of(int columns) { return (columns + 32 * N - 1) / (32 * N); }

// put(column, largest, row) for the columns `first`.. of a tile of x (rows, columns), by one thread each; row is that of the
// first largest number, -1 and largest 0 where counts(row) holds for none. The warps of the block share the rows.
template <typename T, typename Acc, int N, typename Counts, typename Put>
__device__ inline void largest_over_time(const T* __restrict__ x, int rows, int columns, int first, Counts counts, Put put) {
  __shared__ Acc largest_of[WARPS][32 * N];
  __shared__ int winner_of[WARPS][32 * N];
  const int warp = threadIdx.x / 32, own = threadIdx.x % 32 * N;
  Acc largest[N];
  int at[N];
#pragma unroll
  for (int e = 0; e < N; ++e) largest[e] = 0, at[e] = -1;
  for (int t = warp; t < rows && first + own < columns; t += WARPS) {
    if (!counts(t)) continue;
    const Pack<T, N> pack = load_pack<T, N>(x + (long long)t * columns + first + own);
#pragma unroll
    for (int e = 0; e < N; ++e) {
      const Acc v = to_acc(pack.v[e]);
      if (wins(v, t, largest[e], at[e])) largest[e] = v, at[e] = t;
    }
  }
#pragma unroll
  for (int e = 0; e < N; ++e) largest_of[warp][own + e] = largest[e], winner_of[warp][own + e] = at[e];
  __syncthreads();
  for (int c = threadIdx.x; c < 32 * N && first + c < columns; c += THREADS) {
    Acc top = 0;
    int t = -1;
    for (int other = 0; other < WARPS; ++other) {
      const int where = winner_of[other][c];
      if (where >= 0 && wins(largest_of[other][c], where, top, t)) top = largest_of[other][c], t = where;
    }
    put(first + c, top, t);
  }
  __syncthreads();
}
