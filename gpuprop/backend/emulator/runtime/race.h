// Happens-before. Within a block, barriers order all threads; within a warp, __syncwarp orders its lanes (shuffles do
// not order memory); across the blocks of a cluster, its barriers do; across any, a fence before an atomic releases what
// the block did, and an atomic on the same address acquires it.
#pragma once
#include <cstdint>

#include "scheduler.h"

namespace gpe {

constexpr uint32_t NOBODY = ~0u, SEVERAL = ~0u - 1, MANY_BLOCKS = ~0u;

struct Write {
  uint32_t block, thread;    // thread: NOBODY when never written
  uint32_t barriers, clock;  // of the writer when it wrote
};

// The reads since the last write: those of one warp by lane, of several warps or blocks as a flag. Where several blocks
// of a cluster read, block is MANY_BLOCKS, lanes the cluster's number, barriers the cluster barriers before the last read.
struct Reads {
  uint32_t block, warp;  // warp: NOBODY, a warp, or SEVERAL
  uint32_t lanes;
  uint32_t barriers, clock;
};

// What happened to a few bytes.
struct Cell {
  Write write;
  Reads reads;
  uint32_t read_in_period;  // of the last thread that read it since the last write, 0 for none: reading again changes
                            // nothing
  bool written_atomically, written_volatile, read_plainly, initialised, in_flight, read_by_unordered_blocks;
  uint8_t written_late, read_late;  // a mark where it was between arriving at a cluster barrier and waiting for it
};
inline Cell fresh_cell(bool initialised) {
  return {{0, NOBODY, 0, 0}, {0, NOBODY, 0, 0, 0}, 0, false, false, false, initialised, false, false, 0, 0};
}

// Whether this block has acquired what another one released: a write, or all it did.
bool acquired_write(const Write& write);
bool acquired_block(uint32_t block);
// Whether the running block has acquired every block before it.
bool acquired_all();

// Whether a cluster barrier orders before `me` what a thread of another block of its cluster did when that had passed
// so many block barriers; `late` as in Cell.
bool ordered_by_cluster(const Thread& me, uint32_t block, uint32_t barriers, uint8_t late);
bool reads_ordered_by_cluster(const Thread& me, const Reads& reads, uint8_t late);
// Notes that this thread's block reads beside others of its cluster. False where the reads before are of no such block.
bool join_cluster_reads(const Thread& me, Cell& cell);
bool in_cluster(uint32_t block);
// A cluster barrier: what one of its blocks acquired, all have.
void share_acquired();

inline uint32_t this_block() { return static_cast<uint32_t>(schedule.block_number); }

inline bool ordered_after(const Thread& me, const Cell& cell) {
  const Write& write = cell.write;
  if (write.thread == NOBODY) return true;
  if (write.block != this_block())
    return acquired_write(write) || ordered_by_cluster(me, write.block, write.barriers, cell.written_late);
  if (write.barriers < me.barriers || write.thread == me.number) return true;
  return write.thread / 32 == me.warp && write.clock <= me.clock[write.thread % 32];
}

// Whether the other lanes' reads, all of one warp and since the last block barrier, come before what this thread does
// now.
inline bool after_lanes(const Thread& me, const Reads& reads) {
  const uint32_t others = reads.lanes & ~(1u << me.state.lane);
  if (!others) return true;
  if (reads.clock >= me.clock[me.state.lane]) return false;  // no __syncwarp since
  for (uint32_t rest = others; rest; rest &= rest - 1)
    if (me.clock[__builtin_ctz(rest)] < reads.clock) return false;
  return true;
}

inline bool after_other_block(const Thread& me, const Cell& cell) {
  const Reads& reads = cell.reads;
  if (reads.block != MANY_BLOCKS && acquired_block(reads.block)) return true;
  return reads_ordered_by_cluster(me, reads, cell.read_late);
}

// Whether this thread's write comes after all reads of the cell.
inline bool ordered_after_reads(const Thread& me, const Cell& cell) {
  const Reads& reads = cell.reads;
  if (cell.read_by_unordered_blocks && !acquired_all()) return false;
  if (reads.warp == NOBODY) return true;
  if (reads.block != this_block()) return after_other_block(me, cell);
  if (reads.barriers < me.barriers) return true;
  return reads.warp == me.warp && after_lanes(me, reads);
}

inline void note_read(const Thread& me, Cell& cell) {
  Reads& reads = cell.reads;
  if (reads.warp != NOBODY && reads.block == this_block() && reads.barriers == me.barriers) {
    if (me.late) cell.read_late = me.late;
    if (reads.warp != me.warp) {
      reads.warp = SEVERAL;
      return;
    }
    if (!after_lanes(me, reads)) {
      reads.lanes |= 1u << me.state.lane;
      if (me.clock[me.state.lane] < reads.clock) reads.clock = me.clock[me.state.lane];
      return;
    }
  } else if (reads.warp != NOBODY && reads.block != this_block() && !after_other_block(me, cell)) {
    if (join_cluster_reads(me, cell)) return;
    cell.read_by_unordered_blocks = true;
  }
  reads = {this_block(), me.warp, 1u << me.state.lane, me.barriers, me.clock[me.state.lane]};
  cell.read_late = me.late;
}

inline void note_write(const Thread& me, Cell& cell) {
  cell.write = {this_block(), me.number, me.barriers, me.clock[me.state.lane]};
  cell.reads.warp = NOBODY;
  cell.read_in_period = 0;
  cell.written_late = me.late;
  cell.read_by_unordered_blocks = false;
}

// Order across blocks.
void begin_launch_order(uint64_t blocks);
void begin_block_order(unsigned rank);
void release_and_acquire(const Thread& me, const void* address);

}  // namespace gpe
