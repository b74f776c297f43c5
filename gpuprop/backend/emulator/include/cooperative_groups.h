// Of cooperative groups, those of a whole block, of a cluster and of the grid; tiles.h has those inside a warp.
#pragma once

namespace cooperative_groups {
class thread_block {
 public:
  void sync(GPE_PLACE) const { __syncthreads(file, line); }
  static unsigned thread_rank() { return (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x; }
  static unsigned num_threads() { return blockDim.x * blockDim.y * blockDim.z; }
  static unsigned size() { return num_threads(); }
  static dim3 group_index() { return {blockIdx.x, blockIdx.y, blockIdx.z}; }
  static dim3 thread_index() { return {threadIdx.x, threadIdx.y, threadIdx.z}; }
  static dim3 group_dim() { return dim_threads(); }
  static dim3 dim_threads() { return {blockDim.x, blockDim.y, blockDim.z}; }
};
inline thread_block this_thread_block() { return {}; }

class cluster_group {
 public:
  struct arrival_token {};
  void sync(GPE_PLACE) const {
    __cluster_barrier_arrive(file, line);
    __cluster_barrier_wait(file, line);
  }
  arrival_token barrier_arrive(GPE_PLACE) const {
    __cluster_barrier_arrive(file, line);
    return {};
  }
  void barrier_wait(GPE_PLACE) const { __cluster_barrier_wait(file, line); }
  void barrier_wait(arrival_token&&, GPE_PLACE) const { __cluster_barrier_wait(file, line); }
  template <class T>
  T* map_shared_rank(T* address, int rank, GPE_PLACE) const {
    return static_cast<T*>(__cluster_map_shared_rank(address, rank, file, line));
  }
  unsigned query_shared_rank(const void* address, GPE_PLACE) const {
    return __cluster_query_shared_rank(address, file, line);
  }
  static dim3 block_index() { return __clusterRelativeBlockIdx(); }
  static unsigned block_rank() { return __clusterRelativeBlockRank(); }
  static dim3 dim_blocks() { return __clusterDim(); }
  static unsigned num_blocks() { return __clusterSizeInBlocks(); }
  static unsigned thread_rank() { return block_rank() * thread_block::num_threads() + thread_block::thread_rank(); }
  static unsigned num_threads() { return num_blocks() * thread_block::num_threads(); }
  static unsigned size() { return num_threads(); }
};
inline cluster_group this_cluster() { return {}; }

class grid_group {
 public:
  static constexpr bool is_valid() { return false; }  // not launched so that all its blocks run side by side
  template <class T = void>
  void sync() const {
    static_assert(!sizeof(T*), "a barrier of the whole grid is not emulated: split the kernel there, in two launches");
  }
  static unsigned long long thread_rank() {
    return block_rank() * thread_block::num_threads() + thread_block::thread_rank();
  }
  static unsigned long long block_rank() {
    return (blockIdx.z * 1ull * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  }
  static unsigned long long num_blocks() { return gridDim.x * 1ull * gridDim.y * gridDim.z; }
  static unsigned long long num_threads() { return num_blocks() * thread_block::num_threads(); }
  static unsigned long long size() { return num_threads(); }
  static dim3 group_dim() { return dim_blocks(); }
  static dim3 dim_blocks() { return {gridDim.x, gridDim.y, gridDim.z}; }
  static dim3 block_index() { return thread_block::group_index(); }
};
inline grid_group this_grid() { return {}; }

inline void sync(const thread_block& group, GPE_PLACE) { group.sync(file, line); }
inline void sync(const cluster_group& group, GPE_PLACE) { group.sync(file, line); }
template <class Group>
unsigned thread_rank(const Group& group) {
  return group.thread_rank();
}
}  // namespace cooperative_groups

#include <gpuprop_emulator/tiles.h>
