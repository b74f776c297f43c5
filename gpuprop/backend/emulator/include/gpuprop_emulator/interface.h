// What a compiled kernel file and the runtime library know of each other. Plain C names, so that neither depends on the
// other's compiler flags.
#pragma once
#include <cstdint>
#include <vector_types.h>

namespace gpe {

struct ThreadState {
  uint3 index;    // threadIdx
  unsigned lane;  // 0..31 within the warp
};

// What the built-in variables read. One launch runs at a time, one block or cluster of blocks after another.
struct LaunchState {
  const ThreadState* thread;  // the thread that is running
  uint3 block;
  dim3 block_dim, grid_dim;
  void* dynamic_shared;
  unsigned dynamic_bytes;
  dim3 cluster_dim;       // in blocks
  unsigned cluster_rank;  // of the block in its cluster
};

enum BarrierKind { BARRIER_PLAIN, BARRIER_AND, BARRIER_OR, BARRIER_COUNT };

// The operations a warp performs together. Lanes that meet with different ones have diverged.
enum CollectiveKind {
  SYNC_WARP = 1,
  SHUFFLE,
  SHUFFLE_UP,
  SHUFFLE_DOWN,
  SHUFFLE_XOR,
  VOTE,
  MATCH,
  REDUCE,
  MATRIX_LOAD,
  MATRIX_STORE,
  MATRIX_MULTIPLY,
  MATRIX_ROWS
};
enum { SLOT = 48 };  // bytes a lane can deposit, a multiple of 16

enum FenceScope { FENCE_BLOCK = 1, FENCE_DEVICE, FENCE_SYSTEM };

// A cluster's size in blocks, as __cluster_dims__ gives it.
struct ClusterDims {
  unsigned x = 1, y = 1, z = 1;
};

// One kernel of a file, as the launcher sees it.
struct KernelEntry {
  void (*run)(void** arguments);
  const char* signature;  // one code for each parameter, see kernel_table.h
  const unsigned* sizes;
  unsigned parameters;
  unsigned most_threads;  // of its __launch_bounds__, 0 without
  ClusterDims cluster;
};

}  // namespace gpe

#pragma GCC visibility push(default)
extern "C" {
extern gpe::LaunchState gpe_now;

void gpe_barrier(int kind, int* value, const char* file, int line);

// Deposits `value`, waits for the other lanes of `mask`, and returns what each lane deposited: 32 slots of SLOT bytes,
// which stay as they are until the caller waits again.
// `present` receives the lanes that took part.
const char* gpe_collective(unsigned mask, const void* value, unsigned bytes, int kind, unsigned* present,
                           const char* file, int line);

void gpe_touch(const void* address, unsigned bytes, int is_write, const char* file,
               int line);  // an access the shim makes itself
void gpe_read_matrix_row(const void* address, const char* file, int line);  // 16 bytes of shared memory
void gpe_atomic(void* address, unsigned bytes, const char* file, int line);
void gpe_fence(int scope);

void gpe_cluster_arrive(const char* file, int line);
void gpe_cluster_wait(const char* file, int line);
// The address in the shared memory of the cluster's block `rank` that `address` is in this block's.
void* gpe_cluster_map(const void* address, unsigned rank, const char* file, int line);
unsigned gpe_cluster_rank_of(const void* address, const char* file, int line);

void gpe_copy_async(void* to, const void* from, unsigned bytes, unsigned zero_fill, const char* file, int line);
void gpe_copy_commit();
void gpe_copy_wait(unsigned newest_in_flight);

void gpe_warn(const char* kind, const char* text, const char* file, int line);  // report and go on
[[noreturn]] void gpe_stop(const char* kind, const char* text, const char* file,
                           int line);  // report and end the launch
int gpe_printf(const char* format, ...) __attribute__((format(printf, 1, 2)));
long long gpe_clock();
}
#pragma GCC visibility pop
