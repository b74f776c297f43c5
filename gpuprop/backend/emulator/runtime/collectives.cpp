// Block barriers and warp collectives: who waits for whom, and who can never meet.
#include <algorithm>
#include <cstring>
#include <memory>

#include "cluster.h"
#include "launch.h"
#include "scheduler.h"

namespace gpe {
namespace {

struct Barrier {
  const char* file;
  int line;
  int kind;
  int result[2];  // of this barrier and the one before, whose value some threads may not have read yet
};

// One meeting of lanes. It collects until all have arrived, and is free again when all have read.
struct Collective {
  unsigned mask, needed, arrived, unread;
  int kind;
  const char* file;
  int line;
  alignas(16) char slots[32][SLOT];
  bool collecting() const { return arrived && !unread; }
  bool idle() const { return !arrived && !unread; }
};
// Where the threads of a block meet.
struct Meetings {
  Barrier barrier;
  uint32_t barriers_released;
  // A lane is in one meeting at a time, so a warp never has more than 32.
  Collective of_warp[MAX_THREADS / 32][33];
  unsigned used[MAX_THREADS / 32];
};
std::vector<std::unique_ptr<Meetings>> of_block;
inline Meetings& here() { return *of_block[cluster.running]; }

const char* name_of_kind(int kind) {
  static const char* const names[] = {
      "",       "__syncwarp", "__shfl_sync", "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync",
      "a vote", "__match",    "__reduce",    "wmma load",      "wmma store",       "a product of matrices",
      "ldmatrix"};
  return names[kind];
}
// By CUDA's documentation these are for the lanes of the mask that have not exited; the others need every lane's value.
bool skips_exited(int kind) { return kind == SYNC_WARP || kind == VOTE; }

template <class F>
unsigned lanes_where(unsigned warp, F condition) {
  unsigned result = 0;
  for (unsigned lane = 0; lane < 32 && warp * 32 + lane < schedule.size; lane++)
    if (condition(schedule.threads[warp * 32 + lane])) result |= 1u << lane;
  return result;
}
unsigned existing(unsigned warp) {
  return lanes_where(warp, [](const Thread&) { return true; });
}
unsigned exited(unsigned warp) {
  return lanes_where(warp, [](const Thread& t) { return t.status == Status::done; });
}

// After __syncwarp each lane knows what the others did before it. Equal clocks in all of them mark the new period.
void join_clocks(unsigned warp, unsigned lanes) {
  uint32_t known[32] = {}, newest = 0;
  Thread* first = &schedule.threads[warp * 32];
  for (unsigned i = 0; i < 32; i++)
    if (lanes >> i & 1) {
      for (unsigned k = 0; k < 32; k++) known[k] = std::max(known[k], first[i].clock[k]);
      newest = std::max(newest, first[i].clock[i]);
    }
  for (unsigned i = 0; i < 32; i++)
    if (lanes >> i & 1) {
      memcpy(first[i].clock, known, sizeof known);
      first[i].clock[i] = newest + 1;
      first[i].period = ++schedule.periods;
    }
}

void complete(Collective& meeting, unsigned warp) {
  meeting.needed = meeting.arrived;
  meeting.unread = meeting.arrived;
  meeting.arrived = 0;
  if (meeting.kind == SYNC_WARP && checking()) join_clocks(warp, meeting.needed);
  for (unsigned i = 0; i < 32; i++)
    if (meeting.needed >> i & 1 && schedule.threads[warp * 32 + i].status == Status::in_warp)
      schedule.threads[warp * 32 + i].status = Status::ready;
}

[[noreturn]] void stop(const char* kind, const Thread& thread, const char* file, int line, const std::string& text) {
  add_report(kind, &thread, at(file, line), text);
  abandon();
}

void refuse_exited(const Thread& me, const Collective& meeting) {
  if (const unsigned gone = exited(me.warp) & meeting.mask; gone && !skips_exited(meeting.kind))
    stop("exited lane", me, meeting.file, meeting.line,
         format("%s: the mask 0x%08x names lane %d, which has exited: its value is undefined",
                name_of_kind(meeting.kind), meeting.mask, __builtin_ctz(gone)));
}

Collective& meeting_for(Thread& me, unsigned mask, int kind, const char* file, int line) {
  Collective* all = here().of_warp[me.warp];
  unsigned& used = here().used[me.warp];
  Collective* free_slot = nullptr;
  for (unsigned i = 0; i < used; i++) {
    if (all[i].collecting() && all[i].mask == mask) {
      if (all[i].kind != kind || all[i].line != line || strcmp(all[i].file, file))
        stop("warp divergence", me, file, line,
             format("this lane calls %s here while other lanes of mask 0x%08x wait at line %d (%s)", name_of_kind(kind),
                    mask, abs(all[i].line), name_of_kind(all[i].kind)));
      return all[i];
    }
    if (all[i].idle() && !free_slot) free_slot = &all[i];
  }
  if (!free_slot) free_slot = &all[used++];
  free_slot->mask = mask, free_slot->needed = mask & existing(me.warp);
  free_slot->arrived = free_slot->unread = 0;
  free_slot->kind = kind, free_slot->file = file, free_slot->line = line;
  return *free_slot;
}

std::string where(const Thread& thread) {
  if (thread.status == Status::at_barrier) return "__syncthreads";
  if (thread.status == Status::at_cluster) return "the cluster's barrier";
  return format("a warp operation of mask 0x%08x", thread.mask);
}
std::string name_in_cluster(const Thread& thread) {
  const uint3 block = block_of(thread).index;
  return name_of(thread) + (cluster.size == 1 ? "" : format(" of block (%u,%u,%u)", block.x, block.y, block.z));
}
}  // namespace

void reset_collectives() {
  while (of_block.size() <= cluster.running) of_block.emplace_back(new Meetings);  // not zeroed: most is never used
  here().barriers_released = 0;
  memset(here().used, 0, sizeof here().used);
}

uint32_t count_barrier(unsigned rank) { return ++of_block[rank]->barriers_released; }

void release_barrier() {
  const uint32_t barriers_released = ++here().barriers_released;
  schedule.waiting = 0;
  for (unsigned i = 0; i < schedule.size; i++) {
    Thread& thread = schedule.threads[i];
    if (thread.status != Status::at_barrier) continue;
    thread.status = Status::ready;
    thread.barriers = barriers_released;
    thread.period = ++schedule.periods;
  }
}

// A lane that exits may be the last one others waited for.
void leave_collectives(Thread& me) {
  for (unsigned i = 0; i < here().used[me.warp]; i++) {
    Collective& meeting = here().of_warp[me.warp][i];
    if (!meeting.collecting() || !(meeting.mask >> me.state.lane & 1)) continue;
    refuse_exited(me, meeting);
    if (meeting.arrived == (meeting.mask & existing(me.warp) & ~exited(me.warp))) complete(meeting, me.warp);
  }
}

void report_deadlock() {
  const size_t all = cluster.threads.size();
  std::string text = format("%u of %zu threads wait for others that wait elsewhere:", cluster.alive, all);
  const Thread* first = nullptr;
  const char* file = nullptr;
  int line = 0, shown = 0;
  for (size_t i = 0; i < all && shown < 4; i++) {
    const Thread& thread = cluster.threads[i];
    if (thread.status == Status::done || (file == thread.file && line == thread.line)) continue;
    if (!first) first = &thread;
    file = thread.file;
    line = thread.line;
    text += format("%s %s at %s, line %d", shown++ ? ";" : "", name_in_cluster(thread).c_str(), where(thread).c_str(),
                   abs(line));
  }
  add_report("deadlock", first, at(first->file, first->line), text);
}

}  // namespace gpe

using namespace gpe;

extern "C" {

void gpe_barrier(int kind, int* value, const char* file, int line) {
  Thread& me = *schedule.current;
  Barrier& barrier = here().barrier;
  const uint32_t number = here().barriers_released;
  if (schedule.waiting == 0) {
    barrier.file = file, barrier.line = line, barrier.kind = kind;
    barrier.result[number & 1] = kind == BARRIER_AND;
  } else if (barrier.line != line || barrier.kind != kind || strcmp(barrier.file, file)) {
    stop("barrier divergence", me, file, line,
         format("this thread is at __syncthreads here while others of its block wait at line %d", barrier.line));
  }
  int& result = barrier.result[number & 1];
  if (kind == BARRIER_AND) result &= *value;
  if (kind == BARRIER_OR) result |= *value;
  if (kind == BARRIER_COUNT) result += *value;
  schedule.waiting++;
  wait(me, Status::at_barrier, file, line);
  if (value) *value = barrier.result[number & 1];
}

const char* gpe_collective(unsigned mask, const void* value, unsigned bytes, int kind, unsigned* present,
                           const char* file, int line) {
  Thread& me = *schedule.current;
  const unsigned bit = 1u << me.state.lane;
  if (!(mask & bit))
    stop("mask", me, file, line,
         format("%s: the mask 0x%08x does not contain the calling lane %u", name_of_kind(kind), mask, me.state.lane));
  Collective& meeting = meeting_for(me, mask, kind, file, line);
  refuse_exited(me, meeting);
  if (bytes) memcpy(meeting.slots[me.state.lane], value, bytes);
  meeting.arrived |= bit;
  if (meeting.arrived == (meeting.mask & existing(me.warp) & ~(skips_exited(kind) ? exited(me.warp) : 0u))) {
    complete(meeting, me.warp);
  } else {
    me.mask = mask;
    wait(me, Status::in_warp, file, line);
  }
  *present = meeting.needed;
  meeting.unread &= ~bit;
  return meeting.slots[0];
}

}  // extern "C"
