// Dropout with the random bits of numpy.random.Philox, so that every device draws the same mask.
// The number of the training step is read from device memory, so that a captured step can be replayed.
#include "philox.cuh"

// Elements begin..begin + 15 of x (n,), those there are, times `scale` where their number in `bits` is below `keep`, else 0: 16
// bytes at a time where all are there and x and y begin with them at a multiple of it.
template <typename T>
__device__ inline void drop(const T* __restrict__ x, T* __restrict__ y, long long begin, long long n, const Philox& bits,
                            int keep, double scale) {
  using Acc = decltype(to_acc(*x));
  constexpr int N = Pack<T>::SIZE;
  const bool all = begin >= 0 && begin + 16 <= n;
  if (all && ((unsigned long long)(x + begin) | (unsigned long long)(y + begin)) % 16 == 0) {
#pragma unroll
    for (int i = 0; i < 16; i += N) {
      Pack<T> pack = load_pack(x + begin + i);
#pragma unroll
      for (int e = 0; e < N; ++e)
        pack.v[e] = from_acc<T>(number_of(bits, i + e) < keep ? to_acc(pack.v[e]) * (Acc)scale : Acc(0));
      uint4 whole;  // else the compiler may make a store of each element
      memcpy(&whole, &pack, sizeof(whole));
      __stwb(reinterpret_cast<uint4*>(y + begin + i), whole);
    }
    return;
  }
  for (int e = 0; e < 16; ++e)
    if (begin + e >= 0 && begin + e < n)
      y[begin + e] = from_acc<T>(number_of(bits, e) < keep ? to_acc(x[begin + e]) * (Acc)scale : Acc(0));
}

// y[i] = x[i] * scale where the 16-bit number of element first + i is below `keep`, else 0.
// One thread a Philox block of 16 elements; blocks are counted from `first`, which need not be a multiple of 16.
template <typename T>
__global__ void dropout(const T* __restrict__ x, T* __restrict__ y, long long n, long long first, int keep, double scale,
                        unsigned long long seed, unsigned long long stream, unsigned long long call,
                        const unsigned long long* __restrict__ step) {
  const long long block = first / 16 + (long long)blockIdx.x * blockDim.x + threadIdx.x;
  const long long begin = block * 16 - first;
  if (begin >= n) return;
  // NumPy adds one to the counter before it computes a block
  drop(x, y, begin, n, philox4x64((unsigned long long)block + 1, call, *step, 0, seed, stream), keep, scale);
}

// The same for packed rows: row r of x (n, width) is row rows[r] of the padded batch, whose elements are numbered from
// `first`. One thread a Philox block that touches a row; `chunks` of them are enough for each row.
template <typename T>
__global__ void dropout_rows(const T* __restrict__ x, T* __restrict__ y, const long long* __restrict__ rows, long long n,
                             int width, int chunks, long long first, int keep, double scale, unsigned long long seed,
                             unsigned long long stream, unsigned long long call,
                             const unsigned long long* __restrict__ step) {
  const long long thread = grid_thread(), row = quotient(thread, chunks);
  if (row >= n) return;
  const long long start = first + rows[row] * width;
  const long long block = start / 16 + (thread - row * chunks);
  const long long begin = block * 16 - start;
  if (begin >= width) return;
  const Philox bits = philox4x64((unsigned long long)block + 1, call, *step, 0, seed, stream);
  drop(x + row * width, y + row * width, begin, width, bits, keep, scale);
}
