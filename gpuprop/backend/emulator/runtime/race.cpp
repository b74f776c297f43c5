#include "race.h"

#include <bitset>
#include <unordered_map>
#include <vector>

namespace gpe {
namespace {

// What a block had done when it released: everything before its barrier number `barriers`, and all of some threads.
struct Released {
  uint32_t barriers = 0;
  std::bitset<MAX_THREADS> threads;
};
using Blocks = std::vector<bool>;

uint64_t block_count, blocks_begun;
bool fences_used;
std::unordered_map<uint32_t, Released> released;
std::unordered_map<const void*, Blocks> released_at;  // which blocks an atomic on this address acquires
Blocks acquired;                                      // by the running block
uint64_t acquired_count;

}  // namespace

bool acquired_write(const Write& write) {
  if (!fences_used || !acquired[write.block]) return false;
  const Released& from = released[write.block];
  return write.barriers < from.barriers || from.threads[write.thread];
}
bool acquired_block(uint32_t block) { return fences_used && acquired[block]; }
bool acquired_all() { return acquired_count + 1 >= blocks_begun; }

void begin_launch_order(uint64_t blocks) {
  block_count = blocks;
  blocks_begun = 0;
  fences_used = false;
  released.clear();
  released_at.clear();
}

void begin_block_order() {
  blocks_begun++;
  acquired_count = 0;
  if (fences_used) acquired.assign(block_count, false);
}

void release_and_acquire(const Thread& me, const void* address) {
  if (me.fenced && !fences_used) {
    fences_used = true;
    acquired.assign(block_count, false);
  }
  if (!fences_used) return;
  Blocks& here = released_at[address];
  if (here.empty()) here.assign(block_count, false);
  for (uint64_t i = 0; i < block_count; i++)
    if (here[i] && !acquired[i] && i != this_block()) {
      acquired[i] = true;
      acquired_count++;
    }
  if (!me.fenced) return;
  Released& mine = released[this_block()];
  mine.barriers = std::max(mine.barriers, me.barriers);
  mine.threads[me.number] = true;
  here[this_block()] = true;
  for (uint64_t i = 0; i < block_count; i++)
    if (acquired[i]) here[i] = true;
}

}  // namespace gpe
