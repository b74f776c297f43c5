// Layer normalisation over the last axis and its gradients. README.md derives the equations.
//
//   y[i,c] = weight[c] * n[i,c] + bias[c]        n[i,c] = (x[i,c] - mean[i]) * inverse[i]
//
//   x (rows, width)   mean and inverse: of each row, the mean and 1 / sqrt(variance + eps)
//
// The plain kernels take any width, a block a row. Those named _warp hold a row in the registers of a warp, K packs of 16
// bytes a lane: they move the fewest bytes there can be. They take widths that are whole packs, up to 32 K of them.
#include "layer_norm.cuh"

template <typename T, typename Acc>
__global__ void __launch_bounds__(THREADS)
layer_norm_forward(const T* __restrict__ x, const T* __restrict__ weight, const T* __restrict__ bias, T* __restrict__ y,
                   Acc* __restrict__ mean, Acc* __restrict__ inverse, long long rows, int width, Acc eps) {
  for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* from = x + row * width;
    Acc sum = 0, squares = 0;
    for (int c = threadIdx.x; c < width; c += THREADS) sum += to_acc(from[c]);
    const Acc mu = team_reduce<THREADS>(sum, Sum()) / width;
    for (int c = threadIdx.x; c < width; c += THREADS) squares += (to_acc(from[c]) - mu) * (to_acc(from[c]) - mu);
    const Acc scale = 1 / sqrt(team_reduce<THREADS>(squares, Sum()) / width + eps);
    for (int c = threadIdx.x; c < width; c += THREADS)
      y[row * width + c] = from_acc<T>(to_acc(weight[c]) * (to_acc(from[c]) - mu) * scale + to_acc(bias[c]));
    if (threadIdx.x != 0) continue;
    mean[row] = mu;
    inverse[row] = scale;
  }
}

// dx = inverse * (g - mean of g - n * mean of g n),  g = weight * dy
template <typename T, typename Acc>
__global__ void __launch_bounds__(THREADS)
layer_norm_backward_input(const T* __restrict__ x, const T* __restrict__ dy, const T* __restrict__ weight,
                          const Acc* __restrict__ mean, const Acc* __restrict__ inverse, T* __restrict__ dx,
                          long long rows, int width) {
  for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
    const Acc mu = mean[row], scale = inverse[row];
    Acc sum = 0, along = 0;
    for (int c = threadIdx.x; c < width; c += THREADS) {
      const Acc g = to_acc(weight[c]) * to_acc(dy[row * width + c]);
      sum += g;
      along += g * (to_acc(x[row * width + c]) - mu) * scale;
    }
    sum = team_reduce<THREADS>(sum, Sum()) / width;
    along = team_reduce<THREADS>(along, Sum()) / width;
    for (int c = threadIdx.x; c < width; c += THREADS) {
      const Acc g = to_acc(weight[c]) * to_acc(dy[row * width + c]), n = (to_acc(x[row * width + c]) - mu) * scale;
      dx[row * width + c] = from_acc<T>(scale * (g - sum - n * along));
    }
  }
}

// partial[part, 0, c] = sum of dy * n, partial[part, 1, c] = sum of dy, over the rows of a part: a thread a column.
template <typename T, typename Acc>
__global__ void __launch_bounds__(THREADS)
layer_norm_backward_weight(const T* __restrict__ x, const T* __restrict__ dy, const Acc* __restrict__ mean,
                           const Acc* __restrict__ inverse, Acc* __restrict__ partial, long long rows, int width,
                           int parts) {
  for (long long i = grid_thread(); i < (long long)parts * width; i += grid_threads()) {
    const long long part = quotient(i, width), first = rows * part / parts, last = rows * (part + 1) / parts;
    const int c = (int)(i - part * width);
    Acc dweight = 0, dbias = 0;
    for (long long row = first; row < last; ++row) {
      const Acc d = to_acc(dy[row * width + c]);
      dweight += d * (to_acc(x[row * width + c]) - mean[row]) * inverse[row];
      dbias += d;
    }
    partial[2 * part * width + c] = dweight;
    partial[(2 * part + 1) * width + c] = dbias;
  }
}

template <typename T, typename Acc, int K>
__global__ void __launch_bounds__(THREADS, K * 16 / sizeof(T) > 16 ? 2 : 4)  // without, some compilers want more, and spill
layer_norm_forward_warp(const T* __restrict__ x, const T* __restrict__ weight, const T* __restrict__ bias,
                        T* __restrict__ y, Acc* __restrict__ mean, Acc* __restrict__ inverse, long long rows, int width,
                        Acc eps) {
  for (long long row = grid_thread() / 32; row < rows; row += grid_threads() / 32) {
    Acc v[K][Pack<T>::SIZE];
    load_row(x + row * width, width, v);
    normalize_row(v, weight, bias, y + row * width, mean + row, inverse + row, width, eps);
  }
}

// dx and the partial sums of dweight and dbias in one walk over x and dy. The grid is the number of parts; each warp adds up
// its rows in registers, then the warps of a block add theirs in order.
template <typename T, typename Acc, int K>
__global__ void __launch_bounds__(THREADS, sizeof(Acc) == 4 ? 2 : 1)
layer_norm_backward_warp(const T* __restrict__ x, const T* __restrict__ dy, const T* __restrict__ weight,
                         const Acc* __restrict__ mean, const Acc* __restrict__ inverse, T* __restrict__ dx,
                         Acc* __restrict__ partial, long long rows, int width) {
  constexpr int SIZE = Pack<T>::SIZE;
  extern __shared__ __align__(16) unsigned char memory[];
  ColumnSums<Acc, K, SIZE> sums(memory);
  for (long long row = grid_thread() / 32; row < rows; row += grid_threads() / 32) {
    Acc n[K][SIZE], g[K][SIZE];
    load_row(x + row * width, width, n);
    load_row(dy + row * width, width, g);
    gradient_of_row(n, g, weight, mean[row], inverse[row], width, sums);
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int c = place<T>(k);
      if (c >= width) break;
      Pack<T> result;
#pragma unroll
      for (int e = 0; e < SIZE; ++e) result.v[e] = from_acc<T>(g[k][e]);
      store_pack(dx + row * width + c, result);
    }
  }
  sums.finish(partial, width);
}

// Sums of partial over the parts: half of the blocks for dweight, the others for dbias; either may be null.
template <typename Acc>
__global__ void __launch_bounds__(THREADS)
layer_norm_sum_partials(const Acc* __restrict__ partial, Acc* __restrict__ dweight, Acc* __restrict__ dbias, int width,
                        int parts) {
  const int tiles = gridDim.x / 2, half = blockIdx.x / tiles;
  Acc* result = half == 0 ? dweight : dbias;
  if (result) sum_of_parts<THREADS>(partial + half * width, 2LL * width, parts, result, width, blockIdx.x % tiles);
}
