// The patterns kernels are made of; test_patterns.py runs them at random sizes and launch shapes.
#include <cuda_fp16.h>

constexpr unsigned ALL = 0xffffffffu;

template <typename T> __device__ T warp_sum(T v) {
  for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(ALL, v, d);
  return v;
}

// Blocks of whole warps in the kernels that shuffle.
template <typename T> __global__ void sum_by_shuffles(const T* x, T* y, int n) {
  __shared__ T part[32];
  T v = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += x[i];
  v = warp_sum(v);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
  __syncthreads();
  if (threadIdx.x < 32) {
    v = warp_sum(threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : T(0));
    if (threadIdx.x == 0) atomicAdd(y, v);
  }
}

// One block of any size; a tree in dynamic shared memory.
extern "C" __global__ void max_by_tree(const float* x, float* y, int n) {
  extern __shared__ float best[];
  float v = -3e38f;
  for (int i = threadIdx.x; i < n; i += blockDim.x) v = fmaxf(v, x[i]);
  best[threadIdx.x] = v;
  for (int width = blockDim.x; width > 1;) {
    const int half = (width + 1) / 2;
    __syncthreads();
    if (threadIdx.x < width / 2) best[threadIdx.x] = fmaxf(best[threadIdx.x], best[threadIdx.x + half]);
    width = half;
  }
  if (threadIdx.x == 0) *y = best[0];
}

// The last block to finish adds the partial sums.
extern "C" __global__ void sum_by_last_block(const float* x, float* part, unsigned* ticket, float* y, int n) {
  __shared__ float mine[256];
  __shared__ bool last;
  float v = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += x[i];
  mine[threadIdx.x] = v;
  __syncthreads();
  if (threadIdx.x == 0) {
    float sum = 0;
    for (int i = 0; i < blockDim.x; i++) sum += mine[i];
    part[blockIdx.x] = sum;
    __threadfence();
    last = atomicAdd(ticket, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (last && threadIdx.x == 0) {
    *y = 0;
    for (int i = 0; i < gridDim.x; i++) *y += part[i];
  }
}

// Hillis and Steele, one block, inclusive.
extern "C" __global__ void scan_in_shared(const int* x, int* y, int n) {
  extern __shared__ int sums[];
  const int i = threadIdx.x;
  if (i < n) sums[i] = x[i];
  for (int d = 1; d < n; d *= 2) {
    __syncthreads();
    const int left = i >= d && i < n ? sums[i - d] : 0;
    __syncthreads();
    if (i < n) sums[i] += left;
  }
  if (i < n) y[i] = sums[i];
}

extern "C" __global__ void scan_in_warps(const float* x, float* y, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x % 32;
  float v = i < n ? x[i] : 0;
  for (int d = 1; d < 32; d *= 2) {
    const float left = __shfl_up_sync(ALL, v, d);
    if (lane >= d) v += left;
  }
  if (i < n) y[i] = v;
}

// Three points, with halos in shared memory.
extern "C" __global__ void stencil(const float* x, float* y, int n) {
  extern __shared__ float tile[];
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  tile[threadIdx.x + 1] = i < n ? x[i] : 0;
  if (threadIdx.x == 0) tile[0] = i > 0 && i - 1 < n ? x[i - 1] : 0;
  if (threadIdx.x == blockDim.x - 1) tile[blockDim.x + 1] = i + 1 < n ? x[i + 1] : 0;
  __syncthreads();
  if (i < n) y[i] = tile[threadIdx.x] - 2 * tile[threadIdx.x + 1] + tile[threadIdx.x + 2];
}

template <typename T, int side> __global__ void transpose(const T* x, T* y, int rows, int columns) {
  __shared__ T tile[side][side + 1];
  int r = blockIdx.y * side + threadIdx.y, c = blockIdx.x * side + threadIdx.x;
  if (r < rows && c < columns) tile[threadIdx.y][threadIdx.x] = x[(size_t)r * columns + c];
  __syncthreads();
  r = blockIdx.y * side + threadIdx.x, c = blockIdx.x * side + threadIdx.y;
  if (r < rows && c < columns) y[(size_t)c * rows + r] = tile[threadIdx.x][threadIdx.y];
}

extern "C" __global__ void scatter_add(const int* index, const float* x, float* y, int n, int width) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n * width; i += gridDim.x * blockDim.x)
    atomicAdd(&y[index[i / width] * width + i % width], x[i]);
}

extern "C" __global__ void histogram(const int* x, int* y, int n, int bins) {
  extern __shared__ int count[];
  for (int i = threadIdx.x; i < bins; i += blockDim.x) count[i] = 0;
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&count[x[i]], 1);
  __syncthreads();
  for (int i = threadIdx.x; i < bins; i += blockDim.x)
    if (count[i]) atomicAdd(&y[i], count[i]);
}

// Keeps the positive elements; the order is that of the blocks, and of the lanes within a warp.
extern "C" __global__ void compact(const int* x, int* y, int* length, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x % 32;
  const bool keep = i < n && x[i] > 0;
  const unsigned kept = __ballot_sync(ALL, keep);
  int start = 0;
  if (lane == 0) start = atomicAdd(length, __popc(kept));
  start = __shfl_sync(ALL, start, 0);
  if (keep) y[start + __popc(kept & ((1u << lane) - 1))] = x[i];
}

// Tiles of side by side threads.
template <int side> __global__ void matmul(const float* a, const float* b, float* c, int m, int n, int k) {
  __shared__ float ta[side][side], tb[side][side];
  const int row = blockIdx.y * side + threadIdx.y, column = blockIdx.x * side + threadIdx.x;
  float sum = 0;
  for (int start = 0; start < k; start += side) {
    ta[threadIdx.y][threadIdx.x] = row < m && start + threadIdx.x < k ? a[row * k + start + threadIdx.x] : 0;
    tb[threadIdx.y][threadIdx.x] = column < n && start + threadIdx.y < k ? b[(start + threadIdx.y) * n + column] : 0;
    __syncthreads();
    for (int i = 0; i < side; i++) sum += ta[threadIdx.y][i] * tb[i][threadIdx.x];
    __syncthreads();
  }
  if (row < m && column < n) c[row * n + column] = sum;
}

extern "C" __global__ void softmax_rows(const float* x, float* y, int columns) {
  const float* row = x + (size_t)blockIdx.x * columns;
  float top = -3e38f, sum = 0;
  for (int c = threadIdx.x; c < columns; c += 32) top = fmaxf(top, row[c]);
  for (int d = 16; d > 0; d /= 2) top = fmaxf(top, __shfl_xor_sync(ALL, top, d));
  for (int c = threadIdx.x; c < columns; c += 32) sum += expf(row[c] - top);
  sum = warp_sum(sum);
  for (int c = threadIdx.x; c < columns; c += 32) y[(size_t)blockIdx.x * columns + c] = expf(row[c] - top) / sum;
}

// Two elements at a time, and the odd one.
extern "C" __global__ void axpy_half(const __half* x, __half* y, float a, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (2 * i + 1 < n) {
    const float2 u = __half22float2(reinterpret_cast<const __half2*>(x)[i]), v = __half22float2(reinterpret_cast<__half2*>(y)[i]);
    reinterpret_cast<__half2*>(y)[i] = __floats2half2_rn(a * u.x + v.x, a * u.y + v.y);
  } else if (2 * i < n) {
    y[2 * i] = __float2half(a * __half2float(x[2 * i]) + __half2float(y[2 * i]));
  }
}
