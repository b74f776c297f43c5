// What the kernels of recurrent_sequence.cu share: where a block walks, and vectors times the recurrent weights.
#pragma once
#include "recurrent.cuh"

constexpr int THREADS = 384;  // at most, and columns of the state at most: 168 registers each

// Rows of the batch, and the order of the times, of a block.
template <int ROWS> struct Walk {
  int first, rows, direction, directions, batch, length, size;
  bool reverse;
  __device__ Walk(int batch, int length, int size, int reverse)
      : first(blockIdx.x * ROWS), rows(min(ROWS, batch - (int)blockIdx.x * ROWS)), direction(blockIdx.y),
        directions(gridDim.y), batch(batch), length(length), size(size), reverse(blockIdx.y == 1 || reverse) {}
  __device__ int time(int step) const { return reverse ? length - 1 - step : step; }
  __device__ long long token(int r, int t) const { return (long long)(first + r) * length + t; }
  __device__ long long place(int r, int t) const { return token(r, t) * directions + direction; }
  // Of this thread's number of the state in (directions, batch, size), and in (batch, size).
  __device__ long long state(int r) const { return (long long)direction * batch * size + alone(r); }
  __device__ long long alone(int r) const { return (long long)(first + r) * size + threadIdx.x; }
  __device__ bool owner() const { return threadIdx.x < size; }
};

// What a step forward reads, early enough to be on its way while the product is computed: W_ih x of this thread's column of each
// gate, and which rows have a real token.
template <int GATES, typename T, int ROWS>
__device__ inline void read_step(const Walk<ROWS>& walk, const T* __restrict__ gates, const bool* __restrict__ mask, int t,
                                 T (&x)[ROWS][GATES], bool (&real)[ROWS]) {
#pragma unroll
  for (int r = 0; r < ROWS; ++r)
    if (walk.owner() && r < walk.rows) {
      const T* gate = gates + walk.place(r, t) * GATES * walk.size + threadIdx.x;
#pragma unroll
      for (int j = 0; j < GATES; ++j) x[r][j] = gate[j * walk.size];
      real[r] = !mask || mask[walk.token(r, t)];
    }
}

// ROWS vectors (inner,) times a matrix (inner, columns). Slices of the block's threads take TOGETHER rows of the matrix in
// turn, a thread a pack of columns, and leave a sum a slice; who uses a result adds these in order. Where a row of the matrix
// is read from changes nothing in the order of adding.
template <typename T, typename Acc, int ROWS> struct Product {
  static constexpr int SIZE = Pack<T>::SIZE;
  int inner, columns, held, slices;
  Acc *vectors, *sums;
  T* matrix;
  __device__ Product(unsigned char* memory, int inner, int columns, int held, int slices)
      : inner(inner), columns(columns), held(held), slices(slices), vectors(reinterpret_cast<Acc*>(memory)),
        sums(vectors + ROWS * inner), matrix(reinterpret_cast<T*>(sums + slices * ROWS * columns)) {
    for (int i = threadIdx.x; i < ROWS * inner; i += blockDim.x) vectors[i] = 0;
  }

  // `rest` is the matrix in global memory, of which the rows from `held` on are read.
  __device__ void multiply(const T* __restrict__ rest) const {
    const int packs = columns / SIZE;
    for (int task = threadIdx.x; task < packs * slices; task += blockDim.x) {
      const int slice = task / packs, c = (task - slice * packs) * SIZE;
      Acc sum[ROWS][SIZE] = {};
      int k = slice * TOGETHER;
      for (; k < held; k += slices * TOGETHER) add_rows(matrix + c, columns, vectors, inner, k, sum);
#pragma unroll 2
      for (; k < inner; k += slices * TOGETHER) add_rows(rest + c, columns, vectors, inner, k, sum);
#pragma unroll
      for (int r = 0; r < ROWS; ++r) {
        Pack<Acc, SIZE> pack;
#pragma unroll
        for (int e = 0; e < SIZE; ++e) pack.v[e] = sum[r][e];
        store_pack(sums + (slice * ROWS + r) * columns + c, pack);
      }
    }
  }

  __device__ Acc result(int row, int column) const {
    const Acc* from = sums + row * columns + column;
    Acc sum = from[0];
    for (int slice = 1; slice < slices; ++slice) sum += from[slice * ROWS * columns];
    return sum;
  }

  // The first rows of a matrix that lies in global memory as it is held.
  __device__ void hold(const T* __restrict__ from) {
#pragma unroll 4
    for (int i = threadIdx.x; i < held * columns / SIZE; i += blockDim.x)
      store_pack(matrix + i * SIZE, load_pack(from + i * SIZE));
  }
};

// The matrix of forward: rows are the state before, columns the gates, each `padded` wide.
template <int GATES, typename T, typename Acc, int ROWS>
__device__ void hold_forward(Product<T, Acc, ROWS>& product, const T* __restrict__ weight, int size, int padded) {
  if (size == padded) {
    product.hold(weight);
    return;
  }
  for (int k = threadIdx.x / 32; k < product.held; k += blockDim.x / 32)
    for (int c = threadIdx.x % 32; c < product.columns; c += 32) {
      const int gate = c / padded, j = c - gate * padded;
      const bool inside = k < size && j < size;
      product.matrix[k * product.columns + c] = inside ? weight[(k * GATES + gate) * size + j] : from_acc<T>(Acc(0));
    }
}

// The matrix of backward: rows are the gates, columns the state before. by_gate is it in global memory, or null where all of it
// is held: then it is made of `weight`, its transpose.
template <int GATES, typename T, typename Acc, int ROWS>
__device__ void hold_backward(Product<T, Acc, ROWS>& product, const T* __restrict__ weight,
                              const T* __restrict__ by_gate, int size, int padded) {
  constexpr int SIZE = Pack<T>::SIZE;
  if (by_gate) {
    product.hold(by_gate);
  } else if (size == padded) {
    for (int c = threadIdx.x / 32 * SIZE; c < product.held; c += blockDim.x / 32 * SIZE)
#pragma unroll 2
      for (int k = threadIdx.x % 32; k < size; k += 32) {
        const Pack<T> pack = load_pack(weight + k * GATES * size + c);
#pragma unroll
        for (int e = 0; e < SIZE; ++e) product.matrix[(c + e) * size + k] = pack.v[e];
      }
  } else {
    for (int c = threadIdx.x / 32; c < product.held; c += blockDim.x / 32) {
      const int gate = c / padded, j = c - gate * padded;
      for (int k = threadIdx.x % 32; k < padded; k += 32) {
        const bool inside = k < size && j < size;
        product.matrix[c * padded + k] = inside ? weight[(k * GATES + gate) * size + j] : from_acc<T>(Acc(0));
      }
    }
  }
}
