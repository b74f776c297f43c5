// Happens-before. Within a block, barriers order all threads; within a warp, __syncwarp orders its lanes (shuffles do
// not order memory); across blocks, a fence before an atomic releases what the block did, and an atomic on the same
// address acquires it.
#pragma once
#include <cstdint>

#include "scheduler.h"

namespace gpe {

constexpr uint32_t NOBODY = ~0u, SEVERAL = ~0u - 1;

struct Write {
  uint32_t block, thread;    // thread: NOBODY when never written
  uint32_t barriers, clock;  // of the writer when it wrote
};

// The reads since the last write: those of one warp by lane, of several warps or blocks as a flag.
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
};
inline Cell fresh_cell(bool initialised) {
  return {{0, NOBODY, 0, 0}, {0, NOBODY, 0, 0, 0}, 0, false, false, false, initialised, false, false};
}

// Whether this block has acquired what another one released: a write, or all it did.
bool acquired_write(const Write& write);
bool acquired_block(uint32_t block);
// Whether the running block has acquired every block before it.
bool acquired_all();

inline uint32_t this_block() { return static_cast<uint32_t>(schedule.block_number); }

inline bool ordered_after(const Thread& me, const Write& write) {
  if (write.thread == NOBODY) return true;
  if (write.block != this_block()) return acquired_write(write);
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

// Whether this thread's write comes after all reads of the cell.
inline bool ordered_after_reads(const Thread& me, const Cell& cell) {
  const Reads& reads = cell.reads;
  if (cell.read_by_unordered_blocks && !acquired_all()) return false;
  if (reads.warp == NOBODY) return true;
  if (reads.block != this_block()) return acquired_block(reads.block);
  if (reads.barriers < me.barriers) return true;
  return reads.warp == me.warp && after_lanes(me, reads);
}

inline void note_read(const Thread& me, Cell& cell) {
  Reads& reads = cell.reads;
  if (reads.warp != NOBODY && reads.block == this_block() && reads.barriers == me.barriers) {
    if (reads.warp != me.warp) {
      reads.warp = SEVERAL;
      return;
    }
    if (!after_lanes(me, reads)) {
      reads.lanes |= 1u << me.state.lane;
      if (me.clock[me.state.lane] < reads.clock) reads.clock = me.clock[me.state.lane];
      return;
    }
  } else if (reads.warp != NOBODY && reads.block != this_block() && !acquired_block(reads.block)) {
    cell.read_by_unordered_blocks = true;
  }
  reads = {this_block(), me.warp, 1u << me.state.lane, me.barriers, me.clock[me.state.lane]};
}

inline void note_write(const Thread& me, Cell& cell) {
  cell.write = {this_block(), me.number, me.barriers, me.clock[me.state.lane]};
  cell.reads.warp = NOBODY;
  cell.read_in_period = 0;
  cell.read_by_unordered_blocks = false;
}

// Order across blocks.
void begin_launch_order(uint64_t blocks);
void begin_block_order();
void release_and_acquire(const Thread& me, const void* address);

}  // namespace gpe
