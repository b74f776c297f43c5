#include "scheduler.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "cluster.h"

namespace gpe {

Schedule schedule;

uint64_t Schedule::random() {  // xorshift64
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

namespace {
constexpr int ROUNDS = 16;  // of a block, until the others of its cluster have theirs
unsigned turn[MAX_THREADS];

void shuffle_turns() {
  for (unsigned i = schedule.size; i > 1; i--) std::swap(turn[i - 1], turn[schedule.random() % i]);
}

void resume(Thread& thread) {
  schedule.current = &thread;
  gpe_now.thread = &thread.state;
  switch_to(thread.fiber);
}

// One turn for every thread that can run. False when none could.
bool run_ready_threads() {
  bool progress = false;
  for (unsigned i = 0; i < schedule.size && !schedule.aborted; i++) {
    Thread& thread = schedule.threads[turn[i]];
    if (thread.status != Status::ready) continue;
    progress = true;
    resume(thread);
    if (schedule.out_of_time && !schedule.aborted) {
      add_report("time limit", &thread, at(thread.file, thread.line), out_of_time_text());
      schedule.aborted = true;
    }
  }
  return progress;
}

// Runs the block until it waits for others of its cluster, or for a while. False when nothing could run.
bool run_rounds() {
  if (!schedule.alive) return false;
  const int rounds = schedule.order == RANDOM ? 1 : ROUNDS;
  for (int round = 0; round < rounds && schedule.alive; round++) {
    if (schedule.order == RANDOM) shuffle_turns();
    bool progress = run_ready_threads();
    if (schedule.aborted) return true;
    if (schedule.alive && schedule.waiting == schedule.alive) {
      release_barrier();
      progress = true;
    }
    if (!progress) return round > 0;
  }
  return true;
}
}  // namespace

std::string out_of_time_text() {
  return format(
      "the launch took longer than %g s. Blocks run one after another, so that one cannot wait for a later one. Raise "
      "time_limit if the kernel does end",
      schedule.time_limit);
}

void stop_out_of_time(const Place& place) {
  add_report("time limit", schedule.current, place, out_of_time_text());
  abandon();
}

void yield() { switch_back(schedule.current->fiber, false); }

void wait(Thread& me, Status status, const char* file, int line) {
  me.status = status;
  me.file = file;
  me.line = line;
  me.atomics_in_a_row = 0;
  yield();
}

void finish_thread() {
  Thread& thread = *schedule.current;
  thread.status = Status::done;
  schedule.alive--;
  leave_collectives(thread);
  leave_cluster(thread);
  switch_back(thread.fiber, true);
  __builtin_unreachable();
}

void abandon() {
  schedule.aborted = true;
  switch_back(schedule.current->fiber, true);
  __builtin_unreachable();
}

bool run_cluster(void (*entry)()) {
  std::vector<unsigned> ranks(cluster.size);
  std::iota(ranks.begin(), ranks.end(), 0u);
  if (schedule.order == REVERSE) std::reverse(ranks.begin(), ranks.end());
  std::iota(turn, turn + schedule.size, 0u);
  if (schedule.order == REVERSE) std::reverse(turn, turn + schedule.size);
  for (const unsigned rank : ranks) {
    select_block(rank);
    reset_collectives();
    for (unsigned i = 0; i < schedule.size; i++) prepare(schedule.threads[i].fiber, entry);
  }
  while (cluster.alive && !schedule.aborted) {
    if (schedule.order == RANDOM)
      for (size_t i = ranks.size(); i > 1; i--) std::swap(ranks[i - 1], ranks[schedule.random() % i]);
    bool progress = false;
    for (const unsigned rank : ranks) {
      if (schedule.aborted) break;
      select_block(rank);
      progress |= run_rounds();
    }
    if (!progress && !schedule.aborted) {
      report_deadlock();
      schedule.aborted = true;
    }
  }
  schedule.current = nullptr;
  gpe_now.thread = nullptr;
  return !schedule.aborted;
}

}  // namespace gpe
