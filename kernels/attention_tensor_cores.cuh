// What the attention kernels on tensor cores share: matrices in shared memory, and the weights of a warp's queries.
#pragma once
#include "attention.cuh"
#include "tensor_core.cuh"

constexpr int ROWS = 16;      // queries that a warp owns, and keys of a step of the second product
constexpr int PAIRS = 4;      // lanes that share a row of a result: each has two neighbouring columns of eight
constexpr float LOG2_E = 1.4426950408889634f;

__device__ inline int lane() { return threadIdx.x % 32; }
__device__ inline int warp() { return threadIdx.x / 32; }

// Two neighbours of a half type in a register.
template <typename T> __device__ inline unsigned pair(float x, float y) {
  const Pack<T, 2> both = {{from_acc<T>(x), from_acc<T>(y)}};
  return *reinterpret_cast<const unsigned*>(&both);
}

// A matrix in shared memory: rows of whole 16 elements, `width` apart. Eight elements more than a row put the rows that are
// read together into different banks.
template <typename T> struct OnChip {
  T* at;
  int width;
  __device__ static int width_of(int size) { return (size + 15) / 16 * 16 + 8; }
  __device__ OnChip rows(int row) const { return {at + row * width, width}; }
  __device__ T* end(int rows) const { return at + rows * width; }

  // Operands of mma: the left one from rows of the left matrix or from rows of its transpose, and two right ones, for eight
  // columns of the result each, from rows of the transpose of the right matrix or from its own.
  __device__ void left(unsigned (&a)[4], int row, int k) const { load_matrices(a, place(row, k, false)); }
  __device__ void left_turned(unsigned (&a)[4], int k, int row) const { load_matrices_turned(a, place(k, row, true)); }
  __device__ void right(unsigned (&b)[2][2], int column, int k) const {
    unsigned r[4];
    load_matrices(r, place(column, k, true));
    b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
  }
  __device__ void right_turned(unsigned (&b)[2][2], int k, int column) const {
    unsigned r[4];
    load_matrices_turned(r, place(k, column, false));
    b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
  }
  // Of the four 8 x 8 matrices at a row and column, the row that this lane names: the second matrix is below the first, or,
  // with `beside`, to the right of it.
  __device__ const T* place(int row, int column, bool beside) const {
    const int along = lane() / 8 % 2 * 8, across = lane() / 16 * 8;
    return at + (row + lane() % 8 + (beside ? across : along)) * width + column + (beside ? along : across);
  }

  // Rows row0.. of x (rows, size) come here, `count` of them; zeros where x has none. The block's threads share the work.
  // With `packs` these are copies that copies_arrived waits for, else they are there after a barrier.
  __device__ void load(const Rows<const T>& x, int row0, int count, int rows, int size, bool packs) const {
    constexpr int SIZE = Pack<T>::SIZE;
    const int of_row = width / SIZE - 1;
    for (int i = threadIdx.x; i < count * of_row; i += blockDim.x) {
      const int row = i / of_row, column = (i - row * of_row) * SIZE;
      const bool inside = row0 + row < rows && column < size;
      const T* from = inside ? x.row(row0 + row) + column : x.at;
      T* to = at + row * width + column;
      if (packs) {
        copy_async(to, from, inside);
      } else {
        Pack<T> pack = {};
        for (int e = 0; e < SIZE; ++e)
          if (inside && column + e < size) pack.v[e] = from[e];
        store_pack(to, pack);
      }
    }
  }

  // The first 16 rows here go to rows row0.. of y (rows, size), `columns` of them from column0 on. A warp shares the work.
  __device__ void store(const Rows<T>& y, int row0, int rows, int column0, int columns, int size, bool packs) const {
    constexpr int SIZE = Pack<T>::SIZE;
    const int of_row = columns / SIZE;
    for (int i = lane(); i < ROWS * of_row; i += 32) {
      const int row = i / of_row, column = column0 + (i - row * of_row) * SIZE;
      if (row0 + row >= rows || column >= size) continue;
      const Pack<T> pack = load_pack(at + row * width + column);
      T* to = y.row(row0 + row) + column;
      if (packs) {
        store_pack(to, pack);
      } else {
        for (int e = 0; e < SIZE && column + e < size; ++e) to[e] = pack.v[e];
      }
    }
  }

  // The warp's result in registers, of N times eight columns from column0 on, into 16 rows here, times a factor a row.
  template <int N>
  __device__ void put(const float (&values)[N][4], int column0, float upper, float lower) const {
    T* const to = at + lane() / PAIRS * width + column0 + lane() % PAIRS * 2;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      if (column0 + 8 * n + 8 >= width) break;  // the last eight are no columns
      *reinterpret_cast<unsigned*>(to + 8 * n) = pair<T>(values[n][0] * upper, values[n][1] * upper);
      *reinterpret_cast<unsigned*>(to + 8 * width + 8 * n) = pair<T>(values[n][2] * lower, values[n][3] * lower);
    }
  }
};

// result (16 x 8 N) = 16 rows of a times the rows of b, over `size` columns of both.
template <typename T, int N>
__device__ inline void product_of_rows(const OnChip<T>& a, const OnChip<T>& b, int size, float (&result)[N][4]) {
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) result[n][i] = 0;
#pragma unroll 2
  for (int d = 0; d < size; d += 16) {
    unsigned left[4], right[2][2];
    a.left(left, 0, d);
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      b.right(right, 8 * n, d);
      mma<T>(result[n], left, right[0]);
      mma<T>(result[n + 1], left, right[1]);
    }
  }
}

// result (16 x 8 N) += 16 x 16 weights times 16 rows of b from row0 on, the columns column0.. of those that b has.
template <typename T, int N>
__device__ inline void add_product(const unsigned (&weights)[4], const OnChip<T>& b, int row0, int column0,
                                   float (&result)[N][4]) {
#pragma unroll
  for (int n = 0; n < N; n += 2) {
    if (column0 + 8 * n + 8 >= b.width) break;
    unsigned right[2][2];
    b.right_turned(right, row0, column0 + 8 * n);
    mma<T>(result[n], weights, right[0]);
    mma<T>(result[n + 1], weights, right[1]);
  }
}

// The two queries, of a warp's 16 from row0 on, whose weights this lane holds: which keys they see, and which weights of a
// tile of 8 N keys dropout keeps. `bits` is the warp's, (16, N / 2 + 1).
template <int N> struct Queries {
  static constexpr int WORDS = N / 2 + 1;
  Sight sees;
  unsigned* bits;
  int first, keys[2], place[2];

  __device__ Queries(const Sight& sees, int row0, unsigned* bits) : sees(sees), bits(bits), first(row0 + lane() / PAIRS) {
#pragma unroll
    for (int i = 0; i < 2; ++i)
      keys[i] = row(i) >= sees.queries ? 0 : sees.causal ? min(row(i) + 1, sees.keys) : sees.keys;
  }
  __device__ int row(int i) const { return first + 8 * i; }
  __device__ bool see(int i, int key) const {
    return key < keys[i] && (!sees.real || sees.real[row(i) * sees.query_step + (long long)key * sees.key_step]);
  }

  // Every lane of the warp must call it. Rows past the last are drawn, too: what is not seen is looked up all the same.
  __device__ void draw(const Dropout& drop, int row0, int key0, int of_row) {
    __syncwarp();
    for (int i = lane(); i < ROWS * WORDS; i += 32) {
      const int at = i / WORDS;
      bits[i] = drop.kept((drop.first + (long long)(row0 + at) * of_row + key0) / 16 + i - at * WORDS);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 2; ++i) place[i] = (int)((drop.first + (long long)row(i) * of_row + key0) % 16);
  }
  __device__ bool kept(int i, int column) const {
    const int at = place[i] + column;
    return bits[(lane() / PAIRS + 8 * i) * WORDS + at / 16] >> (at % 16) & 1;
  }
  // The key, of a tile, of number c of the lane's two in a block of eight keys.
  __device__ static int column(int n, int c) { return 8 * n + lane() % PAIRS * 2 + c; }
};

// Step `k` of 16 keys of the weights as the left operand of the next product.
template <typename T, int N> __device__ inline void as_left(const float (&weights)[N][4], int k, unsigned (&a)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float(&from)[4] = weights[2 * k + i / 2];
    a[i] = pair<T>(from[i % 2 * 2], from[i % 2 * 2 + 1]);
  }
}
