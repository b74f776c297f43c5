#include "race.h"

#include <algorithm>
#include <bitset>
#include <unordered_map>
#include <vector>

#include "cluster.h"

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
// By a block that runs.
struct Acquired {
  Blocks blocks;
  uint64_t count = 0;
};
std::vector<Acquired> by_rank(1);
Acquired& mine() { return by_rank[cluster.running]; }

}  // namespace

bool acquired_write(const Write& write) {
  if (!fences_used || !mine().blocks[write.block]) return false;
  const Released& from = released[write.block];
  return write.barriers < from.barriers || from.threads[write.thread];
}
bool acquired_block(uint32_t block) { return fences_used && mine().blocks[block]; }
bool acquired_all() { return mine().count + 1 >= blocks_begun; }

void begin_launch_order(uint64_t blocks) {
  block_count = blocks;
  blocks_begun = 0;
  fences_used = false;
  released.clear();
  released_at.clear();
  by_rank.resize(cluster.size);
}

void begin_block_order(unsigned rank) {
  blocks_begun++;
  by_rank[rank].count = 0;
  if (fences_used) by_rank[rank].blocks.assign(block_count, false);
}

void release_and_acquire(const Thread& me, const void* address) {
  if (me.fenced && !fences_used) {
    fences_used = true;
    for (Acquired& acquired : by_rank) acquired.blocks.assign(block_count, false);
  }
  if (!fences_used) return;
  Blocks& here = released_at[address];
  if (here.empty()) here.assign(block_count, false);
  for (uint64_t i = 0; i < block_count; i++)
    if (here[i] && !mine().blocks[i] && i != this_block()) {
      mine().blocks[i] = true;
      mine().count++;
    }
  if (!me.fenced) return;
  Released& now = released[this_block()];
  now.barriers = std::max(now.barriers, me.barriers);
  now.threads[me.number] = true;
  here[this_block()] = true;
  for (uint64_t i = 0; i < block_count; i++)
    if (mine().blocks[i]) here[i] = true;
}

void share_acquired() {
  if (!fences_used || cluster.size == 1) return;
  for (uint64_t i = 0; i < block_count; i++) {
    const bool known = std::any_of(by_rank.begin(), by_rank.end(), [i](const Acquired& a) { return a.blocks[i]; });
    if (!known) continue;
    for (unsigned rank = 0; rank < cluster.size; rank++)
      if (Acquired& its = by_rank[rank]; !its.blocks[i] && cluster.blocks[rank].number != i) {
        its.blocks[i] = true;
        its.count++;
      }
  }
}

}  // namespace gpe
