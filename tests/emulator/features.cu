// One kernel for each group of what the emulator supports; test_features.py holds the expected values.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#ifdef GPUPROP_EMULATOR
#include <cuda_pipeline.h>
#include <cuda_runtime.h>
#else  // NVRTC takes only this one
#include <cuda_pipeline_primitives.h>
#endif
#include <mma.h>
#include <cuda/std/cstdint>
#include <cuda/std/limits>

constexpr unsigned ALL = 0xffffffffu;
__constant__ float coefficients[4] = {1, 2, 3, 4};
__device__ int counter = 5;

extern "C" __global__ void __launch_bounds__(64, 2) builtins(int* y) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  uint3 t = threadIdx;
  y[i] = t.x + 100 * blockIdx.x + 1000 * gridDim.x + 10000 * warpSize;
}

extern "C" __global__ void three_dimensions(int* y) {
  const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  y[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread;
}

extern "C" __global__ void barriers(const int* x, int* y) {
  const int v = x[threadIdx.x];
  const int count = __syncthreads_count(v > 10), all = __syncthreads_and(v > 10), any = __syncthreads_or(v > 10);
  if (threadIdx.x == 0) y[0] = count, y[1] = all != 0, y[2] = any != 0;
}

extern "C" __global__ void shuffles(const float* x, float* y) {
  const int lane = threadIdx.x % 32;
  const float v = x[threadIdx.x];
  float* out = y + threadIdx.x;
  out[0] = __shfl_sync(ALL, v, 5);
  out[64] = __shfl_up_sync(ALL, v, 3);
  out[128] = __shfl_down_sync(ALL, v, 3);
  out[192] = __shfl_xor_sync(ALL, v, 7);
  out[256] = __shfl_sync(ALL, v, 1, 8);
  out[320] = (float)__shfl_xor_sync(ALL, (double)v, 1) + (float)__shfl_sync(ALL, (long long)lane << 40, 3) / 1e12f;
  out[384] = __half2float(__shfl_down_sync(ALL, __float2half(v), 1, 16));
  out[448] = lane < 16 ? __shfl_sync(0x0000ffffu, v, 2) : __shfl_sync(0xffff0000u, v, 20);
}

extern "C" __global__ void votes(const int* x, unsigned* y) {
  const int v = x[threadIdx.x];
  int same;
  unsigned* out = y + 10 * threadIdx.x;
  out[0] = __ballot_sync(ALL, v & 1);
  out[1] = __any_sync(ALL, v == 3);
  out[2] = __all_sync(ALL, v < 32);
  out[3] = __match_any_sync(ALL, v % 4);
  out[4] = __match_all_sync(ALL, v / 100, &same);
  out[5] = same;
  out[6] = __reduce_add_sync(ALL, v) + 1000 * __reduce_max_sync(ALL, v) + 100000 * __reduce_min_sync(ALL, v + 1);
  out[7] = __reduce_or_sync(ALL, (unsigned)v) + 100 * __reduce_and_sync(ALL, (unsigned)v | 1) + 1000 * __reduce_xor_sync(ALL, (unsigned)v);
  out[8] = __reduce_add_sync(ALL, -v);
  out[9] = __activemask() >> (threadIdx.x % 32) & 1;
}

extern "C" __global__ void exited_lanes_may_be_named(unsigned* y, int n) {
  if (threadIdx.x >= n) return;
  __syncwarp();
  y[threadIdx.x] = __ballot_sync(ALL, 1);
  __syncthreads();
}

template <typename T> __global__ void atomics(T* y, int n) {
  for (int i = 0; i < n; i++) atomicAdd(y, T(1.0f));
}

extern "C" __global__ void integer_atomics(int* i, unsigned* u, unsigned long long* l) {
  const int t = threadIdx.x;
  atomicAdd(&i[0], t);
  atomicSub(&i[1], t);
  atomicMin(&i[2], t - 5);
  atomicMax(&i[3], t);
  atomicExch(&i[4], 7);
  atomicAnd(&u[0], ~(1u << t % 4));
  atomicOr(&u[1], 1u << t % 8);
  atomicXor(&u[2], 1u << t % 32);
  atomicInc(&u[3], 10u);
  atomicDec(&u[4], 10u);
  atomicAdd_block(&u[5], 2u);
  atomicAdd(&l[0], 1ull << 33);
  atomicMax(&l[1], (unsigned long long)t);
  int seen = *(volatile int*)&i[5], expected;  // i[5] += 3 by compare and swap
  do {
    expected = seen;
    seen = atomicCAS(&i[5], expected, expected + 3);
  } while (seen != expected);
}

// A lock that every thread takes in turn: needs the scheduler to switch while it spins.
extern "C" __global__ void spin_lock(int* lock, volatile int* total) {
  bool done = false;
  while (!done)
    if (atomicCAS(lock, 0, 1) == 0) {
      *total = *total + 1;
      __threadfence();
      atomicExch(lock, 0);
      done = true;
    }
}

extern "C" __global__ void vectors(const float4* x, int2* y, uchar4* z, double2* d) {
  const float4 v = x[threadIdx.x];
  y[threadIdx.x] = make_int2((int)(v.x + v.y), (int)(v.z + v.w));
  z[threadIdx.x] = make_uchar4(1, 2, 3, threadIdx.x);
  d[threadIdx.x] = make_double2(v.x, -v.y);
}

template <typename T, typename T2> __global__ void half_arithmetic(const T* x, T* y, T2* pairs) {
  const T v = x[threadIdx.x];
  y[0 * 32 + threadIdx.x] = v * v + v;
  y[1 * 32 + threadIdx.x] = __hfma(v, v, v);
  y[2 * 32 + threadIdx.x] = hexp(v) / hsqrt(v + T(1.0f));
  y[3 * 32 + threadIdx.x] = __hmax(v, T(0.5f)) - __hmin(v, T(0.5f));
  y[4 * 32 + threadIdx.x] = v > T(0.25f) ? htanh(v) : hlog(v + T(1.0f));
  pairs[threadIdx.x] = __hfma2(pairs[threadIdx.x], pairs[threadIdx.x], h2exp(pairs[threadIdx.x]));
}

extern "C" __global__ void constants(const float* __restrict__ x, float* y, int* seen) {
  y[threadIdx.x] = __ldg(&x[threadIdx.x]) * coefficients[threadIdx.x % 4] + __ldcs(x);
  if (threadIdx.x == 0) seen[0] = counter++;
  __stcs(&y[threadIdx.x], y[threadIdx.x]);
}

extern "C" __global__ void math(const float* x, float* y) {
  const float v = x[threadIdx.x];
  const float results[] = {__expf(v), __logf(v), __powf(v, 2.5f), __sinf(v), __fdividef(1, v), rsqrtf(v), __saturatef(v), __frcp_rn(v),
                           __fmaf_rn(v, v, 1), fmaxf(v, 1), exp(v), max(v, 2.0f), (float)min(3, (int)v), erff(v), sinpif(v), normcdff(v),
                           __log2f(v), rcbrtf(v), tanhf(v), copysignf(v, -1)};
  for (int i = 0; i < 20; i++) y[i * 32 + threadIdx.x] = results[i];
}

extern "C" __global__ void bits(const unsigned* x, unsigned* y, const float* f) {
  const unsigned v = x[threadIdx.x];
  const unsigned results[] = {(unsigned)__popc(v), (unsigned)__clz(v), (unsigned)__ffs(v), __brev(v), __byte_perm(v, 0x11223344u, 0x5410),
                              __umulhi(v, v), __funnelshift_l(v, ~v, 5), __float_as_uint(f[threadIdx.x]), (unsigned)__float2int_rn(f[threadIdx.x]),
                              (unsigned)__float2int_rd(f[threadIdx.x]), (unsigned)__dp4a((int)v, 0x01010101, 0)};
  for (int i = 0; i < 11; i++) y[i * 32 + threadIdx.x] = results[i];
}

extern "C" __global__ void conversions(const float* x, int* y, unsigned long long* high) {
  y[threadIdx.x] = __float2int_rz(x[threadIdx.x]);  // saturates, and makes 0 of a NaN
  high[threadIdx.x] = __umul64hi(0xfedcba9876543210ull, 0x123456789abcdef0ull + threadIdx.x);
  static_assert(cuda::std::numeric_limits<cuda::std::int32_t>::max() == 2147483647, "");
}

extern "C" __global__ void rounding(const float* x, float* y) {
  const float v = x[threadIdx.x];
  y[threadIdx.x] = __fadd_ru(v, 1e-10f);
  y[32 + threadIdx.x] = __fadd_rd(v, -1e-10f);
  y[64 + threadIdx.x] = __fmul_rz(v, 1.0000001f);
}

extern "C" __global__ void dynamic_shared(const double* x, double* y, int n) {
  extern __shared__ __align__(16) unsigned char raw[];
  double* tile = reinterpret_cast<double*>(raw);
  tile[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = tile[n - 1 - threadIdx.x];
}

template <int rows> __global__ void dynamic_rows(const float* x, float* y) {
  extern __shared__ float grid_of[][rows];
  grid_of[threadIdx.y][threadIdx.x] = x[threadIdx.y * rows + threadIdx.x];
  __syncthreads();
  y[threadIdx.x * blockDim.y + threadIdx.y] = grid_of[threadIdx.y][threadIdx.x];
}

extern "C" __global__ void print(int n) {
  if (threadIdx.x < n) printf("thread %d of %s %.2f\n", threadIdx.x, "block", 0.5);
}

extern "C" __global__ void clocks(long long* y) {
  const long long start = clock64();
  __nanosleep(1);
  y[0] = clock64() >= start && clock() != 0;
}

extern "C" __global__ void pipeline(const float* x, float* y, int tiles) {
  __shared__ __align__(16) float tile[2][128];
  auto fetch = [&](int k) {
    __pipeline_memcpy_async(&tile[k % 2][4 * threadIdx.x], &x[128 * k + 4 * threadIdx.x], 16);
    __pipeline_commit();
  };
  fetch(0);
  float sum = 0;
  for (int k = 0; k < tiles; k++) {
    if (k + 1 < tiles) fetch(k + 1);
    __pipeline_wait_prior(k + 1 < tiles ? 1 : 0);
    __syncwarp();
    for (int i = 0; i < 4; i++) sum += tile[k % 2][(threadIdx.x + 32 * i) % 128];
    __syncwarp();
  }
  y[threadIdx.x] = sum;
}

template <typename T, typename Layout> __global__ void matrix(const T* a, const T* b, float* c) {
  using namespace nvcuda::wmma;
  fragment<matrix_a, 16, 16, 16, T, row_major> left;
  fragment<matrix_b, 16, 16, 16, T, Layout> right;
  fragment<accumulator, 16, 16, 16, float> sum;
  fill_fragment(sum, 0.5f);
  load_matrix_sync(left, a, 16);
  load_matrix_sync(right, b, 16);
  mma_sync(sum, left, right, sum);
  for (int i = 0; i < sum.num_elements; i++) sum.x[i] *= 2.0f;
  store_matrix_sync(c, sum, 16, mem_row_major);
}

// The names of the C library are free for kernels, and a user's overloads do not hide the others.
struct Pair { float a, b; };
__device__ Pair max(Pair x, Pair y) { return {max(x.a, y.a), max(x.b, y.b)}; }
__device__ float exp(Pair x) { return exp(x.a) + exp(x.b); }
extern "C" __global__ void index(const float* x, float* y) {
  const Pair p = max(Pair{x[threadIdx.x], 1}, Pair{0.5f, 2});
  y[threadIdx.x] = exp(p) + max(1, 2) + exp(0.0f);
}
namespace inner {
template <typename T> __global__ void kernel(T* y) { y[threadIdx.x] = T(threadIdx.x); }
}
template <typename T> struct Scale {
  T factor;
  int offset;
};
extern "C" __global__ void struct_argument(float* y, Scale<float> s, bool negate, const float* const* table) {
  y[threadIdx.x] = (negate ? -1 : 1) * (s.factor * threadIdx.x + s.offset);
}
extern "C" __global__ void bytes(const bool* mask, unsigned char* y) {
  __shared__ unsigned char copy[64];
  copy[threadIdx.x] = mask[threadIdx.x];  // neighbours write neighbouring bytes: no race
  __syncthreads();
  y[threadIdx.x] = copy[63 - threadIdx.x];
}
#if __CUDA_ARCH__ != 900
#error "the default architecture is sm_90"
#endif
