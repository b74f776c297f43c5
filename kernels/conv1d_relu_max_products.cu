// Bias-added convolutions that a matrix product has stored, to ReLU and their maximum over time: what conv1d_relu_max.cu does
// without storing them, for where tensor cores make the product so much faster.
//
//   c (batch * rows, filters): window t of text b in row b * rows + t, the bias in it; only the first `windows` of a text count
//   y, winner and mask: as there. Its filters are columns feature.. of y and winner (batch, features).
#include "conv1d_relu_max.cuh"

constexpr int THREADS = 256, WARPS = THREADS / 32;

// A block owns 32 N filters of a text, N a thread: 16 bytes, or one where rows are not whole packs. Its warps share the
// windows.
template <typename T, typename Acc, int N>
__global__ void __launch_bounds__(THREADS, 3)  // for more blocks, some compilers save registers and spill
conv1d_relu_max_largest(const T* __restrict__ c, const bool* __restrict__ mask, T* __restrict__ y, int* __restrict__ winner,
                        long long batch, int length, int rows, int windows, int kernel, int left, int filters, int features,
                        int feature) {
  __shared__ Acc largest_of[WARPS][32 * N];
  __shared__ int winner_of[WARPS][32 * N];
  const int tiles = (filters + 32 * N - 1) / (32 * N), warp = threadIdx.x / 32, own = threadIdx.x % 32 * N;
  for (long long item = blockIdx.x; item < batch * tiles; item += gridDim.x) {
    const long long b = quotient(item, tiles);
    const int first = (int)(item - b * tiles) * 32 * N;
    Acc largest[N];
    int at[N];
#pragma unroll
    for (int e = 0; e < N; ++e) largest[e] = 0, at[e] = -1;
    for (int t = warp; t < windows && first + own < filters; t += WARPS) {
      if (mask && !holds_token(mask + b * length, t, left, kernel, length)) continue;
      const Pack<T, N> pack = load_pack<T, N>(c + (b * rows + t) * filters + first + own);
#pragma unroll
      for (int e = 0; e < N; ++e) {
        const Acc v = to_acc(pack.v[e]);
        if (wins(v, t, largest[e], at[e])) largest[e] = v, at[e] = t;
      }
    }
#pragma unroll
    for (int e = 0; e < N; ++e) largest_of[warp][own + e] = largest[e], winner_of[warp][own + e] = at[e];
    __syncthreads();
    for (int f = threadIdx.x; f < 32 * N && first + f < filters; f += THREADS) {
      Acc top = 0;
      int t = -1;
      for (int other = 0; other < WARPS; ++other) {
        const int where = winner_of[other][f];
        if (where >= 0 && wins(largest_of[other][f], where, top, t)) top = largest_of[other][f], t = where;
      }
      y[b * features + feature + first + f] = from_acc<T>(top < 0 ? Acc(0) : top);
      winner[b * features + feature + first + f] = top > 0 ? t : -1;
    }
    __syncthreads();
  }
}
