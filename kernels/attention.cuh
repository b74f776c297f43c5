// What the attention kernels share: which weights count, and products of tiles.
#pragma once
#include "philox.cuh"

constexpr int SIDE = 16;      // the block is SIDE x SIDE threads, flattened; a thread's rows and columns lie SIDE apart
constexpr int THREADS = SIDE * SIDE;
constexpr int COLUMNS = 64;   // of the result
constexpr int WIDE = COLUMNS / SIDE;
constexpr int SHORT = 128;    // queries, and keys, of a matrix whose gradients one block computes

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

// Rows of a matrix, `step` elements apart.
template <typename T> struct Rows {
  T* at;
  int step;
  __device__ T* row(int t) const { return at + (long long)t * step; }
};

// The rows, of `size` elements, of matrix m among those of which so many lie beside each other in every row: 1, or all heads.
template <typename T> __device__ inline Rows<T> rows_of(T* x, long long m, int rows, int size, int beside) {
  const long long group = quotient(m, beside);
  return {x + (group * rows * beside + m - group * beside) * size, size * beside};
}

// result[i][j] = sum over d of a[row i, d] * b[row j, d]: a tile of a bᵀ for the rows of a (a_rows, size) from a0 and
// of b (b_rows, size) from b0; rows past the last count as 0.
template <typename T, typename Acc, int N>
__device__ inline void rows_by_rows(const Rows<const T>& a, int a0, int a_rows, const Rows<const T>& b, int b0,
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
      left[at][column] = a0 + at < a_rows && d < size ? to_acc(a.row(a0 + at)[d]) : Acc(0);
      right[at][column] = b0 + at < b_rows && d < size ? to_acc(b.row(b0 + at)[d]) : Acc(0);
    }
    __syncthreads();
#pragma unroll 2
    for (int r = 0; r < SIDE; ++r)
#pragma unroll
      for (int i = 0; i < N; ++i)
#pragma unroll
        for (int j = 0; j < N; ++j) result[i][j] += left[row + i * SIDE][r] * right[column + j * SIDE][r];
    __syncthreads();
  }
}

// Rows of a matrix for add_tile_by_rows: the same memory with and without TURNED.
template <typename Acc> __device__ inline auto rows_on_chip() -> Acc (&)[SIDE][COLUMNS] {
  __shared__ Acc rows[SIDE][COLUMNS];
  return rows;
}

// result[i][j] += sum over r of tile[row i][r] * b[b0 + r, column j] for b (b_rows, size); columns count from column0.
// With TURNED, of tile[r][row i]. It waits until every thread has written the tile, and until every thread has read it.
template <bool TURNED = false, typename T, typename Acc, int N>
__device__ inline void add_tile_by_rows(const Acc (&tile)[N * SIDE][N * SIDE + 1], const Rows<const T>& b, int b0,
                                        int b_rows, int column0, int size, Acc (&result)[N][WIDE]) {
  Acc(&right)[SIDE][COLUMNS] = rows_on_chip<Acc>();
  const int row = row_of_thread(), column = column_of_thread();
  for (int r0 = 0; r0 < N * SIDE && b0 + r0 < b_rows; r0 += SIDE) {
#pragma unroll
    for (int j = 0; j < WIDE; ++j) {
      const int at = column0 + column + j * SIDE, r = b0 + r0 + row;
      right[row][column + j * SIDE] = r < b_rows && at < size ? to_acc(b.row(r)[at]) : Acc(0);
    }
    __syncthreads();
#pragma unroll 2
    for (int r = 0; r < SIDE; ++r)
#pragma unroll
      for (int i = 0; i < N; ++i)
#pragma unroll
        for (int j = 0; j < WIDE; ++j) {
          const int at = row + i * SIDE, of = r0 + r;
          result[i][j] += (TURNED ? tile[of][at] : tile[at][of]) * right[r][column + j * SIDE];
        }
    __syncthreads();
  }
}

// What backward knows of the weights of one matrix: a[t,s] = exp(scale * sum over d of q[t,d] * k[s,d] - lse[t]), and
// delta[t] = sum over c of dy[t,c] * y[t,c].
template <typename T, typename Acc> struct Weights {
  Rows<const T> q, k, v, dy;
  const Acc *lse, *delta;
  Sight sees;
  Acc scale, keep_scale;
  int size, value_size;

  // Of a tile of keys (rows) and queries (columns): u into `tile`, de into `gradient`.
  template <int N>
  __device__ void by_key(const Dropout& drop, KeptBits<N * SIDE>& kept, int key0, int query0,
                         Acc (&tile)[N * SIDE][N * SIDE + 1], Acc (&gradient)[N][N]) const {
    const int row = row_of_thread(), column = column_of_thread();
    if (!drop.off()) kept.draw(drop, query0, sees.queries, key0, sees.keys);
    Acc e[N][N];
    rows_by_rows(k, key0, sees.keys, q, query0, sees.queries, size, e);
    rows_by_rows(v, key0, sees.keys, dy, query0, sees.queries, value_size, gradient);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const int of_query = column + j * SIDE, t = query0 + of_query;
      const Acc less = t < sees.queries ? lse[t] : Acc(0), along = t < sees.queries ? delta[t] : Acc(0);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const int at = row + i * SIDE;
        const bool seen = sees(t, key0 + at);
        const bool used = seen && (drop.off() || kept(of_query, at));
        const Acc a = seen ? exp(e[i][j] * scale - less) : Acc(0);
        tile[at][of_query] = used ? keep_scale * a : Acc(0);
        gradient[i][j] = a * ((used ? keep_scale * gradient[i][j] : Acc(0)) - along);
      }
    }
  }
};

template <typename Acc, int N>
__device__ inline void fill_tile(Acc (&tile)[N * SIDE][N * SIDE + 1], const Acc (&values)[N][N]) {
#pragma unroll
  for (int i = 0; i < N; ++i)
#pragma unroll
    for (int j = 0; j < N; ++j) tile[row_of_thread() + i * SIDE][column_of_thread() + j * SIDE] = values[i][j];
}

// Sums of rows of `size` columns in shared memory, (tiles, columns of a thread, N, THREADS): a thread has numbers of its own.
template <typename Acc, int N> struct OwnSums {
  Acc* memory;
  int size;
  __device__ Acc* at(int tile, int i, int j) const {
    const int wide = (size + SIDE - 1) / SIDE;
    return memory + ((tile * wide + j) * N + i) * THREADS + threadIdx.x;
  }
  __device__ void add(int tile, const Acc (&values)[N][WIDE], bool first) const {
#pragma unroll
    for (int j = 0; j < WIDE; ++j)
#pragma unroll
      for (int i = 0; i < N; ++i)
        if (j * SIDE < size) *at(tile, i, j) = first ? values[i][j] : *at(tile, i, j) + values[i][j];
  }
  __device__ void take(int tile, Acc (&values)[N][WIDE]) const {
#pragma unroll
    for (int j = 0; j < WIDE; ++j)
#pragma unroll
      for (int i = 0; i < N; ++i) values[i][j] = j * SIDE < size ? *at(tile, i, j) : Acc(0);
  }
};

// result[t] = sum over c of a[t,c] * b[t,c], in the order that a team of SIDE threads gives. It waits before and after.
template <typename T, typename Acc>
__device__ inline void row_products(const Rows<const T>& a, const Rows<const T>& b, int rows, int size, Acc* result) {
  __syncthreads();
  for (int row0 = 0; row0 < rows; row0 += SIDE) {
    const int t = row0 + row_of_thread();
    Acc sum = 0;
    for (int c = t < rows ? column_of_thread() : size; c < size; c += SIDE)
      sum += to_acc(a.row(t)[c]) * to_acc(b.row(t)[c]);
    sum = team_reduce<SIDE>(sum, Sum());
    if (column_of_thread() == 0 && t < rows) result[t] = sum;
  }
  __syncthreads();
}

// The part of the mask that matrix `matrix` has; null where there is no mask.
__device__ inline const bool* mask_of(const bool* mask, long long matrix, int heads, long long batch_step,
                                      long long head_step) {
  const long long batch = quotient(matrix, heads);
  return mask ? mask + batch * batch_step + (matrix - batch * heads) * head_step : nullptr;
}

// Rows row0.. and columns column0.. of result (rows, size), times a factor a row.
template <typename T, typename Acc, int N>
__device__ inline void store(const Rows<T>& result, int row0, int rows, int column0, int size,
                             const Acc (&values)[N][WIDE], const Acc (&factor)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i)
#pragma unroll
    for (int j = 0; j < WIDE; ++j) {
      const int row = row0 + row_of_thread() + i * SIDE, column = column0 + column_of_thread() + j * SIDE;
      if (row < rows && column < size) result.row(row)[column] = from_acc<T>(values[i][j] * factor[i]);
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
