// The blocks that run side by side: one, or those of a cluster. Their threads take turns, a block at a time. The block
// that runs has its shared memory where the kernel's library has it; what the others hold is set aside, and that is
// where they are reached from another block.
#pragma once
#include <vector>

#include "launch.h"
#include "scheduler.h"

namespace gpe {

struct Block {
  uint64_t number = 0;
  uint3 index{};
  unsigned alive = 0, waiting = 0;  // as in Schedule, while another block runs
  uint32_t arrived_in = 0;          // the cluster barrier that its threads last arrived at, from 1 on, and where
  const char* file = "";
  int line = 0;
  uint32_t ordered[2] = {};  // how many block barriers its threads had passed at the last two cluster barriers
  // The last access of another block to its shared memory.
  const Thread* reader = nullptr;
  Place place{};
  uint32_t read_in = 0;  // after that many cluster barriers
};

struct Cluster {
  unsigned size = 1;     // blocks
  unsigned running = 0;  // rank of the block that runs
  uint64_t number = 0;
  std::vector<Block> blocks;
  std::vector<Thread> threads;      // of all blocks
  unsigned alive = 0, arrived = 0;  // threads; at the next barrier
  uint32_t barriers = 0;            // that all threads have arrived at
};
extern Cluster cluster;

const Block& block_of(const Thread& thread);

// Memory for the blocks' shared memory beside the one that runs. False when there is none.
bool begin_clusters(const Launch& launch, void* dynamic_shared);
void end_clusters();
// The shared memory that is set aside: of range `part` (the dynamic one last) of the block of that rank.
char* set_aside(unsigned part, unsigned rank);
// New threads, and shared memory filled with ones, for the blocks of cluster `number` of the launch.
void begin_cluster(const Launch& launch, uint64_t number);
// Makes the block of that rank the one that runs.
void select_block(unsigned rank);
// The running thread, the last of its block perhaps, is done.
void leave_cluster(const Thread& me);

}  // namespace gpe
