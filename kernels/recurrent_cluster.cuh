// What the kernels of recurrent_cluster.cu share: where a thread of a cluster stands, and vectors times a block's columns of the
// recurrent weights.
#pragma once
#include "recurrent.cuh"

constexpr int BLOCKS = 8;     // of a cluster, as many as every GPU with clusters takes
constexpr int ROWS = 4;       // of the batch, that a cluster owns
constexpr int THREADS = 256;  // one for each row and each column of the state that a block owns

#if __CUDA_ARCH__ < 900  // no clusters: a launch of the kernels is a trap there
#undef __cluster_dims__
#define __cluster_dims__(...)
#else

// One row of the batch and one column of the state, in one direction, and the order of the times.
struct Member {
  int rank, width, row, column, direction, directions, batch, length, size;
  bool owner, reverse;
  __device__ Member(int batch, int length, int size, int width, int reverse)
      : rank(blockIdx.x % BLOCKS), width(width), row(blockIdx.x / BLOCKS * ROWS + threadIdx.x / width),
        column(rank * width + threadIdx.x % width), direction(blockIdx.y), directions(gridDim.y), batch(batch),
        length(length), size(size), reverse(blockIdx.y == 1 || reverse) {
    owner = threadIdx.x < ROWS * width && row < batch && column < size;
  }
  __device__ int time(int step) const { return reverse ? length - 1 - step : step; }
  __device__ long long token(int t) const { return (long long)row * length + t; }
  __device__ long long place(int t) const { return token(t) * directions + direction; }
  // Of this thread's number of the state in (directions, batch, size), and in (batch, size).
  __device__ long long state() const { return (long long)direction * batch * size + alone(); }
  __device__ long long alone() const { return (long long)row * size + column; }
};

// ROWS vectors (inner,), which every block of the cluster has, times the columns of a matrix (inner, SEGMENTS * size) that this
// block owns: `width` of each segment. Slices of the block's threads take TOGETHER rows of the matrix in turn, a thread a pack of
// columns, and leave a sum a slice; who uses a result adds these in order. There are two sets of vectors: while one is multiplied
// with, the blocks write the next one into each other's memory. Where a row of the matrix is read from changes nothing in the
// order of adding.
template <typename T, typename Acc, int SEGMENTS> struct Share {
  static constexpr int SIZE = Pack<T>::SIZE;
  int inner, columns, held, slices;
  Acc *vectors, *sums;
  T* matrix;
  const Member& me;
  __device__ Share(unsigned char* memory, const Member& me, int inner, int held, int slices)
      : inner(inner), columns(SEGMENTS * me.width), held(held), slices(slices), vectors(reinterpret_cast<Acc*>(memory)),
        sums(vectors + 2 * ROWS * inner), matrix(reinterpret_cast<T*>(sums + slices * ROWS * columns)), me(me) {
    for (int i = threadIdx.x; i < 2 * ROWS * inner; i += blockDim.x) vectors[i] = 0;
  }

  // With the vectors of set `number`. `rest` is the matrix in global memory, of which the rows from `held` on are read.
  __device__ void multiply(int number, const T* __restrict__ rest) const {
    const int packs = columns / SIZE;
    const Acc* vector = vectors + number * ROWS * inner;
    for (int task = threadIdx.x; task < packs * slices; task += blockDim.x) {
      const int slice = task / packs, c = (task - slice * packs) * SIZE;
      const int segment = c / me.width, column = me.rank * me.width + c - segment * me.width;
      Acc sum[ROWS][SIZE] = {};
      int k = slice * TOGETHER;
      for (; k < held; k += slices * TOGETHER) add_rows(matrix + c, columns, vector, inner, k, sum);
      if (column < me.size)
#pragma unroll 2
        for (; k < inner; k += slices * TOGETHER)
          add_rows(rest + segment * me.size + column, SEGMENTS * me.size, vector, inner, k, sum);
#pragma unroll
      for (int r = 0; r < ROWS; ++r) {
        Pack<Acc, SIZE> pack;
#pragma unroll
        for (int e = 0; e < SIZE; ++e) pack.v[e] = sum[r][e];
        store_pack(sums + (slice * ROWS + r) * columns + c, pack);
      }
    }
  }

  // Of this thread's row and column.
  __device__ Acc result(int segment) const {
    const Acc* from = sums + threadIdx.x / me.width * columns + segment * me.width + threadIdx.x % me.width;
    Acc sum = from[0];
    for (int slice = 1; slice < slices; ++slice) sum += from[slice * ROWS * columns];
    return sum;
  }

  // A number of this thread's row for set `number` of every block. A cluster barrier has to follow.
  __device__ void give(int number, int place, Acc value) const {
    Acc* mine = vectors + (number * ROWS + threadIdx.x / me.width) * inner + place;
#pragma unroll
    for (int rank = 0; rank < BLOCKS; ++rank) *static_cast<Acc*>(__cluster_map_shared_rank(mine, rank)) = value;
  }

  // The first rows of the matrix; columns past the last one of the state become zeros.
  __device__ void hold(const T* __restrict__ from) {
    const int packs = columns / SIZE;
#pragma unroll 4
    for (int i = threadIdx.x; i < held * packs; i += blockDim.x) {
      const int k = i / packs, c = (i - k * packs) * SIZE;
      const int segment = c / me.width, column = me.rank * me.width + c - segment * me.width;
      Pack<T> pack;
#pragma unroll
      for (int e = 0; e < SIZE; ++e) pack.v[e] = from_acc<T>(Acc(0));
      if (column < me.size) pack = load_pack(from + ((long long)k * SEGMENTS + segment) * me.size + column);
      store_pack(matrix + k * columns + c, pack);
    }
  }
};

__device__ inline void cluster_sync() {
  __cluster_barrier_arrive();
  __cluster_barrier_wait();
}
#endif
