#include "cluster.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "checker.h"

namespace gpe {

Cluster cluster;

namespace {

// A __shared__ variable, or the dynamic shared memory: where the running block has it, and what the others hold.
struct Part {
  char* live;
  size_t bytes;
  std::vector<char*> aside;
};
std::vector<Part> parts;
uint32_t dims[3];
constexpr size_t ALIGNMENT = 128, GAP = 256;

// Without the compiler's own functions, which AddressSanitizer checks: a range may include its gaps.
#ifdef GPE_ASAN
__attribute__((no_sanitize("address")))
#endif
void copy_bytes(char* to, const char* from, size_t bytes) {
#ifdef GPE_ASAN
  for (size_t i = 0; i < bytes; i++) const_cast<volatile char*>(to)[i] = from[i];
#else
  memcpy(to, from, bytes);
#endif
}

bool add_part(void* live, size_t bytes) {
  if (bytes == 0) return true;
  Part part{static_cast<char*>(live), bytes, {}};
  const size_t offset = reinterpret_cast<uintptr_t>(live) % ALIGNMENT;
  for (unsigned rank = 0; rank < cluster.size; rank++) {
    void* memory = aligned_alloc(ALIGNMENT, (offset + bytes + GAP + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    if (!memory) return false;
    part.aside.push_back(static_cast<char*>(memory) + offset);
  }
  parts.push_back(std::move(part));
  return true;
}

void begin_thread(Thread& thread) {
  thread.status = Status::ready;
  thread.file = "";
  thread.line = 0;
  thread.barriers = 0;
  thread.cluster_barriers = 0;
  thread.late = 0;
  thread.arrived = false;
  thread.fenced = false;
  thread.atomics_in_a_row = 0;
  if (!thread.copies.empty()) thread.copies.clear();
  thread.period = ++schedule.periods;
  if (!checking()) return;
  memset(thread.clock, 0, sizeof thread.clock);
  thread.clock[thread.state.lane] = 1;
}

// Which of the cluster's blocks has this number, or null.
const Block* find_block(uint64_t number) {
  for (const Block& block : cluster.blocks)
    if (block.number == number) return &block;
  return nullptr;
}

// Marks accesses between arriving at barrier `number` and waiting for it. 0 is no mark.
uint8_t mark_of(uint32_t number) { return static_cast<uint8_t>(number % 255 + 1); }

void complete_barrier() {
  if (cluster.alive == 0 || cluster.arrived < cluster.alive) return;
  cluster.barriers++;
  cluster.arrived = 0;
  for (unsigned rank = 0; rank < cluster.size; rank++)
    cluster.blocks[rank].ordered[cluster.barriers & 1] = count_barrier(rank);
  for (Thread& thread : cluster.threads)
    if (thread.status == Status::at_cluster) thread.status = Status::ready;
  if (checking()) share_acquired();
}

// What a block still held when it ended may have been read afterwards, unless a cluster barrier lies between.
void end_block(Block& block) {
  uint32_t passed = 0;
  for (unsigned i = 0; i < schedule.size; i++) passed = std::max(passed, schedule.threads[i].cluster_barriers);
  if (!block.reader || block.read_in < passed) return;
  add_report("exited block", block.reader, block.place,
             format("access to shared memory of block (%u,%u,%u), which may have ended: no cluster barrier between "
                    "this and its end",
                    block.index.x, block.index.y, block.index.z));
}

[[noreturn]] void stop(const char* kind, const char* file, int line, const std::string& text) {
  add_report(kind, schedule.current, at(file, line), text);
  abandon();
}

Part* part_of(const char* address) {
  for (Part& part : parts)
    if (address >= part.live && address <= part.live + part.bytes) return &part;
  return nullptr;
}
}  // namespace

const Block& block_of(const Thread& thread) {
  return cluster.blocks[static_cast<size_t>(&thread - cluster.threads.data()) / schedule.size];
}

bool begin_clusters(const Launch& launch, void* dynamic_shared) {
  std::copy(launch.cluster, launch.cluster + 3, dims);
  cluster.size = dims[0] * dims[1] * dims[2];
  cluster.running = 0;
  cluster.blocks.assign(cluster.size, Block{});
  schedule.size = launch.block[0] * launch.block[1] * launch.block[2];
  if (cluster.threads.size() < schedule.size * cluster.size) cluster.threads.reserve(schedule.size * cluster.size);
  cluster.threads.resize(schedule.size * cluster.size);
  for (unsigned i = 0; i < cluster.threads.size(); i++) {
    Thread& thread = cluster.threads[i];
    const unsigned number = i % schedule.size;
    thread.state = {position(number, launch.block), number % 32};
    thread.fiber.stack = stack_of(i);
    thread.number = number;
    thread.warp = number / 32;
  }
  schedule.threads = cluster.threads.data();
  if (cluster.size == 1) return true;
  for (uint32_t i = 0; i < launch.range_count; i++)
    if (launch.ranges[i].space == SHARED)
      if (!add_part(reinterpret_cast<char*>(module_base() + launch.ranges[i].address), launch.ranges[i].bytes))
        return false;
  return add_part(dynamic_shared, launch.dynamic_bytes);
}

void end_clusters() {
  for (const Part& part : parts)
    for (char* memory : part.aside) free(memory - reinterpret_cast<uintptr_t>(memory) % ALIGNMENT);
  parts.clear();
}

char* set_aside(unsigned part, unsigned rank) { return parts[part].aside[rank]; }

void begin_cluster(const Launch& launch, uint64_t number) {
  select_block(0);
  const uint32_t clusters[] = {launch.grid[0] / dims[0], launch.grid[1] / dims[1], launch.grid[2] / dims[2]};
  const uint3 first = position(number, clusters);
  for (unsigned rank = 0; rank < cluster.size; rank++) {
    const uint3 inside = position(rank, dims);
    Block& block = cluster.blocks[rank] = Block{};
    block.index = {first.x * dims[0] + inside.x, first.y * dims[1] + inside.y, first.z * dims[2] + inside.z};
    block.number = (uint64_t(block.index.z) * launch.grid[1] + block.index.y) * launch.grid[0] + block.index.x;
    block.alive = schedule.size;
    for (const Part& part : parts) memset(part.aside[rank], 0xff, part.bytes);
  }
  cluster.number = number;
  cluster.alive = schedule.size * cluster.size;
  cluster.arrived = cluster.barriers = 0;
  for (Thread& thread : cluster.threads) begin_thread(thread);
  schedule.block_number = cluster.blocks[0].number;
  schedule.alive = schedule.size;
  schedule.waiting = 0;
  gpe_now.block = cluster.blocks[0].index;
}

void select_block(unsigned rank) {
  if (rank == cluster.running) return;
  Block &before = cluster.blocks[cluster.running], &now = cluster.blocks[rank];
  before.alive = schedule.alive, before.waiting = schedule.waiting;
  schedule.alive = now.alive, schedule.waiting = now.waiting;
  schedule.block_number = now.number;
  schedule.threads = &cluster.threads[size_t(rank) * schedule.size];
  gpe_now.block = now.index;
  gpe_now.cluster_rank = rank;
  for (Part& part : parts) {
    copy_bytes(part.aside[cluster.running], part.live, part.bytes);
    copy_bytes(part.live, part.aside[rank], part.bytes);
  }
  if (checking()) exchange_checks(cluster.running, rank);
  cluster.running = rank;
}

void leave_cluster(const Thread& me) {
  cluster.alive--;
  if (me.arrived) cluster.arrived--;
  if (cluster.size == 1) return;
  if (schedule.alive == 0 && checking()) end_block(cluster.blocks[cluster.running]);
  complete_barrier();
}

bool ordered_by_cluster(const Thread& me, uint32_t block, uint32_t barriers, uint8_t late) {
  const Block* other = cluster.size > 1 ? find_block(block) : nullptr;
  if (!other || barriers >= other->ordered[me.cluster_barriers & 1]) return false;
  return late == 0 || late != mark_of(me.cluster_barriers) || barriers < other->ordered[~me.cluster_barriers & 1];
}

bool reads_ordered_by_cluster(const Thread& me, const Reads& reads, uint8_t late) {
  if (reads.block != MANY_BLOCKS) return ordered_by_cluster(me, reads.block, reads.barriers, late);
  return reads.lanes == static_cast<uint32_t>(cluster.number) && reads.barriers < me.cluster_barriers;
}

bool join_cluster_reads(const Thread& me, Cell& cell) {
  Reads& reads = cell.reads;
  const auto number = static_cast<uint32_t>(cluster.number);
  uint32_t newest = me.cluster_barriers + me.arrived;
  if (cluster.size == 1) return false;
  if (reads.block == MANY_BLOCKS) {
    if (reads.lanes != number) return false;
    newest = std::max(newest, reads.barriers);
  } else {
    if (!find_block(reads.block)) return false;
    newest = std::max(newest, cluster.barriers + (cell.read_late != 0));
  }
  reads = {MANY_BLOCKS, SEVERAL, number, newest, 0};
  return true;
}

bool in_cluster(uint32_t block) { return cluster.size > 1 && (block == MANY_BLOCKS || find_block(block)); }

}  // namespace gpe

using namespace gpe;

extern "C" {

void gpe_cluster_arrive(const char* file, int line) {
  Thread& me = *schedule.current;
  Block& block = cluster.blocks[cluster.running];
  if (me.arrived) stop("cluster barrier", file, line, "this thread arrives again before it has waited");
  if (block.arrived_in != cluster.barriers + 1)
    block.arrived_in = cluster.barriers + 1, block.file = file, block.line = line;
  else if (block.line != line || strcmp(block.file, file))
    stop("barrier divergence", file, line,
         format("this thread is at the cluster's barrier here, others of its block arrived at line %d", block.line));
  me.arrived = true;
  me.late = mark_of(me.cluster_barriers + 1);
  me.period = ++schedule.periods;
  cluster.arrived++;
  complete_barrier();
}

void gpe_cluster_wait(const char* file, int line) {
  Thread& me = *schedule.current;
  if (!me.arrived) stop("cluster barrier", file, line, "this thread waits without having arrived");
  if (cluster.barriers == me.cluster_barriers) wait(me, Status::at_cluster, file, line);
  me.arrived = false;
  me.late = 0;
  me.cluster_barriers++;
  me.barriers = std::max(me.barriers, cluster.blocks[cluster.running].ordered[me.cluster_barriers & 1]);
  me.period = ++schedule.periods;
}

void* gpe_cluster_map(const void* address, unsigned rank, const char* file, int line) {
  auto* at = static_cast<char*>(const_cast<void*>(address));
  if (rank >= cluster.size)
    stop("cluster rank", file, line,
         format("rank %d of a cluster of %u block%s: ranks are 0 to %u", static_cast<int>(rank), cluster.size,
                cluster.size == 1 ? "" : "s", cluster.size - 1));
  if (rank == cluster.running) return at;
  Part* part = part_of(at);
  if (!part) stop("cluster rank", file, line, "the address is not in the block's own shared memory");
  return part->aside[rank] + (at - part->live);
}

unsigned gpe_cluster_rank_of(const void* address, const char* file, int line) {
  auto* at = static_cast<const char*>(address);
  if (cluster.size == 1 || part_of(at)) return cluster.running;
  for (const Part& part : parts)
    for (unsigned rank = 0; rank < cluster.size; rank++)
      if (at >= part.aside[rank] && at <= part.aside[rank] + part.bytes) return rank;
  stop("cluster rank", file, line, "the address is in no block's shared memory");
}

}  // extern "C"
