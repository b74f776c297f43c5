// The random numbers of numpy.random.Philox: the same bits on every device.
//
// Philox4x64-10 (Salmon et al. 2011): ten rounds of two 64 x 64 -> 128 bit products over a counter of four
// words and a key of two. One call gives 256 bits = the 16-bit numbers of 16 neighbouring elements.
#pragma once
#include "common.cuh"

struct Philox { unsigned long long w[4]; };

__device__ __forceinline__ Philox philox4x64(unsigned long long c0, unsigned long long c1, unsigned long long c2,
                                             unsigned long long c3, unsigned long long k0, unsigned long long k1) {
#pragma unroll 2  // all ten at once would keep the keys of each in registers from one call to the next
  for (int round = 0; round < 10; round++) {
    const unsigned long long m0 = 0xD2E7470EE14C6C93ULL, m1 = 0xCA5A826395121157ULL;
    const unsigned long long hi0 = __umul64hi(m0, c0), lo0 = m0 * c0, hi1 = __umul64hi(m1, c2), lo1 = m1 * c2;
    c0 = hi1 ^ c1 ^ k0;
    c1 = lo1;
    c2 = hi0 ^ c3 ^ k1;
    c3 = lo0;
    k0 += 0x9E3779B97F4A7C15ULL;   // the golden ratio and sqrt(3) - 1: Weyl sequences of the key
    k1 += 0xBB67AE8584CAA73BULL;
  }
  return {{c0, c1, c2, c3}};
}

// The number of element e of a Philox block of 16.
__device__ __forceinline__ int number_of(const Philox& bits, int e) {
  return (int)((bits.w[e / 4] >> (16 * (e % 4))) & 0xffff);
}

// Which elements dropout keeps: those whose 16-bit number is below `keep`. first: the number of an array's first element.
struct Dropout {
  int keep;
  long long first;
  unsigned long long seed, stream, call, step;
  __device__ bool off() const { return keep >= 65536; }
  // Bit e tells whether the element of number 16 block + e is kept.
  __device__ __forceinline__ unsigned kept(long long block) const {
    // NumPy adds one to the counter before it computes a block
    const Philox bits = philox4x64((unsigned long long)block + 1, call, step, 0, seed, stream);
    unsigned kept = 0;
#pragma unroll
    for (int e = 0; e < 16; ++e) kept |= (unsigned)(number_of(bits, e) < keep) << e;
    return kept;
  }
};
