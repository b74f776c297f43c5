// Adam for the rows of a table that occur among the ids of a batch, and the norm of such a gradient. See README.md.
//
// The places of the ids are sorted by sort_ids of embedding.cu: the rows of `values` that belong to one row of the table, its
// run, are neighbours in `order`. A run is cut at every CHUNK-th place into pieces, so that a frequent word is shared by many
// warps. No atomics on values: a row of the table has one owner, and the order of adding never changes.
#include "adam.cuh"

constexpr int THREADS = 256, CHUNK = 32;
constexpr unsigned ALL = 0xffffffffu;

template <typename T, int N> __device__ inline void add_pack(T (&sums)[N], const T* from) {
  const Pack<T, N> pack = load_pack<T, N>(from);
  for (int e = 0; e < N; ++e) sums[e] += pack.v[e];
}

// The piece that begins at place i, for columns c..c+N-1 of this lane: true where it is a whole run, of row `id`; else its sum
// goes to partial[chunk, 0] where the run began in a chunk before, to partial[chunk, 1] where it goes on into the next. All
// threads of a warp have the same i; where no piece begins, they do nothing.
template <typename T, int N>
__device__ inline bool sum_piece(const int* __restrict__ keys, const int* __restrict__ order, const T* __restrict__ values,
                                 T* __restrict__ partial, int n, int rows, int columns, long long i, int c, T (&sums)[N],
                                 int& id) {
  if (i >= n) return false;
  id = keys[i];
  const bool joins = i > 0 && keys[i - 1] == id;
  if (id >= rows || (joins && i % CHUNK != 0)) return false;
  const long long mine = i + threadIdx.x % 32, end = i - i % CHUNK + CHUNK;
  const bool belongs = mine < n && mine < end && keys[mine] == id;
  const int count = __popc(__ballot_sync(ALL, belongs)), place = belongs ? order[mine] : 0;
#pragma unroll 4
  for (int k = 0; k < count; ++k) {
    const long long row = __shfl_sync(ALL, place, k);
    if (c < columns) add_pack(sums, values + row * columns + c);
  }
  const bool ends = i + count == n || keys[i + count] != id;
  if (c >= columns || (ends && !joins)) return c < columns;
  Pack<T, N> pack;
  for (int e = 0; e < N; ++e) pack.v[e] = sums[e];
  store_pack(partial + (2 * (i / CHUNK) + (joins ? 0 : 1)) * columns + c, pack);
  return false;
}

// The sum of the run that begins in this chunk and goes on into the next, by the sums of its pieces in order; false where no
// run does.
template <typename T, int N>
__device__ inline bool sum_pieces(const int* __restrict__ keys, const T* __restrict__ partial, int n, int rows, int columns,
                                  long long chunk, int c, T (&sums)[N], int& id) {
  const long long begin = chunk * CHUNK, end = begin + CHUNK;
  if (end >= n) return false;
  id = keys[end - 1];
  if (id >= rows || keys[end] != id || (begin > 0 && keys[begin - 1] == id)) return false;
  if (c < columns) add_pack(sums, partial + (2 * chunk + 1) * columns + c);
  int count = 32;
  for (long long next = chunk + 1; count == 32; next += 32) {
    const long long first = (next + threadIdx.x % 32) * CHUNK;
    count = __popc(__ballot_sync(ALL, first < n && keys[first] == id));
#pragma unroll 2
    for (int k = 0; k < count; ++k)
      if (c < columns) add_pack(sums, partial + 2 * (next + k) * columns + c);
  }
  return c < columns;
}

// The columns of a lane: of tile `warp % tiles`, 32 N columns wide.
template <int N>
__device__ inline int column_of(long long warp, int tiles) {
  return ((int)(warp % tiles) * 32 + threadIdx.x % 32) * N;
}

template <typename T, int N>
__device__ inline void update_row(const Step<T>& step, const T (&sums)[N], T* __restrict__ p, T* __restrict__ m,
                                  T* __restrict__ v, long long i) {
  Pack<T, N> ps = load_pack<T, N>(p + i), ms = load_pack<T, N>(m + i), vs = load_pack<T, N>(v + i);
  for (int e = 0; e < N; ++e) update(step, ps.v[e], sums[e], ms.v[e], vs.v[e]);
  store_pack(p + i, ps);
  store_pack(m + i, ms);
  store_pack(v + i, vs);
}

// The simple version: the block at the first place of an id adds all its rows and updates that row of the table.
template <typename T>
__global__ void __launch_bounds__(THREADS)
sparse_adam_simple(const int* __restrict__ keys, const int* __restrict__ order, const T* __restrict__ values,
                   T* __restrict__ p, T* __restrict__ m, T* __restrict__ v, int n, int rows, int columns,
                   const double* __restrict__ options, const T* __restrict__ norm, T max_norm,
                   const float* __restrict__ scale, const bool* __restrict__ skip, long long* steps, unsigned* arrived,
                   int advance) {
  if (skip && *skip) return;
  __shared__ Step<T> step;
  if (threadIdx.x == 0) step = take_step(options, 0, true, norm, max_norm, scale, steps, arrived, advance);
  __syncthreads();
  const int first = blockIdx.x, id = keys[first];
  if (id >= rows || (first > 0 && keys[first - 1] == id)) return;
  for (int c = threadIdx.x; c < columns; c += THREADS) {
    T sum = 0;
    for (int i = first; i < n && keys[i] == id; ++i) sum += values[(long long)order[i] * columns + c];
    const long long at = (long long)id * columns + c;
    update(step, p[at], sum, m[at], v[at]);
  }
}

// A warp a place and 32 N columns. Rows whose run is one piece are updated; the others wait for sparse_adam_finish. Arguments
// as adam's. Bytes: `values` once, and p, m and v of the rows that occur, read and written.
template <typename T, int N>
__global__ void __launch_bounds__(THREADS)
sparse_adam(const int* __restrict__ keys, const int* __restrict__ order, const T* __restrict__ values, T* __restrict__ p,
            T* __restrict__ m, T* __restrict__ v, T* __restrict__ partial, int n, int rows, int columns,
            const double* __restrict__ options, const T* __restrict__ norm, T max_norm, const float* __restrict__ scale,
            const bool* __restrict__ skip, long long* steps, unsigned* arrived, int advance) {
  if (skip && *skip) return;
  __shared__ Step<T> step;
  if (threadIdx.x == 0) step = take_step(options, 0, true, norm, max_norm, scale, steps, arrived, advance);
  const int tiles = (columns + 32 * N - 1) / (32 * N);
  const long long warp = grid_thread() / 32;
  const int c = column_of<N>(warp, tiles);
  T sums[N] = {};
  int id = 0;
  const bool whole = sum_piece<T, N>(keys, order, values, partial, n, rows, columns, warp / tiles, c, sums, id);
  __syncthreads();
  if (whole) update_row(step, sums, p, m, v, (long long)id * columns + c);
}

// A warp a chunk and 32 N columns, after sparse_adam: the rows whose runs go over the end of a chunk.
template <typename T, int N>
__global__ void __launch_bounds__(THREADS)
sparse_adam_finish(const int* __restrict__ keys, T* __restrict__ p, T* __restrict__ m, T* __restrict__ v,
                   const T* __restrict__ partial, int n, int rows, int columns, const double* __restrict__ options,
                   const T* __restrict__ norm, T max_norm, const float* __restrict__ scale, const bool* __restrict__ skip,
                   long long* steps, unsigned* arrived, int advance) {
  if (skip && *skip) return;
  __shared__ Step<T> step;
  if (threadIdx.x == 0) step = take_step(options, 0, true, norm, max_norm, scale, steps, arrived, advance);
  const int tiles = (columns + 32 * N - 1) / (32 * N);
  const long long warp = grid_thread() / 32;
  const int c = column_of<N>(warp, tiles);
  T sums[N] = {};
  int id = 0;
  const bool whole = sum_pieces<T, N>(keys, partial, n, rows, columns, warp / tiles, c, sums, id);
  __syncthreads();
  if (whole) update_row(step, sums, p, m, v, (long long)id * columns + c);
}

// squares[block] = sum of the squares of the rows of the gradient whose run is one piece; a warp a place and 32 N columns.
template <typename T, int N>
__global__ void __launch_bounds__(THREADS)
sparse_norm(const int* __restrict__ keys, const int* __restrict__ order, const T* __restrict__ values,
            T* __restrict__ partial, T* __restrict__ squares, int n, int rows, int columns) {
  const int tiles = (columns + 32 * N - 1) / (32 * N);
  const long long warp = grid_thread() / 32;
  T sums[N] = {}, sum = 0;
  int id = 0;
  if (sum_piece<T, N>(keys, order, values, partial, n, rows, columns, warp / tiles, column_of<N>(warp, tiles), sums, id))
    for (int e = 0; e < N; ++e) sum += sums[e] * sums[e];
  sum = team_reduce<THREADS>(sum, Sum());
  if (threadIdx.x == 0) squares[blockIdx.x] = sum;
}

// After sparse_norm, whose grid had so many `blocks`: norm[0] = sum of the squares of all rows and, unless `first`, what it
// was before; norm[1] = its root over *scale. The arguments are those of gradient_norm.
template <typename T, int N>
__global__ void __launch_bounds__(THREADS)
sparse_norm_finish(const int* __restrict__ keys, const T* __restrict__ partial, const T* __restrict__ squares, int blocks,
                   int n, int rows, int columns, volatile T* partials, T* norm, unsigned* arrived,
                   const float* __restrict__ scale, int first) {
  const int tiles = (columns + 32 * N - 1) / (32 * N);
  const long long warp = grid_thread() / 32;
  T sums[N] = {}, sum = 0;
  int id = 0;
  if (sum_pieces<T, N>(keys, partial, n, rows, columns, warp / tiles, column_of<N>(warp, tiles), sums, id))
    for (int e = 0; e < N; ++e) sum += sums[e] * sums[e];
  for (long long k = grid_thread(); k < blocks; k += grid_threads()) sum += squares[k];
  if (!sum_over_grid<THREADS>(sum, partials, arrived)) return;
  if (!first) sum += norm[0];
  norm[0] = sum;
  norm[1] = sqrt(sum) / (scale ? T(*scale) : T(1));
}
