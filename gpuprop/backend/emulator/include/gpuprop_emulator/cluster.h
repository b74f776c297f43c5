// Clusters of blocks: the compiler's built-in functions for sm_90, on which cooperative_groups::this_cluster() rests.
#pragma once

namespace {
GPE_UNCHECKED inline dim3 __clusterDim() { return gpe_now.cluster_dim; }
GPE_UNCHECKED inline unsigned __clusterSizeInBlocks() {
  return gpe_now.cluster_dim.x * gpe_now.cluster_dim.y * gpe_now.cluster_dim.z;
}
GPE_UNCHECKED inline unsigned __clusterRelativeBlockRank() { return gpe_now.cluster_rank; }
GPE_UNCHECKED inline dim3 __clusterRelativeBlockIdx() {
  const dim3 size = gpe_now.cluster_dim;
  return {gpe_now.block.x % size.x, gpe_now.block.y % size.y, gpe_now.block.z % size.z};
}
GPE_UNCHECKED inline dim3 __clusterIdx() {
  const dim3 size = gpe_now.cluster_dim;
  return {gpe_now.block.x / size.x, gpe_now.block.y / size.y, gpe_now.block.z / size.z};
}
GPE_UNCHECKED inline dim3 __clusterGridDimInClusters() {
  const dim3 size = gpe_now.cluster_dim, grid = gpe_now.grid_dim;
  return {grid.x / size.x, grid.y / size.y, grid.z / size.z};
}
inline void __cluster_barrier_arrive(GPE_PLACE) { gpe_cluster_arrive(file, line); }
inline void __cluster_barrier_wait(GPE_PLACE) { gpe_cluster_wait(file, line); }
inline void* __cluster_map_shared_rank(const void* address, unsigned rank, GPE_PLACE) {
  return gpe_cluster_map(address, rank, file, line);
}
inline unsigned __cluster_query_shared_rank(const void* address, GPE_PLACE) {
  return gpe_cluster_rank_of(address, file, line);
}
}  // namespace
