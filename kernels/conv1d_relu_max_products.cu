// Bias-added convolutions that a matrix product has stored, to ReLU and their maximum over time: what conv1d_relu_max.cu does
// without storing them, for where tensor cores make the product so much faster.
//
//   c (batch * rows, filters): window t of text b in row b * rows + t, the bias in it; only the first `windows` of a text count
//   y, winner and mask: as there. Its filters are columns feature.. of y and winner (batch, features).
#include "conv1d_relu_max.cuh"
#include "largest_over_time.cuh"

// A block owns 32 N filters of a text, N a thread: 16 bytes, or one where rows are not whole packs. Its warps share the
// windows.
template <typename T, typename Acc, int N>
__global__ void __launch_bounds__(THREADS, LEAST)
conv1d_relu_max_largest(const T* __restrict__ c, const bool* __restrict__ mask, T* __restrict__ y, int* __restrict__ winner,
                        long long batch, int length, int rows, int windows, int kernel, int left, int filters, int features,
                        int feature) {
  const int tiles = tiles_of<N>(filters);
  for (long long item = blockIdx.x; item < batch * tiles; item += gridDim.x) {
    const long long b = quotient(item, tiles), own = b * features + feature;
    const auto counts = [=](int t) { return !mask || holds_token(mask + b * length, t, left, kernel, length); };
    const auto put = [=](int f, Acc top, int t) {
      y[own + f] = from_acc<T>(top < 0 ? Acc(0) : top);
      winner[own + f] = top > 0 ? t : -1;
    };
    largest_over_time<T, Acc, N>(c + b * rows * filters, windows, filters, (int)(item - b * tiles) * 32 * N, counts, put);
  }
}
