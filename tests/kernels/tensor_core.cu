// What tensor_core.cuh offers, one thing a kernel, for a warp.
#include "tensor_core.cuh"

// d += a b, all as lanes hold them: a (32, 4), b (32, 2), d (32, 4).
template <typename T> __global__ void multiply(const unsigned* a, const unsigned* b, float* d) {
  unsigned left[4], right[2];
  float sum[4];
  for (int i = 0; i < 4; ++i) left[i] = a[threadIdx.x * 4 + i], sum[i] = d[threadIdx.x * 4 + i];
  for (int i = 0; i < 2; ++i) right[i] = b[threadIdx.x * 2 + i];
  mma<T>(sum, left, right);
  for (int i = 0; i < 4; ++i) d[threadIdx.x * 4 + i] = sum[i];
}

// The registers (32, 12) that each load fills with x, 32 rows of 16 bytes, lane l naming row l.
extern "C" __global__ void load(const uint4* x, unsigned* registers) {
  __shared__ uint4 rows[32];
  rows[threadIdx.x] = x[threadIdx.x];
  __syncwarp();
  unsigned four[4], two[2], turned_four[4], turned_two[2];
  load_matrices(four, &rows[threadIdx.x]);
  load_matrices(two, &rows[threadIdx.x]);
  load_matrices_turned(turned_four, &rows[threadIdx.x]);
  load_matrices_turned(turned_two, &rows[threadIdx.x]);
  unsigned* const to = registers + threadIdx.x * 12;
  for (int i = 0; i < 4; ++i) to[i] = four[i], to[6 + i] = turned_four[i];
  for (int i = 0; i < 2; ++i) to[4 + i] = two[i], to[10 + i] = turned_two[i];
}

// c (16 x 8) = a (rows x depth) b, rows of a beyond them being 0; b is (depth x 8), or its transpose unless TURNED.
template <typename T, bool TURNED> __global__ void product(const T* a, const T* b, float* c, int rows, int depth) {
  constexpr int K = MMA_K<T>, PACK = 16 / sizeof(T), PITCH = K + PACK;  // an odd number of packs: no bank conflicts
  __shared__ __align__(16) T left[16][PITCH], right[TURNED ? K : 8][TURNED ? 8 : PITCH];
  const int lane = threadIdx.x;
  float sum[4] = {};
  for (int k0 = 0; k0 < depth; k0 += K) {
    const int row = lane % 16, part = lane / 16 * PACK;  // two packs a row
    copy_async(&left[row][part], a + row * depth + k0 + part, row < rows);
    if (lane < 16) {
      if (TURNED) copy_async(&right[lane][0], b + (k0 + lane) * 8, true);
      else copy_async(&right[lane % 8][lane / 8 * PACK], b + lane % 8 * depth + k0 + lane / 8 * PACK, true);
    }
    copies_commit();
    copies_arrived<0>();
    __syncwarp();
    unsigned of_a[4], of_b[2];
    load_matrices(of_a, &left[row][part]);
    if constexpr (TURNED) load_matrices_turned(of_b, &right[lane % 16][0]);
    else load_matrices(of_b, &right[lane % 8][lane / 8 % 2 * PACK]);
    if (sizeof(T) == 4) {
      for (unsigned& x : of_a) x = to_tf32(__uint_as_float(x));
      for (unsigned& x : of_b) x = to_tf32(__uint_as_float(x));
    }
    mma<T>(sum, of_a, of_b);
    __syncwarp();
  }
  for (int i = 0; i < 4; ++i) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[i];
}
