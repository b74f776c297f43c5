// Matrix products of a warp on tensor cores, the loads of their operands from shared memory, and copies into it that
// need no registers. NVIDIA's PTX ISA is the source of every layout here ("Warp-level matrix instructions",
// m16n8k16 of half types, m16n8k8 of TF32, ldmatrix).
//
// One product is d (16 x 8) += a (16 x K) b (K x 8), with K = 16 for __half and __nv_bfloat16 and K = 8 for float, of
// which tensor cores read the first 19 bits (TF32). Lane l keeps its parts in registers of 32 bits, which hold two
// neighbours along k of a half type, or one float. With g = l / 4, t = l % 4 and P = elements a register:
//
//   a[i]: row g + 8 * (i % 2), elements k = P * (t + 4 * (i / 2)) ..      b[i]: column g, elements k = P * (t + 4 * i) ..
//   d[i]: row g + 8 * (i / 2), column 2 * t + i % 2
//
// Products are exact in float and added in float. The order in which tensor cores add, and where they cut, is not
// specified: compare results to a tolerance. The twins here and the emulator add by ascending k, to what d held.
//
// All 32 lanes of a warp call each function together, in a one-dimensional block whose size is a multiple of 32.
// PTX stands here only, and needs sm_80; -DGPUPROP_NO_PTX takes the twins in plain CUDA C++ everywhere, to compare with
// (sm_75 has no other, so that whoever can choose another kernel there should), and the emulator has its own in their place.
#pragma once
#include "common.cuh"

// Elements of T in a register, and the k that one product sums over.
template <typename T> constexpr int PER_REGISTER = 4 / sizeof(T);
template <typename T> constexpr int MMA_K = 8 * PER_REGISTER<T>;

// TENSOR_CORES: whether a kernel that multiplies by mma should be there: where that is one instruction (or the emulator's) and
// not a twin of some hundred, or where the twin was asked for.
#if defined(GPUPROP_EMULATOR) && !defined(GPUPROP_NO_PTX)
constexpr bool TENSOR_CORES = true;
#include <gpuprop_emulator/tensor_core.h>
#elif !defined(GPUPROP_NO_PTX) && __CUDA_ARCH__ >= 800
constexpr bool TENSOR_CORES = true;

// d += a b.
template <typename T> __device__ inline void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]);
#define GPUPROP_MMA(T, SHAPE_AND_TYPES)                                                                             \
  template <> __device__ inline void mma<T>(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {        \
    asm volatile("mma.sync.aligned." SHAPE_AND_TYPES " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"       \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                   \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                               \
  }
GPUPROP_MMA(__half, "m16n8k16.row.col.f32.f16.f16.f32")
GPUPROP_MMA(__nv_bfloat16, "m16n8k16.row.col.f32.bf16.bf16.f32")
GPUPROP_MMA(float, "m16n8k8.row.col.f32.tf32.tf32.f32")
#undef GPUPROP_MMA

// The float whose first 19 bits are nearest to x, as bits; halves go away from zero.
__device__ inline unsigned to_tf32(float x) {
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}

__device__ inline unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

// Matrices of 8 rows of 16 bytes in shared memory: lanes 8 * i to 8 * i + 7 name the rows of the one that goes to r[i], each
// at a multiple of 16 bytes. Lane l receives 4 bytes, those at 4 * (l % 4) of row l / 4. Of two matrices lanes 0-15
// name the rows, and the others any rows.
__device__ inline void load_matrices(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
__device__ inline void load_matrices(unsigned (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1]) : "r"(shared_address(row)) : "memory");
}
// The same of 2-byte elements, each matrix turned: lane l receives element l / 4 of rows 2 * (l % 4) and
// 2 * (l % 4) + 1.
__device__ inline void load_matrices_turned(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
__device__ inline void load_matrices_turned(unsigned (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1]) : "r"(shared_address(row)) : "memory");
}

// 16 bytes from global to shared memory, both at multiples of 16; zeros where `inside` is false, and then nothing is
// read. They are there for this thread after copies_arrived, and for the block after a barrier behind it.
__device__ inline void copy_async(void* to, const void* from, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :: "r"(shared_address(to)), "l"(__cvta_generic_to_global(from)), "r"(inside ? 16 : 0) : "memory");
}
// Ends a group of copies.
__device__ inline void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits for this thread's groups but the NEWEST ones.
template <int NEWEST> __device__ inline void copies_arrived() {
  asm volatile("cp.async.wait_group %0;" :: "n"(NEWEST) : "memory");
}

#else  // the twins in plain CUDA C++
#ifdef GPUPROP_NO_PTX
constexpr bool TENSOR_CORES = true;
#else
constexpr bool TENSOR_CORES = false;
#endif

// sum + x[0] y[0] + x[1] y[1] of the elements of two registers.
template <typename T> __device__ inline float add_products(unsigned x, unsigned y, float sum) {
  const T* const left = reinterpret_cast<const T*>(&x);
  const T* const right = reinterpret_cast<const T*>(&y);
  for (int e = 0; e < PER_REGISTER<T>; ++e) sum += to_acc(left[e]) * to_acc(right[e]);
  return sum;
}
template <> __device__ inline float add_products<float>(unsigned x, unsigned y, float sum) {
  return sum + __uint_as_float(x & 0xffffe000u) * __uint_as_float(y & 0xffffe000u);
}

template <typename T> __device__ inline void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int p = 0; p < 8; ++p) {  // the registers along k: those of lanes p % 4 of each group
    const unsigned upper = __shfl_sync(0xffffffffu, a[p / 4 * 2], lane / 4 * 4 + p % 4);
    const unsigned lower = __shfl_sync(0xffffffffu, a[p / 4 * 2 + 1], lane / 4 * 4 + p % 4);
    for (int j = 0; j < 2; ++j) {
      const unsigned right = __shfl_sync(0xffffffffu, b[p / 4], (lane % 4 * 2 + j) * 4 + p % 4);
      d[j] = add_products<T>(upper, right, d[j]);
      d[2 + j] = add_products<T>(lower, right, d[2 + j]);
    }
  }
}

__device__ inline unsigned to_tf32(float x) {
  const unsigned bits = __float_as_uint(x);
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;  // infinite and NaN stay
}

// The address that lane `lane` gave.
__device__ inline const char* row_of_lane(const void* row, int lane) {
  return reinterpret_cast<const char*>(__shfl_sync(0xffffffffu, reinterpret_cast<unsigned long long>(row), lane));
}
template <int N> __device__ inline void load_matrices(unsigned (&r)[N], const void* row) {
  const int lane = threadIdx.x % 32;
  for (int i = 0; i < N; ++i)
    r[i] = *reinterpret_cast<const unsigned*>(row_of_lane(row, 8 * i + lane / 4) + lane % 4 * 4);
}
template <int N> __device__ inline void load_matrices_turned(unsigned (&r)[N], const void* row) {
  const int lane = threadIdx.x % 32;
  for (int i = 0; i < N; ++i) {
    const char* const even = row_of_lane(row, 8 * i + lane % 4 * 2);
    const char* const odd = row_of_lane(row, 8 * i + lane % 4 * 2 + 1);
    r[i] = reinterpret_cast<const unsigned short*>(even)[lane / 4] |
           (unsigned)reinterpret_cast<const unsigned short*>(odd)[lane / 4] << 16;
  }
}

__device__ inline void copy_async(void* to, const void* from, bool inside) {
  Pack<unsigned> pack = {};
  if (inside) pack = load_pack(static_cast<const unsigned*>(from));
  store_pack(static_cast<unsigned*>(to), pack);
}
__device__ inline void copies_commit() {}
template <int NEWEST> __device__ inline void copies_arrived() {}

#endif
