// Atomics, fences and cp.async, as the shim calls them.
#include <cstring>

#include "checker.h"
#include "race.h"
#include "scheduler.h"

using namespace gpe;

namespace {
// A thread that spins on an atomic gives the others a turn; in random order any atomic may.
void maybe_yield(Thread& me, const char* file, int line) {
  me.atomics_in_a_row++;
  const bool chance = schedule.order == RANDOM && (schedule.random() & 3) == 0;
  stop_if_out_of_time(at(file, line));
  if (!chance && me.atomics_in_a_row % 64 != 0) return;
  me.file = file;
  me.line = line;
  yield();
}
}  // namespace

extern "C" {

void gpe_atomic(void* address, unsigned bytes, const char* file, int line) {
  Thread& me = *schedule.current;
  maybe_yield(me, file, line);
  if (!checking()) return;
  check_access({reinterpret_cast<uintptr_t>(address), bytes, true, Kind::atomic}, at(file, line));
  release_and_acquire(me, address);
}

void gpe_read_matrix_row(const void* address, const char* file, int line) {
  const auto a = reinterpret_cast<uintptr_t>(address);
  if (checking() && outside_shared_memory(a))
    gpe_stop("not shared memory", "ldmatrix reads shared memory only", file, line);
  if (a % 16) gpe_stop("misaligned", "ldmatrix reads rows of 16 bytes, at multiples of 16", file, line);
  gpe_touch(address, 16, 0, file, line);
}

void gpe_fence(int scope) {
  if (scope >= FENCE_DEVICE) schedule.current->fenced = true;
}

void gpe_copy_async(void* to, const void* from, unsigned bytes, unsigned zero_fill, const char* file, int line) {
  Thread& me = *schedule.current;
  if (bytes != 4 && bytes != 8 && bytes != 16) gpe_stop("async copy", "cp.async copies 4, 8 or 16 bytes", file, line);
  if (zero_fill > bytes) gpe_stop("async copy", "cp.async fills more bytes with zeros than it copies", file, line);
  if (me.copies.empty()) me.copies.emplace_back();
  me.copies.back().push_back({to, from, bytes, zero_fill, file, line});
  if (!checking()) return;
  gpe_touch(to, bytes, 1, file, line);  // it may be there at once
  mark_in_flight(reinterpret_cast<uintptr_t>(to), bytes, true);
}

void gpe_copy_commit() {
  Thread& me = *schedule.current;
  if (me.copies.empty()) me.copies.emplace_back();
  me.copies.emplace_back();
}

// Completes every committed group but the newest ones.
void gpe_copy_wait(unsigned newest_in_flight) {
  Thread& me = *schedule.current;
  const size_t committed = me.copies.empty() ? 0 : me.copies.size() - 1;
  const size_t due = committed > newest_in_flight ? committed - newest_in_flight : 0;
  for (size_t group = 0; group < due; group++)
    for (const AsyncCopy& copy : me.copies[group]) {
      const unsigned copied = copy.bytes - copy.zero_fill;
      if (checking()) {
        mark_in_flight(reinterpret_cast<uintptr_t>(copy.to), copy.bytes, false);
        if (copied) gpe_touch(copy.from, copied, 0, copy.file, copy.line);
        gpe_touch(copy.to, copy.bytes, 1, copy.file, copy.line);
      }
      memcpy(copy.to, copy.from, copied);
      memset(static_cast<char*>(copy.to) + copied, 0, copy.zero_fill);
    }
  me.copies.erase(me.copies.begin(), me.copies.begin() + static_cast<std::ptrdiff_t>(due));
}

}  // extern "C"
