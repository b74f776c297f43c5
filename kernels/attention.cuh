// What the attention kernels share: which weights count, and products of tiles.
#pragma once
#include "philox.cuh"

constexpr int SIDE = 16;      // the block is SIDE x SIDE threads, flattened; a thread's rows and columns lie SIDE apart
constexpr int THREADS = SIDE * SIDE;
constexpr int COLUMNS = 64;   // of the result
constexpr int WIDE = COLUMNS / SIDE;

__device__ inline int row_of_thread() { return threadIdx.x / SIDE; }
__device__ inline int column_of_thread() { return threadIdx.x % SIDE; }

// Which keys a query of one matrix sees. `real` is null where all are; a step of 0 repeats the mask along its axis.
struct Sight {
  const bool* real;
  long long query_step;
  int key_step, queries, keys, causal;
  __device__ bool operator()(int t, int s) const {
    return t < queries && s < keys && !(causal && s > t) && (!real || real[t * query_step + (long long)s * key_step]);
  }
};

// For each query of a tile, the bits of the Philox blocks that its weights of the tile's keys lie in, and the place of
// the first key's bit in them.
template <int TILE>
struct KeptBits {
  unsigned bits[TILE][TILE / 16 + 1];
  int place[TILE];
  // Every thread of the block must call it, and a __syncthreads must lie between a last look at the bits and the next.
  __device__ void draw(const Dropout& drop, int query0, int queries, int key0, int keys) {
    const int words = TILE / 16 + 1;
    for (int i = threadIdx.x; i < TILE * words; i += THREADS) {
      const int row = i / words, word = i % words;
      if (query0 + row >= queries) continue;
      const long long number = drop.first + (long long)(query0 + row) * keys + key0, block = number / 16 + word;
      bits[row][word] = drop.kept(block);
      if (word == 0) place[row] = (int)(number % 16);
    }
    __syncthreads();
  }
  // Whether the weight of the tile's query `row`, which there must be, and of its key `column` is kept.
  __device__ bool operator()(int row, int column) const {
    const int at = place[row] + column;
    return bits[row][at / 16] >> (at % 16) & 1;
  }
};

// result[i][j] = sum over d of a[row i, d] * b[row j, d]: a tile of a bᵀ for the rows of a (a_rows, size) from a0 and
// of b (b_rows, size) from b0; rows past the last count as 0.
template <typename T, typename Acc, int N>
__device__ inline void rows_by_rows(const T* __restrict__ a, int a0, int a_rows, const T* __restrict__ b, int b0,
                                    int b_rows, int size, Acc (&result)[N][N]) {
  __shared__ Acc left[N * SIDE][SIDE + 1], right[N * SIDE][SIDE + 1];
  const int row = row_of_thread(), column = column_of_thread();
#pragma unroll
  for (int i = 0; i < N; ++i)
#pragma unroll
    for (int j = 0; j < N; ++j) result[i][j] = 0;
  for (int d = column; d - column < size; d += SIDE) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int at = row + i * SIDE;
      left[at][column] = a0 + at < a_rows && d < size ? to_acc(a[(long long)(a0 + at) * size + d]) : Acc(0);
      right[at][column] = b0 + at < b_rows && d < size ? to_acc(b[(long long)(b0 + at) * size + d]) : Acc(0);
    }
    __syncthreads();
#pragma unroll 4
    for (int r = 0; r < SIDE; ++r)
#pragma unroll
      for (int i = 0; i < N; ++i)
#pragma unroll
        for (int j = 0; j < N; ++j) result[i][j] += left[row + i * SIDE][r] * right[column + j * SIDE][r];
    __syncthreads();
  }
}

// result[i][j] += sum over r of tile[row i][r] * b[b0 + r, column j] for b (b_rows, size); columns count from column0.
// It waits until every thread has written the tile, and until every thread has read it.
template <typename T, typename Acc, int N>
__device__ inline void add_tile_by_rows(const Acc (&tile)[N * SIDE][N * SIDE + 1], const T* __restrict__ b, int b0,
                                        int b_rows, int column0, int size, Acc (&result)[N][WIDE]) {
  __shared__ Acc right[SIDE][COLUMNS];
  const int row = row_of_thread(), column = column_of_thread();
  for (int r0 = 0; r0 < N * SIDE && b0 + r0 < b_rows; r0 += SIDE) {
#pragma unroll
    for (int j = 0; j < WIDE; ++j) {
      const int at = column0 + column + j * SIDE, r = b0 + r0 + row;
      right[row][column + j * SIDE] = r < b_rows && at < size ? to_acc(b[(long long)r * size + at]) : Acc(0);
    }
    __syncthreads();
#pragma unroll 4
    for (int r = 0; r < SIDE; ++r)
#pragma unroll
      for (int i = 0; i < N; ++i)
#pragma unroll
        for (int j = 0; j < WIDE; ++j) result[i][j] += tile[row + i * SIDE][r0 + r] * right[r][column + j * SIDE];
    __syncthreads();
  }
}

// The part of the mask that matrix `matrix` has; null where there is no mask.
__device__ inline const bool* mask_of(const bool* mask, long long matrix, int heads, long long batch_step,
                                      long long head_step) {
  const long long batch = quotient(matrix, heads);
  return mask ? mask + batch * batch_step + (matrix - batch * heads) * head_step : nullptr;
}

// Rows row0.. and columns column0.. of result (rows, size), times a factor a row.
template <typename T, typename Acc, int N>
__device__ inline void store(T* __restrict__ result, int row0, int rows, int column0, int size,
                             const Acc (&values)[N][WIDE], const Acc (&factor)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i)
#pragma unroll
    for (int j = 0; j < WIDE; ++j) {
      const int row = row0 + row_of_thread() + i * SIDE, column = column0 + column_of_thread() + j * SIDE;
      if (row < rows && column < size) result[(long long)row * size + column] = from_acc<T>(values[i][j] * factor[i]);
    }
}

// What block `job` computes: part `tile` of the rows and part `chunk` (fastest) of the columns of one matrix.
struct Job {
  long long matrix;
  int row0, column0;
  template <int TILE> __device__ static Job of(long long job, int rows, int columns) {
    const int chunks = (columns + COLUMNS - 1) / COLUMNS, tiles = (rows + TILE - 1) / TILE;
    const long long above = quotient(job, chunks), matrix = quotient(above, tiles);
    return {matrix, (int)(above - matrix * tiles) * TILE, (int)(job - above * chunks) * COLUMNS};
  }
  template <int TILE> __device__ static long long count(long long matrices, int rows, int columns) {
    return matrices * ((rows + TILE - 1) / TILE) * ((columns + COLUMNS - 1) / COLUMNS);
  }
};
