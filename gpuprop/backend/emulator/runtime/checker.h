// Checks each access of a kernel before it happens: is it memory the kernel was given, aligned, written before it is
// read, and ordered after the accesses of other threads to the same bytes?
#pragma once
#include <cstdint>
#include <vector>

#include "launch.h"
#include "race.h"
#include "reports.h"

namespace gpe {

enum class Kind : uint8_t { plain, relaxed, atomic };  // relaxed: volatile

struct Access {
  uintptr_t address;
  unsigned bytes;
  bool write;
  Kind kind;
};

// Memory that the kernel may touch, and what happened to it.
struct Region {
  uintptr_t low, high;
  const char* name;
  Space space;
  bool read_only;
  unsigned cell_bits = 4;  // a cell covers 16 bytes, until smaller accesses are seen
  uint64_t block = 0;      // shared memory: the cluster its cells are of
  int rank = -1;           // of the cluster's block whose shared memory it is, -1 for the one that runs
  std::vector<Cell> cells;

  bool holds(uintptr_t address) const { return address - low < high - low; }
  uintptr_t base() const { return low & ~uintptr_t(15); }
  size_t cell_of(uintptr_t address) const { return (address - base()) >> cell_bits; }
  void reset(bool initialised) { cells.assign(cell_of(high - 1) + 1, fresh_cell(initialised)); }
};

constexpr size_t REGION_PAGES = 256;
extern Region* region_of_page[REGION_PAGES];  // where an address was found last time
extern uint64_t clusters_checked;
inline size_t page_of(uintptr_t address) { return address >> 10 & (REGION_PAGES - 1); }

// The common case, decided at once: a thread reads again what it has read, and nobody has written since.
inline bool already_read(uintptr_t address, unsigned bytes) {
  const Region* region = region_of_page[page_of(address)];
  if (!region || !region->holds(address) || (bytes >> region->cell_bits) != 1 ||
      (region->space == SHARED && region->block != clusters_checked))
    return false;
  return region->space != INTERNAL && address % bytes == 0 &&
         region->cells[region->cell_of(address)].read_in_period == schedule.current->period;
}

void begin_checks(const Launch& launch, void* dynamic_shared);
void begin_checked_cluster();
// The running block changes: its shared memory's history with it.
void exchange_checks(unsigned before, unsigned now);
void end_checks();
// Ends the launch from inside the thread when the access must not happen.
void check_access(const Access& access, const Place& place);
// Whether the thread may use the address, but it is not one of its block's shared memory.
bool outside_shared_memory(uintptr_t address);
// cp.async: the bytes are on their way from here to the wait.
void mark_in_flight(uintptr_t address, unsigned bytes, bool in_flight);

// The shared memory of the launch's kernel, filled with ones (a NaN) before each block or cluster.
void poison_shared(const Launch& launch, void* dynamic_shared);

}  // namespace gpe
