// Cooperative groups as tutorials use them. Each kernel's result is compared with NumPy's in test_groups.py.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>

namespace cg = cooperative_groups;

// A function that does not know which group it gets.
__device__ int sum_in_memory(cg::thread_group group, int* memory, int value) {
  const int rank = group.thread_rank();
  for (int i = group.size() / 2; i > 0; i /= 2) {
    memory[rank] = value;
    group.sync();
    if (rank < i) value += memory[rank + i];
    group.sync();
  }
  return value;
}

extern "C" __global__ void sums_in_memory(const int* x, int* of_block, int* of_tiles) {
  extern __shared__ int memory[];
  const auto block = cg::this_thread_block();
  const int value = x[cg::this_grid().thread_rank()], sum = sum_in_memory(block, memory, value);
  if (block.thread_rank() == 0) of_block[cg::this_grid().block_rank()] = sum;
  const auto tile = cg::tiled_partition(block, 8);
  const int tile_sum = sum_in_memory(tile, memory + block.thread_rank() / 8 * 8, value);
  if (tile.thread_rank() == 0) of_tiles[cg::this_grid().thread_rank() / 8] = tile_sum;
}

template <int Size>
__device__ int sum_by_shuffles(cg::thread_block_tile<Size> tile, int value) {
  for (int i = tile.size() / 2; i > 0; i /= 2) value += tile.shfl_down(value, i);
  return value;
}

template <int Size>
__global__ void sums_of_tiles(const int* x, int* y, int n) {
  int value = 0;
  for (int i = cg::this_grid().thread_rank(); i < n; i += cg::this_grid().size()) value += x[i];
  const auto tile = cg::tiled_partition<Size>(cg::this_thread_block());
  const int sum = sum_by_shuffles<Size>(tile, value);
  if (tile.thread_rank() == 0) atomicAdd(y, sum);
}

// Rows of y: what a tile of 16 threads and one of 4 inside it say, in a block of 64.
extern "C" __global__ void tiles(const int* x, int* y) {
  const auto block = cg::this_thread_block();
  const auto tile = cg::tiled_partition<16>(block);
  const auto inner = cg::tiled_partition<4>(tile);
  const int t = block.thread_rank(), value = x[t];
  int all_equal;
  const int row[] = {
      cg::reduce(tile, value, cg::plus<int>()),
      cg::reduce(inner, value, cg::greater<int>()),
      cg::reduce(inner, value, cg::less<int>()),
      cg::inclusive_scan(tile, value),
      cg::exclusive_scan(inner, value, cg::plus<int>()),
      static_cast<int>(tile.meta_group_rank() * 100 + inner.meta_group_rank() * 10 + inner.thread_rank()),
      static_cast<int>(tile.meta_group_size() * 100 + inner.meta_group_size() * 10 + inner.size()),
      static_cast<int>(tile.ballot(value % 2)),
      tile.any(value == 3) + 2 * tile.all(value < 16),
      tile.shfl(value, 3),
      tile.shfl_up(value, 2),
      tile.shfl_xor(value, 1),
      static_cast<int>(inner.match_any(value / 2)),
      static_cast<int>(tile.match_all(value / 16, all_equal)) + all_equal,
  };
  for (int i = 0; i < sizeof row / sizeof *row; i++) y[i * 64 + t] = row[i];
}

// Keeps what is above 0; the threads that are together add to the count once.
extern "C" __global__ void keep_positive(const int* x, int* y, int* count) {
  if (x[threadIdx.x] <= 0) return;
  const auto group = cg::coalesced_threads();
  int first;
  if (group.thread_rank() == 0) first = atomicAdd(count, group.size());
  y[group.shfl(first, 0) + group.thread_rank()] = x[threadIdx.x];
}

// Not of groups, but of the same tutorials.
__device__ float sum_of_block(float value) {
  static __shared__ float part[32];
  for (int i = warpSize / 2; i > 0; i /= 2) value += __shfl_down_sync(0xffffffff, value, i);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = value;
  __syncthreads();
  value = threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0;
  if (threadIdx.x < 32)
    for (int i = warpSize / 2; i > 0; i /= 2) value += __shfl_down_sync(0xffffffff, value, i);
  return value;
}

extern "C" __global__ void static_shared(const float* x, float* y) {
  const float sum = sum_of_block(x[threadIdx.x]);
  if (threadIdx.x == 0) *y = sum;
}

extern "C" __global__ void half_the_tile(float* x) {
  const auto tile = cg::tiled_partition<32>(cg::this_thread_block());
  if (tile.thread_rank() < 16)
    x[threadIdx.x] = tile.shfl_down(x[threadIdx.x], 1);  // BUG half_the_tile
  else
    tile.sync();
}

extern "C" __global__ void tile_for_block(float* x) {
  __shared__ float s[64];
  s[threadIdx.x] = x[threadIdx.x];
  cg::tiled_partition<16>(cg::this_thread_block()).sync();
  x[threadIdx.x] = s[63 - threadIdx.x];  // BUG tile_for_block
}
