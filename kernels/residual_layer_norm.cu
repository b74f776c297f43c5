// A residual, dropout and layer normalisation in one, and their gradients. README.md derives the equations.
//
//   s[i,c] = x[i,c] + keep_scale * residual[i,c] where kept, else x[i,c]        y[i,c] = weight[c] * n[i,c] + bias[c]
//
//   x, residual (n, width)   n[i,c] = (s[i,c] - mean[i]) * inverse[i], of s as it is stored
//
// Row i is row rows[i] of the padded batch (row i where rows is null), whose elements are numbered from `first`: their
// 16-bit numbers decide what is kept, as in dropout.cu. keep = 65536 keeps everything; then step may be null.
//
// The plain kernels take any width, a block a row, a thread 16 neighbouring elements where it draws numbers. Those named
// _warp hold a row in the registers of a warp, as in layer_norm.cu, and take widths that are whole packs.
#include "layer_norm.cuh"
#include "philox.cuh"

// Calls work(c, kept) for the elements c of a row that begins at number `start`, shared among the threads of a block: each
// takes what lies in one block of numbers. A row may begin and end inside one.
template <typename Work>
__device__ inline void over_row(const Dropout& drop, long long start, int width, Work work) {
  const int skip = (int)(start % 16);
  for (int chunk = threadIdx.x; chunk * 16 < skip + width; chunk += THREADS) {
    const unsigned kept = drop.off() ? 0xffffu : drop.kept(start / 16 + chunk);
#pragma unroll 2
    for (int e = 0; e < 16; ++e) {
      const int c = chunk * 16 + e - skip;
      if (c >= 0 && c < width) work(c, (kept >> e & 1) != 0);
    }
  }
}

template <typename T, typename Acc>
__global__ void __launch_bounds__(THREADS, 4)  // without, some compilers want more, and spill
residual_layer_norm_forward(const T* __restrict__ x, const T* __restrict__ residual, const T* __restrict__ weight,
                            const T* __restrict__ bias, T* __restrict__ sum, T* __restrict__ y, Acc* __restrict__ mean,
                            Acc* __restrict__ inverse, long long n, int width, Acc eps,
                            const long long* __restrict__ rows, long long first, int keep, Acc keep_scale,
                            unsigned long long seed, unsigned long long stream, unsigned long long call,
                            const unsigned long long* __restrict__ step) {
  const Dropout drop = {keep, first, seed, stream, call, step ? *step : 0};
  for (long long row = blockIdx.x; row < n; row += gridDim.x) {
    const T *of_x = x + row * width, *of_residual = residual + row * width;
    T* s = sum + row * width;
    Acc total = 0, squares = 0;
    over_row(drop, first + (rows ? rows[row] : row) * width, width, [&](int c, bool kept) {
      s[c] = from_acc<T>(to_acc(of_x[c]) + (kept ? keep_scale * to_acc(of_residual[c]) : Acc(0)));
      total += to_acc(s[c]);
    });
    const Acc mu = team_reduce<THREADS>(total, Sum()) / width;
    for (int c = threadIdx.x; c < width; c += THREADS) squares += (to_acc(s[c]) - mu) * (to_acc(s[c]) - mu);
    const Acc scale = 1 / sqrt(team_reduce<THREADS>(squares, Sum()) / width + eps);
    for (int c = threadIdx.x; c < width; c += THREADS)
      y[row * width + c] = from_acc<T>(to_acc(weight[c]) * (to_acc(s[c]) - mu) * scale + to_acc(bias[c]));
    if (threadIdx.x != 0) continue;
    mean[row] = mu;
    inverse[row] = scale;
  }
}

// dx = dsum + inverse * (g - mean of g - n * mean of g n),  g = weight * dy        dresidual = keep_scale * dx where kept
// dsum, what arrives at s beside, may be null; so may dresidual where it is not wanted.
template <typename T, typename Acc>
__global__ void __launch_bounds__(THREADS, 4)
residual_layer_norm_backward_input(const T* __restrict__ sum, const T* __restrict__ dy, const T* __restrict__ dsum,
                                   const T* __restrict__ weight, const Acc* __restrict__ mean,
                                   const Acc* __restrict__ inverse, T* __restrict__ dx, T* __restrict__ dresidual,
                                   long long n, int width, const long long* __restrict__ rows, long long first, int keep,
                                   Acc keep_scale, unsigned long long seed, unsigned long long stream,
                                   unsigned long long call, const unsigned long long* __restrict__ step) {
  const Dropout drop = {keep, first, seed, stream, call, step ? *step : 0};
  for (long long row = blockIdx.x; row < n; row += gridDim.x) {
    const Acc mu = mean[row], scale = inverse[row];
    const T *s = sum + row * width, *d = dy + row * width;
    Acc total = 0, along = 0;
    for (int c = threadIdx.x; c < width; c += THREADS) {
      const Acc g = to_acc(weight[c]) * to_acc(d[c]);
      total += g;
      along += g * (to_acc(s[c]) - mu) * scale;
    }
    total = team_reduce<THREADS>(total, Sum()) / width;
    along = team_reduce<THREADS>(along, Sum()) / width;
    over_row(drop, first + (rows ? rows[row] : row) * width, width, [&](int c, bool kept) {
      const Acc g = to_acc(weight[c]) * to_acc(d[c]), normal = (to_acc(s[c]) - mu) * scale;
      const Acc result = scale * (g - total - normal * along) + (dsum ? to_acc(dsum[row * width + c]) : Acc(0));
      dx[row * width + c] = from_acc<T>(result);
      if (dresidual) dresidual[row * width + c] = from_acc<T>(kept ? keep_scale * result : Acc(0));
    });
  }
}

// Which elements of a warp's packs are kept. A lane draws one block of 16 numbers (two where packs are more than 32 blocks),
// and gets the bits of its packs from others. A row begins at a multiple of its width, which is whole packs, and 16 is whole
// packs too: none lies in two blocks.
template <typename T, int K> struct KeptPacks {
  static constexpr int SIZE = Pack<T>::SIZE, DRAWS = K * SIZE > 16 ? K * SIZE / 16 : 1;
  unsigned drawn[DRAWS];
  int skip;
  // For a row that begins at number `start`; start % 16 + width must be at most 512 DRAWS.
  __device__ inline void draw(const Dropout& drop, long long start, int width) {
    skip = (int)(start % 16);
#pragma unroll
    for (int i = 0; i < DRAWS; ++i) {
      const int block = 32 * i + threadIdx.x % 32;
      drawn[i] = !drop.off() && 16 * block < skip + width ? drop.kept(start / 16 + block) : 0xffffu;
    }
  }
  // The bits of pack k. Every lane of the warp must call it.
  __device__ inline unsigned of_pack(int k) const {
    const int at = skip + place<T>(k), block = at / 16;
    unsigned bits = __shfl_sync(0xffffffffu, drawn[0], block % 32);
#pragma unroll
    for (int i = 1; i < DRAWS; ++i) {
      const unsigned others = __shfl_sync(0xffffffffu, drawn[i], block % 32);
      if (block / 32 == i) bits = others;
    }
    return bits >> at % 16;
  }
};

// Of the registers that a lane holds a row in.
template <typename T, typename Acc, int K> constexpr int BYTES = K * Pack<T>::SIZE * (int)sizeof(Acc);

template <typename T, typename Acc, int K>
__global__ void __launch_bounds__(THREADS, BYTES<T, Acc, K> > 64 ? 2 : 4)
residual_layer_norm_forward_warp(const T* __restrict__ x, const T* __restrict__ residual, const T* __restrict__ weight,
                                 const T* __restrict__ bias, T* __restrict__ sum, T* __restrict__ y,
                                 Acc* __restrict__ mean, Acc* __restrict__ inverse, long long n, int width, Acc eps,
                                 const long long* __restrict__ rows, long long first, int keep, Acc keep_scale,
                                 unsigned long long seed, unsigned long long stream, unsigned long long call,
                                 const unsigned long long* __restrict__ step) {
  constexpr int SIZE = Pack<T>::SIZE;
  const Dropout drop = {keep, first, seed, stream, call, step ? *step : 0};
  for (long long row = grid_thread() / 32; row < n; row += grid_threads() / 32) {
    Acc v[K][SIZE];
    KeptPacks<T, K> kept;  // drawn first, while registers are free
    kept.draw(drop, first + (rows ? rows[row] : row) * width, width);
    load_row(x + row * width, width, v);
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int c = place<T>(k);
      const unsigned bits = kept.of_pack(k);
      if (c >= width) continue;
      const Pack<T> r = load_pack(residual + row * width + c);
      Pack<T> result;
#pragma unroll
      for (int e = 0; e < SIZE; ++e) {
        result.v[e] = from_acc<T>(v[k][e] + (bits >> e & 1 ? keep_scale * to_acc(r.v[e]) : Acc(0)));
        v[k][e] = to_acc(result.v[e]);
      }
      store_pack(sum + row * width + c, result);
    }
    normalize_row(v, weight, bias, y + row * width, mean + row, inverse + row, width, eps);
  }
}

// As residual_layer_norm_backward_input, and the partial sums of dweight and dbias as in layer_norm_backward_warp.
template <typename T, typename Acc, int K>
__global__ void __launch_bounds__(THREADS, BYTES<T, Acc, K> > 32 ? 2 : 4)
residual_layer_norm_backward_warp(const T* __restrict__ sum, const T* __restrict__ dy, const T* __restrict__ dsum,
                                  const T* __restrict__ weight, const Acc* __restrict__ mean,
                                  const Acc* __restrict__ inverse, T* __restrict__ dx, T* __restrict__ dresidual,
                                  Acc* __restrict__ partial, long long n, int width, const long long* __restrict__ rows,
                                  long long first, int keep, Acc keep_scale, unsigned long long seed,
                                  unsigned long long stream, unsigned long long call,
                                  const unsigned long long* __restrict__ step) {
  constexpr int SIZE = Pack<T>::SIZE;
  const Dropout drop = {keep, first, seed, stream, call, step ? *step : 0};
  extern __shared__ __align__(16) unsigned char memory[];
  ColumnSums<Acc, K, SIZE> sums(memory);
  for (long long row = grid_thread() / 32; row < n; row += grid_threads() / 32) {
    Acc normal[K][SIZE], g[K][SIZE];
    KeptPacks<T, K> kept;  // drawn first, while registers are free
    if (dresidual) kept.draw(drop, first + (rows ? rows[row] : row) * width, width);
    load_row(sum + row * width, width, normal);
    load_row(dy + row * width, width, g);
    gradient_of_row(normal, g, weight, mean[row], inverse[row], width, sums);
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int c = place<T>(k);
      const unsigned bits = dresidual ? kept.of_pack(k) : 0;
      if (c >= width) continue;
      const Pack<T> before = dsum ? load_pack(dsum + row * width + c) : Pack<T>{};
      Pack<T> of_x, of_residual;
#pragma unroll
      for (int e = 0; e < SIZE; ++e) {
        const Acc result = g[k][e] + to_acc(before.v[e]);
        of_x.v[e] = from_acc<T>(result);
        of_residual.v[e] = from_acc<T>(bits >> e & 1 ? keep_scale * result : Acc(0));
      }
      store_pack(dx + row * width + c, of_x);
      if (dresidual) store_pack(dresidual + row * width + c, of_residual);
    }
  }
  sums.finish(partial, width);
}
