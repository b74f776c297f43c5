// The threads of the running blocks, and the switching between them.
#pragma once
#include <cstdint>
#include <vector>

#include "fiber.h"
#include "gpuprop_emulator/interface.h"
#include "reports.h"

namespace gpe {

enum class Status : uint8_t { ready, at_barrier, at_cluster, in_warp, done };
enum Order { FORWARD, REVERSE, RANDOM };

struct AsyncCopy {
  void* to;
  const void* from;
  unsigned bytes, zero_fill;
  const char* file;
  int line;
};

struct Thread {
  ThreadState state;  // what the kernel sees
  Fiber fiber;
  Status status;
  const char* file;  // where it waits
  int line;
  unsigned mask;  // the lanes it waits for
  unsigned number, warp;
  uint32_t barriers;   // block barriers passed
  uint32_t cluster_barriers;
  uint32_t clock[32];  // what it knows of its warp's lanes, see race.h
  uint32_t period;     // unique to this thread between two of its barriers
  bool arrived;        // at the next cluster barrier, for which it has not waited yet
  uint8_t late;        // marks what it does meanwhile, see race.h
  bool fenced;         // has called __threadfence
  unsigned atomics_in_a_row;
  std::vector<std::vector<AsyncCopy>> copies;  // groups, the last one still open
};

constexpr unsigned MAX_THREADS = 1024;

struct Schedule {
  Thread* threads = nullptr;  // of the running block
  unsigned size = 0;          // threads in a block
  Thread* current = nullptr;
  unsigned alive = 0, waiting = 0;  // threads of the block not done; of those, at its barrier
  uint64_t block_number = 0;
  bool aborted = false;
  Order order = FORWARD;
  uint64_t random_state = 1;
  volatile bool out_of_time = false;
  double time_limit = 0;
  uint32_t periods = 0;  // given out in this launch

  uint64_t random();
};
extern Schedule schedule;

// Runs the blocks of the cluster to their end. False when the launch must stop.
bool run_cluster(void (*entry)());
// Gives the other threads a turn.
void yield();
// Sleeps until another thread makes this one ready.
void wait(Thread& me, Status status, const char* file, int line);
// Ends the launch from inside a thread.
[[noreturn]] void abandon();
[[noreturn]] void finish_thread();
std::string out_of_time_text();
[[noreturn]] void stop_out_of_time(const Place& place);
inline void stop_if_out_of_time(const Place& place) {
  if (schedule.out_of_time) stop_out_of_time(place);
}

// collectives.cpp: of the running block
void reset_collectives();
void release_barrier();
// A barrier of the cluster counts as one of each block: how many the block of that rank has now.
uint32_t count_barrier(unsigned rank);
void leave_collectives(Thread& me);
void report_deadlock();

}  // namespace gpe
