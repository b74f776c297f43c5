// Planted bugs. Each kernel is a template: <false> has the bug, <true> is repaired. The line that must be reported carries the
// kernel's name in a comment, "// BUG name"; a bug that shows in two lines names both.
#include <cuda_fp16.h>
#include <cuda_pipeline_primitives.h>
#include <mma.h>

#include "../../kernels/tensor_core.cuh"
#include "bugs_helper.cuh"

constexpr unsigned ALL = 0xffffffffu;

// ---- memory that the kernel was not given

template <bool fixed> __global__ void read_past_end(const float* x, float* y, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  float sum = 0;
  if (i < n) sum = x[i];
  if (fixed ? i + 1 < n : i < n) sum += x[i + 1];  // BUG read_past_end
  if (i < n) y[i] = sum;
}

template <bool fixed> __global__ void write_past_end(const float* x, float* y, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const float value = i < n ? x[i] : 0;
  if (fixed ? i < n : i <= n) y[i] = value;  // BUG write_past_end
}

template <bool fixed> __global__ void negative_index(const float* x, float* y, int n) {
  const int i = threadIdx.x;
  if (i >= n) return;
  const float left = fixed && i == 0 ? 0 : x[i - 1];  // BUG negative_index
  y[i] = x[i] - left;
}

template <bool fixed> __global__ void read_past_shared(const float* x, float* y) {
  __shared__ float tile[32];
  __shared__ float other[32];
  tile[threadIdx.x] = x[threadIdx.x];
  other[threadIdx.x] = 1;
  __syncthreads();
  const float* last = tile + (fixed ? 31 : 32);
  y[threadIdx.x] = *last + other[threadIdx.x];  // BUG read_past_shared
}

template <bool fixed> __global__ void write_past_shared(const float* x, float* y) {
  __shared__ float tile[32];
  tile[threadIdx.x + (fixed ? 0 : 1)] = x[threadIdx.x];  // BUG write_past_shared
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x];
}

template <bool fixed> __global__ void read_past_dynamic(const float* x, float* y, int n) {
  extern __shared__ float dynamic[];
  dynamic[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = dynamic[fixed ? n - 1 - threadIdx.x : n - threadIdx.x];  // BUG read_past_dynamic
}

template <bool fixed> __global__ void write_past_dynamic(const float* x, float* y, int n) {
  extern __shared__ float dynamic[];
  for (int i = threadIdx.x; fixed ? i < n : i <= n; i += blockDim.x) dynamic[i] = x[i % n];  // BUG write_past_dynamic
  __syncthreads();
  y[threadIdx.x] = dynamic[threadIdx.x];
}

__device__ float table[8] = {1, 2, 3, 4, 5, 6, 7, 8};
template <bool fixed> __global__ void past_device_variable(float* y) {
  const float* at = table;
  if (y == nullptr) table[0] = 0;  // or it would be a constant
  y[threadIdx.x] = at[threadIdx.x % (fixed ? 8 : 9)];  // BUG past_device_variable
}

template <bool fixed> __global__ void straddling_vector(const float* x, float* y, int n) {
  const int i = threadIdx.x;
  if (fixed ? 4 * i + 3 < n : 4 * i < n) {
    const float4 v = reinterpret_cast<const float4*>(x)[i];  // BUG straddling_vector
    y[i] = v.x + v.w;
  }
}

template <bool fixed> __global__ void misaligned_copy(const float* x, float4* y) {
  y[threadIdx.x] = *reinterpret_cast<const float4*>(x + (fixed ? 4 : 1));  // BUG misaligned_copy
}

// The compiler may read the four parts one by one; a GPU does not.
template <bool fixed> __global__ void misaligned_vector(const float* x, float* y) {
  const float4 v = *reinterpret_cast<const float4*>(x + (fixed ? 4 : 1));  // BUG misaligned_vector
  y[threadIdx.x] = v.x + v.y + v.z + v.w;
}

template <bool fixed> __global__ void null_pointer(const float* x, const float* weight, float* y) {
  y[threadIdx.x] = x[threadIdx.x] * (fixed && weight == nullptr ? 1 : *weight);  // BUG null_pointer
}

template <bool fixed> __global__ void write_to_const(const float* x, float* y) {
  if (!fixed) const_cast<float*>(x)[threadIdx.x] = 0;  // BUG write_to_const
  y[threadIdx.x] = x[threadIdx.x];
}

template <bool fixed> __global__ void atomic_past_end(const int* x, int* count) {
  atomicAdd(&count[fixed ? x[threadIdx.x] - 1 : x[threadIdx.x]], 1);  // BUG atomic_past_end
}

template <bool fixed> __global__ void local_of_another_thread(float* y) {
  __shared__ float* published;
  float mine = threadIdx.x;
  if (threadIdx.x == 0) published = &mine;
  __syncthreads();
  const float* from = fixed ? &mine : published;
  y[threadIdx.x] = *from;  // BUG local_of_another_thread
  __syncthreads();
}

template <bool fixed> __global__ void in_a_header(const float* x, float* y, int n) {
  y[threadIdx.x] = load_at(x, threadIdx.x + (fixed ? 0 : n));
}

template <bool fixed> __global__ void tile_past_end(const __half* a, float* y) {
  using namespace nvcuda;
  wmma::fragment<wmma::matrix_a, 16, 16, 16, __half, wmma::row_major> fragment;
  wmma::load_matrix_sync(fragment, a, fixed ? 16 : 24);  // BUG tile_past_end
  y[threadIdx.x] = __half2float(fragment.x[0]);
}

// ---- order between threads

template <bool fixed> __global__ void uninitialised_shared(const float* x, float* y) {
  __shared__ float tile[64];
  if (fixed || threadIdx.x < 32) tile[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = tile[63 - threadIdx.x];  // BUG uninitialised_shared
}

template <bool fixed> __global__ void never_written_shared(const float* x, float* y) {
  __shared__ float tile[64];
  if constexpr (fixed) tile[threadIdx.x] = x[threadIdx.x];
  y[threadIdx.x] = tile[threadIdx.x];  // BUG never_written_shared
}

template <bool fixed> __global__ void no_barrier_after_load(const float* x, float* y) {
  __shared__ float tile[64];
  tile[threadIdx.x] = x[threadIdx.x];  // BUG no_barrier_after_load
  if (fixed) __syncthreads();
  y[threadIdx.x] = tile[63 - threadIdx.x];  // BUG no_barrier_after_load
}

template <bool fixed> __global__ void no_barrier_before_reuse(const float* x, float* y, int n) {
  __shared__ float tile[64];
  float sum = 0;
  for (int start = 0; start < n; start += 64) {
    tile[threadIdx.x] = x[start + threadIdx.x];  // BUG no_barrier_before_reuse
    __syncthreads();
    sum += tile[63 - threadIdx.x];  // BUG no_barrier_before_reuse
    if (fixed) __syncthreads();
  }
  y[threadIdx.x] = sum;
}

template <bool fixed> __global__ void no_barrier_in_reduction(const float* x, float* y) {
  __shared__ float part[128];
  part[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  for (unsigned half = 64; half > 0; half /= 2) {
    if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];  // BUG no_barrier_in_reduction
    if (fixed || half > 32) __syncthreads();  // the old way: "a warp needs none"
  }
  if (threadIdx.x == 0) y[0] = part[0];
}

template <bool fixed> __global__ void no_syncwarp(const float* x, float* y) {
  __shared__ float tile[32];
  tile[threadIdx.x] = x[threadIdx.x];  // BUG no_syncwarp
  if (fixed) __syncwarp();
  y[threadIdx.x] = tile[31 - threadIdx.x];  // BUG no_syncwarp
}

// A shuffle lets lanes meet, but does not order what they wrote.
template <bool fixed> __global__ void shuffle_is_no_fence(const float* x, float* y) {
  __shared__ float tile[32];
  tile[threadIdx.x] = x[threadIdx.x];  // BUG shuffle_is_no_fence
  const float other = __shfl_xor_sync(ALL, x[threadIdx.x], 1);
  if (fixed) __syncwarp();
  y[threadIdx.x] = other + tile[31 - threadIdx.x];  // BUG shuffle_is_no_fence
}

template <bool fixed> __global__ void several_write_one(const float* x, float* y) {
  __shared__ float top;
  if (fixed ? threadIdx.x == 0 : threadIdx.x % 32 == 0) top = x[threadIdx.x];  // BUG several_write_one
  __syncthreads();
  y[threadIdx.x] = top;
}

template <bool fixed> __global__ void blocks_write_one(const float* x, float* y) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  y[fixed ? i : threadIdx.x] = x[i];  // BUG blocks_write_one
}

template <bool fixed> __global__ void blocks_read_and_write(float* x, float* y) {
  const int n = gridDim.x * blockDim.x, i = blockIdx.x * blockDim.x + threadIdx.x;
  const float next = x[(i + 1) % n];  // BUG blocks_read_and_write
  (fixed ? y : x)[i] = next;  // BUG blocks_read_and_write
}

template <bool fixed> __global__ void non_atomic_add(const float* x, float* y) {
  const float value = x[blockIdx.x * blockDim.x + threadIdx.x];
  if (fixed) atomicAdd(y, value);
  else *y += value;  // BUG non_atomic_add
}

template <bool fixed> __global__ void no_threadfence(const float* x, float* part, unsigned* ticket, float* y) {
  __shared__ bool last;
  if (threadIdx.x == 0) {
    part[blockIdx.x] = x[blockIdx.x];
    if (fixed) __threadfence();
    last = atomicAdd(ticket, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (!last) return;
  float sum = 0;
  for (unsigned i = 0; i < gridDim.x; i++) sum += part[i];  // BUG no_threadfence
  if (threadIdx.x == 0) *y = sum;
}

// As the programming guide adds a type that atomicAdd does not take.
template <bool fixed> __global__ void compare_and_swap_loop(const float* x, float* y) {
  unsigned* const address = reinterpret_cast<unsigned*>(y);
  unsigned old, assumed;
  if (fixed) old = *static_cast<volatile unsigned*>(address);
  else old = *address;  // BUG compare_and_swap_loop
  do {
    assumed = old;
    old = atomicCAS(address, assumed, __float_as_uint(x[threadIdx.x] + __uint_as_float(assumed)));  // BUG compare_and_swap_loop
  } while (assumed != old);
}

template <bool fixed> __global__ void read_beside_atomics(const float* x, float* y) {
  __shared__ float sum;
  if (threadIdx.x == 0) sum = 0;
  __syncthreads();
  atomicAdd(&sum, x[threadIdx.x]);  // BUG read_beside_atomics
  if (fixed) __syncthreads();
  y[threadIdx.x] = sum;  // BUG read_beside_atomics
}

template <bool fixed> __global__ void no_async_wait(const float* x, float* y) {
  __shared__ __align__(16) float tile[128];
  __pipeline_memcpy_async(&tile[4 * threadIdx.x], &x[4 * threadIdx.x], 16);
  __pipeline_commit();
  if (fixed) __pipeline_wait_prior(0);
  __syncwarp();
  y[threadIdx.x] = tile[4 * threadIdx.x];  // BUG no_async_wait
  __pipeline_wait_prior(0);
}

template <bool fixed> __global__ void async_copy_too_early(const float* x, float* y) {
  __shared__ __align__(16) float tile[128];
  for (int i = 0; i < 4; ++i) tile[4 * threadIdx.x + i] = x[4 * threadIdx.x + i];
  __syncwarp();
  const float other = tile[(4 * threadIdx.x + 4) % 128];  // BUG async_copy_too_early
  if (fixed) __syncwarp();
  __pipeline_memcpy_async(&tile[4 * threadIdx.x], &x[4 * threadIdx.x], 16);  // BUG async_copy_too_early
  __pipeline_commit();
  __syncwarp();  // too late: it may be there before the others have read
  __pipeline_wait_prior(0);
  y[threadIdx.x] = other + tile[4 * threadIdx.x];
}

// ---- threads that do not meet

template <bool fixed> __global__ void divergent_barrier(float* y) {
  if (threadIdx.x < 32) {
    y[threadIdx.x] = 1;
    if (!fixed) __syncthreads();  // BUG divergent_barrier
  } else {
    y[threadIdx.x] = 2;
    if (!fixed) __syncthreads();  // BUG divergent_barrier
  }
  __syncthreads();
}

template <bool fixed> __global__ void barrier_and_shuffle(const float* x, float* y) {
  float v = x[threadIdx.x];
  if (fixed) __syncthreads();
  else if (threadIdx.x < 16) __syncthreads();  // BUG barrier_and_shuffle
  v += __shfl_xor_sync(ALL, v, 1);  // BUG barrier_and_shuffle
  y[threadIdx.x] = v;
}

template <bool fixed> __global__ void exited_lane(const float* x, float* y, int n) {
  const int i = threadIdx.x;
  if (!fixed && i >= n) return;
  float v = i < n ? x[i] : 0;
  v += __shfl_xor_sync(ALL, v, 1);  // BUG exited_lane
  if (i < n) y[i] = v;
}

template <bool fixed> __global__ void inactive_lane(const float* x, float* y) {
  float v = x[threadIdx.x];
  if (threadIdx.x < 16) v += __shfl_down_sync(0x0000ffffu, v, 8, fixed ? 16 : 32);  // BUG inactive_lane
  y[threadIdx.x] = v;
}

template <bool fixed> __global__ void mask_without_caller(float* y) {
  const unsigned mask = fixed ? ALL : 0x7fffffffu;
  y[threadIdx.x] = __ballot_sync(mask, 1);  // BUG mask_without_caller
}

template <bool fixed> __global__ void divergent_shuffle(const float* x, float* y) {
  float v = x[threadIdx.x];
  if (fixed || threadIdx.x % 2) v += __shfl_xor_sync(ALL, v, 2);  // BUG divergent_shuffle
  else v += __shfl_xor_sync(ALL, v, 4);  // BUG divergent_shuffle
  y[threadIdx.x] = v;
}

template <bool fixed> __global__ void endless_spin(volatile int* flag) {
  if (fixed) *flag = 1;
  while (*flag == 0) {}  // BUG endless_spin
}

template <bool fixed> __global__ void endless_atomic_spin(int* flag) {
  if (fixed) atomicExch(flag, 1);
  while (atomicAdd(flag, 0) == 0) {}  // BUG endless_atomic_spin
}

// ---- matrices of a warp

template <bool fixed> __global__ void matrix_lane_exited(float* y) {
  const unsigned a[4] = {}, b[2] = {};
  float d[4] = {};
  if (!fixed && threadIdx.x == 31) return;
  mma<__half>(d, a, b);  // BUG matrix_lane_exited
  y[threadIdx.x] = d[0];
}

template <bool fixed> __global__ void matrix_half_warp(float* y) {
  const unsigned a[4] = {}, b[2] = {};
  float d[4] = {};
  if (!fixed || blockDim.x % 32 == 0) mma<__nv_bfloat16>(d, a, b);  // BUG matrix_half_warp
  y[threadIdx.x] = d[0];
}

template <bool fixed> __global__ void matrix_divergence(float* y) {
  const unsigned a[4] = {}, b[2] = {};
  float d[4] = {};
  if (fixed || threadIdx.x % 2) mma<__half>(d, a, b);  // BUG matrix_divergence
  else mma<__half>(d, a, b);  // BUG matrix_divergence
  y[threadIdx.x] = d[0];
}

template <bool fixed> __global__ void matrix_row_misaligned(float* y) {
  __shared__ __align__(16) float rows[33 * 4];
  unsigned r[4];
  for (int i = threadIdx.x; i < 33 * 4; i += 32) rows[i] = i;
  __syncwarp();
  load_matrices(r, &rows[4 * threadIdx.x + (fixed ? 0 : 2)]);  // BUG matrix_row_misaligned
  y[threadIdx.x] = __uint_as_float(r[0]);
}

template <bool fixed> __global__ void matrix_row_past_end(float* y) {
  __shared__ __align__(16) float rows[16 * 4];
  const float* const row = rows + 4 * threadIdx.x;
  unsigned two[2], four[4];
  for (int i = threadIdx.x; i < 16 * 4; i += 32) rows[i] = i;
  __syncwarp();
  if (fixed) load_matrices(two, row);  // the other lanes' addresses are not used
  else load_matrices(four, row);  // BUG matrix_row_past_end
  y[threadIdx.x] = __uint_as_float(fixed ? two[1] : four[1]);
}

template <bool fixed> __global__ void matrix_row_in_global(const float* x, float* y) {
  __shared__ __align__(16) float rows[32 * 4];
  unsigned r[4];
  for (int i = 0; i < 4; ++i) rows[4 * threadIdx.x + i] = x[4 * threadIdx.x + i];
  __syncwarp();
  load_matrices_turned(r, fixed ? &rows[4 * threadIdx.x] : &x[4 * threadIdx.x]);  // BUG matrix_row_in_global
  y[threadIdx.x] = __uint_as_float(r[0]);
}

template <bool fixed> __global__ void matrix_rows_not_there(const float* x, float* y) {
  __shared__ __align__(16) float rows[32 * 4];
  unsigned r[4];
  for (int i = 0; i < 4; ++i) rows[4 * threadIdx.x + i] = x[4 * threadIdx.x + i];
  if (fixed) __syncwarp();
  load_matrices(r, &rows[4 * threadIdx.x]);  // BUG matrix_rows_not_there
  y[threadIdx.x] = __uint_as_float(r[3]);
}

template <bool fixed> __global__ void matrix_rows_reused(const float* x, float* y) {
  __shared__ __align__(16) float rows[32 * 4];
  unsigned r[4];
  for (int i = 0; i < 4; ++i) rows[4 * threadIdx.x + i] = x[4 * threadIdx.x + i];
  __syncwarp();
  load_matrices(r, &rows[4 * threadIdx.x]);  // BUG matrix_rows_reused
  if (fixed) __syncwarp();
  rows[4 * threadIdx.x] = x[threadIdx.x];  // BUG matrix_rows_reused
  y[threadIdx.x] = __uint_as_float(r[3]);
}

// ---- arithmetic, and what a kernel reports itself

template <bool fixed> __global__ void integer_overflow(const float* x, float* y, int rows, int columns) {
  const long long last = fixed ? (long long)rows * columns - 1 : rows * columns - 1;  // BUG integer_overflow
  y[threadIdx.x] = last > 0 ? x[threadIdx.x] : 0;
}

template <bool fixed> __global__ void shift_out_of_range(unsigned* y, int bits) {
  y[threadIdx.x] = 1u << (fixed ? bits % 32 : bits);  // BUG shift_out_of_range
}

template <bool fixed> __global__ void division_by_zero(int* y, int n) {
  y[threadIdx.x] = fixed && n == 0 ? 0 : 100 / n;  // BUG division_by_zero
}

template <bool fixed> __global__ void float_does_not_fit(const float* x, int* y) {
  y[threadIdx.x] = (int)(fixed ? fminf(x[threadIdx.x], 1e6f) : x[threadIdx.x] * 1e12f);  // BUG float_does_not_fit
}

template <bool fixed> __global__ void device_assert(const float* x, float* y) {
  const float value = fixed ? 1 : x[threadIdx.x];
  assert(value < 30);  // BUG device_assert
  y[threadIdx.x] = value;
}

template <bool fixed> __global__ void trap(float* y) {
  if (!fixed) __trap();  // BUG trap
  y[threadIdx.x] = 0;
}
