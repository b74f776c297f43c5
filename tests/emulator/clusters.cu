// Clusters of blocks. First what is right, and gives NumPy's values; then planted bugs: without `fixed`, the line that must be
// reported carries the kernel's name, "// BUG name"; a bug that shows in two lines names both.
#include <cooperative_groups.h>

namespace cg = cooperative_groups;

// ---- right

// The histogram of the CUDA C++ Programming Guide: the bins are spread over the blocks of a cluster.
template <int BLOCKS> __global__ void __cluster_dims__(BLOCKS, 1, 1) __launch_bounds__(32)
histogram(const int* x, int* bins, int n, int each) {
  extern __shared__ int mine[];
  cg::cluster_group cluster = cg::this_cluster();
  for (int i = threadIdx.x; i < each; i += blockDim.x) mine[i] = 0;
  cluster.sync();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += blockDim.x * gridDim.x)
    atomicAdd(cluster.map_shared_rank(mine, x[i] / each) + x[i] % each, 1);
  cluster.sync();
  for (int i = threadIdx.x; i < each; i += blockDim.x) atomicAdd(bins + cluster.block_rank() * each + i, mine[i]);
}

// Each block holds a part of a vector, reads all others' each step, and writes its own anew: two buffers, one barrier.
__global__ void exchange(float* y, int steps) {
  __shared__ float held[2][32];
  cg::cluster_group cluster = cg::this_cluster();
  const int t = threadIdx.x, blocks = cluster.num_blocks(), rank = cluster.block_rank();
  held[0][t] = rank * 32 + t;
  cluster.sync();
  for (int step = 0; step < steps; ++step) {
    float sum = 0;
    for (int other = 0; other < blocks; ++other) sum += cluster.map_shared_rank(held[step & 1], other)[31 - t];
    held[(step + 1) & 1][t] = sum / blocks;
    cluster.sync();
  }
  y[blockIdx.x * 32 + t] = held[steps & 1][t];
}

// The barrier in two halves, and another block's memory written to.
__global__ void halves(const float* x, float* y) {
  extern __shared__ float given[];
  __shared__ float own[32];
  cg::cluster_group cluster = cg::this_cluster();
  const int t = threadIdx.x, next = (cluster.block_rank() + 1) % cluster.num_blocks();
  cluster.barrier_wait(cluster.barrier_arrive());
  cluster.map_shared_rank(given, next)[t] = x[blockIdx.x * 32 + t];
  auto token = cluster.barrier_arrive();
  own[t] = 2 * t;  // nobody else's
  __syncthreads();
  const float mine = own[31 - t];
  cluster.barrier_wait(static_cast<cg::cluster_group::arrival_token&&>(token));
  y[blockIdx.x * 32 + t] = given[t] + mine;
}

__global__ void __cluster_dims__(2, 2, 2) places(int* rank, int* inside, int* threads) {
  cg::cluster_group cluster = cg::this_cluster();
  __shared__ int here;
  const dim3 at = cluster.block_index(), size = cluster.dim_blocks();
  const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const int* there = cluster.map_shared_rank(&here, 3);
  if (cluster.query_shared_rank(there) != 3 || cluster.query_shared_rank(&here) != cluster.block_rank()) __trap();
  if (threadIdx.x) return;  // who has exited is not waited for
  rank[block] = cluster.block_rank();
  inside[block] = (at.z * size.y + at.y) * size.x + at.x;
  threads[block] = cluster.num_threads();
  cluster.sync();
  cg::sync(cg::this_thread_block());
}

// Global memory is ordered by the cluster's barrier too.
__global__ void through_global(float* x, float* y) {
  cg::cluster_group cluster = cg::this_cluster();
  const int i = blockIdx.x * blockDim.x + threadIdx.x, n = blockDim.x * cluster.num_blocks();
  x[i] = i;
  cluster.sync();
  y[i] = x[i / n * n + n - 1 - i % n];
}

__global__ void alone(int* y) {  // without a cluster a block is one by itself
  cg::cluster_group cluster = cg::this_cluster();
  __shared__ int value;
  if (threadIdx.x == 0) value = cluster.num_blocks();
  cluster.sync();
  y[threadIdx.x] = *cluster.map_shared_rank(&value, 0) + cluster.block_rank();
}

// ---- planted bugs, in clusters of two

struct Pair {
  cg::cluster_group cluster = cg::this_cluster();
  int other = 1 - cluster.block_rank();
  int t = threadIdx.x, i = blockIdx.x * blockDim.x + threadIdx.x;
};

__global__ void read_too_early(const float* x, float* y, bool fixed) {
  __shared__ float tile[32];
  Pair p;
  tile[p.t] = 0;
  p.cluster.sync();
  tile[p.t] = x[p.i];  // BUG read_too_early
  fixed ? p.cluster.sync() : __syncthreads();
  y[p.i] = p.cluster.map_shared_rank(tile, p.other)[p.t];  // BUG read_too_early
  p.cluster.sync();
}

__global__ void written_too_early(const float* x, float* y, bool fixed) {
  __shared__ float tile[32];
  Pair p;
  tile[p.t] = x[p.i];
  p.cluster.sync();
  y[p.i] = p.cluster.map_shared_rank(tile, p.other)[p.t];  // BUG written_too_early
  if (fixed) p.cluster.sync();
  tile[p.t] = 0;  // BUG written_too_early
  p.cluster.sync();
}

__global__ void before_its_begin(const float* x, float* y, bool fixed) {
  __shared__ float tile[32];
  Pair p;
  if (fixed) p.cluster.sync();
  p.cluster.map_shared_rank(tile, p.other)[p.t] = x[p.i];  // BUG before_its_begin
  p.cluster.sync();
  y[p.i] = tile[p.t];
}

__global__ void after_its_end(const float* x, float* y, bool fixed) {
  extern __shared__ float tile[];
  Pair p;
  tile[p.t] = x[p.i];
  p.cluster.sync();
  y[p.i] = p.cluster.map_shared_rank(tile, p.other)[p.t];  // BUG after_its_end
  if (fixed) p.cluster.sync();
}

__global__ void a_block_returns(const float* x, float* y, bool fixed) {
  __shared__ float tile[32];
  Pair p;
  tile[p.t] = x[p.i];
  p.cluster.sync();
  if (!fixed && p.other == 0) return;
  y[p.i] = p.cluster.map_shared_rank(tile, p.other)[p.t];  // BUG a_block_returns
  p.cluster.sync();
}

__global__ void rank_out_of_range(const float* x, float* y, bool fixed) {
  __shared__ float tile[32];
  Pair p;
  tile[p.t] = x[p.i];
  p.cluster.sync();
  y[p.i] = p.cluster.map_shared_rank(tile, p.other + !fixed)[p.t];  // BUG rank_out_of_range
  p.cluster.sync();
}

__global__ void not_shared(const float* x, float* y, bool fixed) {
  __shared__ float tile[32];
  Pair p;
  tile[p.t] = x[p.i];
  p.cluster.sync();
  y[p.i] = *p.cluster.map_shared_rank(fixed ? tile : x, p.other);  // BUG not_shared
  p.cluster.sync();
}

__global__ void past_anothers_end(const float* x, float* y, bool fixed) {
  __shared__ float tile[32];
  Pair p;
  tile[p.t] = x[p.i];
  p.cluster.sync();
  y[p.i] = p.cluster.map_shared_rank(tile, p.other)[p.t + !fixed];  // BUG past_anothers_end
  p.cluster.sync();
}

__global__ void never_written(const float* x, float* y, bool fixed) {
  __shared__ float tile[32];
  Pair p;
  if (fixed || p.other == 0) tile[p.t] = x[p.i];
  p.cluster.sync();
  y[p.i] = p.cluster.map_shared_rank(tile, p.other)[p.t];  // BUG never_written
  p.cluster.sync();
}

__global__ void mapped_by_another(const float* x, float* y, bool fixed) {
  __shared__ float tile[32];
  __shared__ float* published;
  Pair p;
  tile[p.t] = x[p.i];
  p.cluster.sync();
  if (p.t == 0) *p.cluster.map_shared_rank(&published, p.other) = fixed ? tile : p.cluster.map_shared_rank(tile, p.other);
  p.cluster.sync();
  y[p.i] = published[p.t];  // BUG mapped_by_another
  p.cluster.sync();
}

__global__ void divergent_cluster_barrier(float* y, bool fixed) {
  Pair p;
  if (fixed || p.t < 16)
    p.cluster.sync();  // BUG divergent_cluster_barrier
  else
    p.cluster.sync();  // BUG divergent_cluster_barrier
  y[p.i] = 0;
}

__global__ void one_waits_elsewhere(float* y, bool fixed) {
  Pair p;
  if (!fixed && p.i == 0) __syncthreads();  // BUG one_waits_elsewhere
  p.cluster.sync();  // BUG one_waits_elsewhere
  y[p.i] = 0;
}

__global__ void arrives_twice(float* y, bool fixed) {
  Pair p;
  p.cluster.barrier_arrive();
  if (!fixed) p.cluster.barrier_arrive();  // BUG arrives_twice
  p.cluster.barrier_wait();
  y[p.i] = 0;
}

__global__ void waits_without_arriving(float* y, bool fixed) {
  Pair p;
  if (fixed) p.cluster.barrier_arrive();
  p.cluster.barrier_wait();  // BUG waits_without_arriving
  y[p.i] = 0;
}

__global__ void writes_after_arriving(const float* x, float* y, bool fixed) {
  __shared__ float tile[32];
  Pair p;
  p.cluster.sync();
  if (fixed) p.cluster.map_shared_rank(tile, p.other)[p.t] = x[p.i];
  p.cluster.barrier_arrive();
  if (!fixed) p.cluster.map_shared_rank(tile, p.other)[p.t] = x[p.i];  // BUG writes_after_arriving
  p.cluster.barrier_wait();
  y[p.i] = tile[p.t];  // BUG writes_after_arriving
  p.cluster.sync();
}

__global__ void reads_after_arriving(const float* x, float* y, bool fixed) {
  __shared__ float tile[32];
  Pair p;
  tile[p.t] = x[p.i];
  p.cluster.sync();
  if (fixed) y[p.i] = p.cluster.map_shared_rank(tile, p.other)[p.t];
  p.cluster.barrier_arrive();
  if (!fixed) y[p.i] = p.cluster.map_shared_rank(tile, p.other)[p.t];  // BUG reads_after_arriving
  p.cluster.barrier_wait();
  tile[p.t] = 0;  // BUG reads_after_arriving
  p.cluster.sync();
}

__global__ void global_without_barrier(float* x, float* y, bool fixed) {
  Pair p;
  x[p.i] = p.i;  // BUG global_without_barrier
  if (fixed) p.cluster.sync();
  y[p.i] = x[p.i ^ 32];  // BUG global_without_barrier
}

__global__ void adds_without_atomic(const float* x, float* y, bool fixed) {
  __shared__ float sum;
  Pair p;
  if (p.t == 0) sum = 0;
  p.cluster.sync();
  float* first = p.cluster.map_shared_rank(&sum, 0);
  if (fixed)
    atomicAdd(first, x[p.i]);
  else if (p.t == 0)
    *first += x[p.i];  // BUG adds_without_atomic
  p.cluster.sync();
  if (p.t == 0 && p.other) y[p.i] = sum;
}
