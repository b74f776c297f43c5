// y = f(x + bias) over rows of columns, its gradient, and sums over rows. README.md derives the equations.
//
// f is the identity, ReLU or GELU in its tanh or its exact form. A thread owns N neighbouring columns (16 bytes, or one
// column where rows are not whole packs), a warp 32 N of them, and the warps of a block take turns with the rows of a part.
#include "philox.cuh"

constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr double SLOPE = 0.7978845608028654, CUBIC = 0.044715;              // √(2/π), and of the tanh form
constexpr double ROOT_HALF = 0.7071067811865476, DENSITY = 0.3989422804014327;  // √(1/2), 1/√(2π)
enum { IDENTITY, RELU, GELU_TANH, GELU };

template <int F, typename Acc> __device__ inline Acc value(Acc x) {
  if (F == RELU) return x <= 0 ? Acc(0) : x;  // NaN stays NaN
  if (F == GELU_TANH) return x * (Acc(0.5) + Acc(0.5) * tanh(x * (Acc(SLOPE) + Acc(SLOPE * CUBIC) * x * x)));
  if (F == GELU) return x * (Acc(0.5) + Acc(0.5) * erf(x * Acc(ROOT_HALF)));
  return x;
}

// f'(x); for ReLU from f(x) as well as from x.
template <int F, typename Acc> __device__ inline Acc slope(Acc x) {
  if (F == RELU) return x > 0 ? Acc(1) : Acc(0);
  if (F == GELU_TANH) {
    const Acc cdf = Acc(0.5) + Acc(0.5) * tanh(x * (Acc(SLOPE) + Acc(SLOPE * CUBIC) * x * x));
    return cdf + x * 2 * cdf * (1 - cdf) * (Acc(SLOPE) + Acc(3 * SLOPE * CUBIC) * x * x);
  }
  if (F == GELU)
    return Acc(0.5) + Acc(0.5) * erf(x * Acc(ROOT_HALF)) + x * Acc(DENSITY) * exp(Acc(-0.5) * x * x);
  return 1;
}

// Where a block works: the columns of its threads, and its rows among `parts` equal shares.
struct Place {
  int column;
  long long first, last;  // of the warp: it steps by WARPS
  int part;
};
template <int N> __device__ inline Place place(long long rows, int width, int parts) {
  const int tiles = (width + 32 * N - 1) / (32 * N), part = blockIdx.x / tiles;
  return {(int)((blockIdx.x % tiles) * 32 + threadIdx.x % 32) * N, rows * part / parts + threadIdx.x / 32,
          rows * (part + 1) / parts, part};
}

// y = f(x + bias); bias may be null, y may be x. The grid is tiles of columns times parts.
template <typename T, typename Acc, int N, int F>
__global__ void __launch_bounds__(THREADS, 4)  // without the 4 some compilers aim at more blocks, and spill
activation_forward(const T* x, const T* __restrict__ bias, T* y, long long rows, int width, int parts) {
  const Place at = place<N>(rows, width, parts);
  if (at.column >= width) return;
  const Pack<T, N> b = bias ? load_pack<T, N>(bias + at.column) : Pack<T, N>{};
  for (long long row = at.first; row < at.last; row += WARPS) {
    Pack<T, N> pack = load_pack<T, N>(x + row * width + at.column);
#pragma unroll
    for (int e = 0; e < N; ++e) pack.v[e] = from_acc<T>(value<F>(to_acc(pack.v[e]) + (bias ? to_acc(b.v[e]) : Acc(0))));
    store_pack(y + row * width + at.column, pack);
  }
}

// dx = dy f'(x + bias), and partial[part, column] = sum of dx over the rows of a part. bias, dx and partial may be null (dx
// with the identity, where x may be too); dx may be dy.
template <typename T, typename Acc, int N, int F>
__global__ void __launch_bounds__(THREADS, 4)  // without the 4 some compilers aim at more blocks, and spill
activation_backward(const T* dy, const T* __restrict__ x, const T* __restrict__ bias, T* dx, Acc* __restrict__ partial,
                    long long rows, int width, int parts) {
  const Place at = place<N>(rows, width, parts);
  const bool inside = at.column < width;
  Acc sums[N] = {};
  Pack<T, N> b = {};
  if (inside && bias) b = load_pack<T, N>(bias + at.column);
  for (long long row = inside ? at.first : at.last; row < at.last; row += WARPS) {
    Pack<T, N> d = load_pack<T, N>(dy + row * width + at.column), from = {};
    if (F != IDENTITY) from = load_pack<T, N>(x + row * width + at.column);
#pragma unroll
    for (int e = 0; e < N; ++e) {
      const Acc v = to_acc(d.v[e]) * slope<F>(to_acc(from.v[e]) + (bias ? to_acc(b.v[e]) : Acc(0)));
      sums[e] += v;
      d.v[e] = from_acc<T>(v);
    }
    if (dx) store_pack(dx + row * width + at.column, d);
  }
  if (!partial) return;

  __shared__ Acc of_warp[WARPS][32 * N];
  const int own = (threadIdx.x % 32) * N;
#pragma unroll
  for (int e = 0; e < N; ++e) of_warp[threadIdx.x / 32][own + e] = sums[e];
  __syncthreads();
  for (int i = threadIdx.x; i < 32 * N; i += THREADS) {
    const int column = at.column - own + i;
    if (column >= width) break;
    Acc sum = 0;
    for (int warp = 0; warp < WARPS; ++warp) sum += of_warp[warp][i];
    partial[(long long)at.part * width + column] = sum;
  }
}

// result[column] = sum of partial[part, column] over the parts.
template <typename T, typename Acc>
__global__ void __launch_bounds__(THREADS)
activation_sum_partials(const Acc* __restrict__ partial, T* __restrict__ result, int width, int parts) {
  sum_of_parts<THREADS>(partial, width, parts, result, width, blockIdx.x);
}

// y = scale f(x) where kept, else 0, with the random numbers of dropout.cu; f is ReLU or the tanh form of GELU. Beside y it
// writes from what the product of the backward pass takes the derivative of f, which is 0 where nothing was kept: for ReLU a
// bit an element, 1 where y > 0, `words` words of 16 bits a row, the lowest bit first; for GELU slopes_at, x or DROPPED.
// Row i is row rows[i] of the padded batch (row i where rows is null), whose elements are numbered from `first`. A thread
// takes 16 neighbouring elements, one block of random numbers: `width` and `first` are multiples of 16. y or slopes_at may
// be x.
constexpr int DROPPED = -16;  // GELU's slope there is 0, also where it is computed in half precision
template <typename T, typename Acc, int F>
__global__ void __launch_bounds__(THREADS, 4)
activation_dropout(const T* x, T* y, T* slopes_at, unsigned short* __restrict__ bits, long long n, int width, int words,
                   const long long* __restrict__ rows, long long first, int keep, Acc scale, unsigned long long seed,
                   unsigned long long stream, unsigned long long call, const unsigned long long* __restrict__ step) {
  constexpr int N = 16 / (int)sizeof(T);
  const int chunks = width / 16;
  const long long thread = grid_thread(), row = quotient(thread, chunks);
  if (row >= n) return;
  const int chunk = (int)(thread - row * chunks);
  const Dropout drop = {keep, first, seed, stream, call, *step};
  const unsigned kept = drop.kept((first + (rows ? rows[row] : row) * width) / 16 + chunk);
  const long long at = row * width + chunk * 16;
  unsigned above = 0;
#pragma unroll
  for (int begin = 0; begin < 16; begin += N) {
    Pack<T, N> in = load_pack<T, N>(x + at + begin), out;
#pragma unroll
    for (int e = 0; e < N; ++e) {
      const bool on = (kept >> (begin + e) & 1) != 0;
      const Acc v = on ? value<F>(to_acc(in.v[e])) * scale : Acc(0);
      above |= (unsigned)(v > 0) << (begin + e);
      out.v[e] = from_acc<T>(v);
      if (!on) in.v[e] = from_acc<T>(Acc(DROPPED));
    }
    store_pack(y + at + begin, out);
    if (F == GELU_TANH) store_pack(slopes_at + at + begin, in);
  }
  if (F == RELU) bits[row * words + chunk] = (unsigned short)above;
}
