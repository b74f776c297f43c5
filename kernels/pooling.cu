// The maximum and the mean over time of texts of which a mask says what is real, and their gradients. See README.md.
//
//   x (batch, length, channels)   mask (batch, length) or null: true where a token is real   y (batch, channels)
//
// N columns a thread: 16 bytes, or one where positions are not whole packs. A block owns 32 N columns of a text; its warps
// share the positions, and their results are put together in order.
#include "largest_over_time.cuh"

// y = the largest of the real tokens, 0 without any; winner (batch, channels): where it stands, the first, or -1.
template <typename T, typename Acc, int N>
__global__ void __launch_bounds__(THREADS, LEAST)
max_over_time_forward(const T* __restrict__ x, const bool* __restrict__ mask, T* __restrict__ y, int* __restrict__ winner,
                      long long batch, int length, int channels) {
  const int tiles = tiles_of<N>(channels);
  for (long long item = blockIdx.x; item < batch * tiles; item += gridDim.x) {
    const long long b = quotient(item, tiles);
    const auto counts = [=](int t) { return !mask || mask[b * length + t]; };
    const auto put = [=](int c, Acc top, int t) {
      y[b * channels + c] = from_acc<T>(top);
      winner[b * channels + c] = t;
    };
    largest_over_time<T, Acc, N>(x + b * length * channels, length, channels, (int)(item - b * tiles) * 32 * N, counts, put);
  }
}

// dx = dy where a position won, else 0.
template <typename T, typename Acc, int N>
__global__ void __launch_bounds__(THREADS, LEAST)
max_over_time_backward(const T* __restrict__ dy, const int* __restrict__ winner, T* __restrict__ dx, long long batch,
                       int length, int channels) {
  const int packs = channels / N;
  for (long long i = grid_thread(); i < batch * length * packs; i += grid_threads()) {
    const long long position = quotient(i, packs), b = quotient(position, length);
    const int t = (int)(position - b * length);
    const long long c = b * channels + (i - position * packs) * N;
    const Pack<T, N> d = load_pack<T, N>(dy + c);
    Pack<T, N> result = {};
#pragma unroll
    for (int e = 0; e < N; ++e)
      if (winner[c + e] == t) result.v[e] = d.v[e];
    store_pack(dx + i * N, result);
  }
}

// y = the sum of the real tokens over their number, 0 without any; share (batch): 1 over that number.
template <typename T, typename Acc, int N>
__global__ void __launch_bounds__(THREADS, LEAST)
mean_over_time_forward(const T* __restrict__ x, const bool* __restrict__ mask, T* __restrict__ y, Acc* __restrict__ share,
                       long long batch, int length, int channels) {
  __shared__ Acc sums_of[WARPS][32 * N];
  __shared__ int count_of[WARPS];
  const int tiles = tiles_of<N>(channels), warp = threadIdx.x / 32, own = threadIdx.x % 32 * N;
  for (long long item = blockIdx.x; item < batch * tiles; item += gridDim.x) {
    const long long b = quotient(item, tiles);
    const int first = (int)(item - b * tiles) * 32 * N;
    Acc sums[N] = {};
    int count = 0;
#pragma unroll 4
    for (int t = warp; t < length; t += WARPS) {
      if (mask && !mask[b * length + t]) continue;
      ++count;
      if (first + own >= channels) continue;
      const Pack<T, N> pack = load_pack<T, N>(x + (b * length + t) * channels + first + own);
#pragma unroll
      for (int e = 0; e < N; ++e) sums[e] += to_acc(pack.v[e]);
    }
#pragma unroll
    for (int e = 0; e < N; ++e) sums_of[warp][own + e] = sums[e];
    if (threadIdx.x % 32 == 0) count_of[warp] = count;
    __syncthreads();
    int real = count_of[0];
    for (int other = 1; other < WARPS; ++other) real += count_of[other];
    const Acc each = Acc(1) / (real > 1 ? real : 1);
    for (int c = threadIdx.x; c < 32 * N && first + c < channels; c += THREADS) {
      Acc sum = sums_of[0][c];
      for (int other = 1; other < WARPS; ++other) sum += sums_of[other][c];
      y[b * channels + first + c] = from_acc<T>(sum * each);
    }
    if (first == 0 && threadIdx.x == 0) share[b] = each;
    __syncthreads();
  }
}

// dx = dy * share at real tokens, else 0.
template <typename T, typename Acc, int N>
__global__ void __launch_bounds__(THREADS, LEAST)
mean_over_time_backward(const T* __restrict__ dy, const bool* __restrict__ mask, const Acc* __restrict__ share,
                        T* __restrict__ dx, long long batch, int length, int channels) {
  const int packs = channels / N;
  for (long long i = grid_thread(); i < batch * length * packs; i += grid_threads()) {
    const long long position = quotient(i, packs), b = quotient(position, length);
    Pack<T, N> result = {};
    if (!mask || mask[position]) {
      const Pack<T, N> d = load_pack<T, N>(dy + b * channels + (i - position * packs) * N);
#pragma unroll
      for (int e = 0; e < N; ++e) result.v[e] = from_acc<T>(to_acc(d.v[e]) * share[b]);
    }
    store_pack(dx + i * N, result);
  }
}
