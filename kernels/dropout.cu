// Dropout with the random bits of numpy.random.Philox, so that every device draws the same mask.
#include "philox.cuh"

// y[i] = x[i] * scale where the 16-bit number of element first + i is below `keep`, else 0.
// One thread a Philox block of 16 elements; blocks are counted from `first`, which need not be a multiple of 16.
template <typename T>
__global__ void dropout(const T* __restrict__ x, T* __restrict__ y, long long n, long long first, int keep, double scale,
                        unsigned long long seed, unsigned long long stream, unsigned long long call,
                        unsigned long long step) {
  const long long block = first / 16 + (long long)blockIdx.x * blockDim.x + threadIdx.x;
  const long long begin = block * 16 - first;
  if (begin >= n) return;
  // NumPy adds one to the counter before it computes a block
  const Philox bits = philox4x64((unsigned long long)block + 1, call, step, 0, seed, stream);
  for (int e = 0; e < 16; e++) {
    const long long i = begin + e;
    if (i < 0 || i >= n) continue;
    const int number = (int)((bits.w[e / 4] >> (16 * (e % 4))) & 0xffff);
    using A = decltype(to_acc(x[i]));
    y[i] = number < keep ? from_acc<T>(to_acc(x[i]) * (A)scale) : from_acc<T>((A)0);
  }
}
