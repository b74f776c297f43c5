// Dropout with the random bits of numpy.random.Philox, so that every device draws the same mask.
// The number of the training step is read from device memory, so that a captured step can be replayed.
#include "philox.cuh"

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
  const Philox bits = philox4x64((unsigned long long)block + 1, call, *step, 0, seed, stream);
  for (int e = 0; e < 16; e++) {
    const long long i = begin + e;
    if (i < 0 || i >= n) continue;
    using A = decltype(to_acc(x[i]));
    y[i] = number_of(bits, e) < keep ? from_acc<T>(to_acc(x[i]) * (A)scale) : from_acc<T>((A)0);
  }
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
  for (int e = 0; e < 16; e++) {
    const long long i = begin + e;
    if (i < 0 || i >= width) continue;
    const T value = x[row * width + i];
    using A = decltype(to_acc(value));
    y[row * width + i] = number_of(bits, e) < keep ? from_acc<T>(to_acc(value) * (A)scale) : from_acc<T>((A)0);
  }
}
