#include "checker.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

#include "cluster.h"
#include "race.h"

namespace gpe {

Region* region_of_page[REGION_PAGES];
uint64_t clusters_checked;

namespace {

std::vector<Region> regions;
std::vector<size_t> shared_regions;  // those of the block that runs
size_t first_aside;                  // of the others: by part, then by rank
std::deque<std::string> names;
ModuleData library;

void add_region(uintptr_t low, uint64_t bytes, const char* name, Space space, bool read_only) {
  if (bytes == 0) return;
  Region region;
  region.low = low, region.high = low + bytes;
  region.name = name, region.space = space, region.read_only = read_only;
  if (space == ARGUMENT || space == GLOBAL_VARIABLE) region.reset(true);
  regions.push_back(std::move(region));
}

// What the cluster's blocks hold while another runs.
void add_aside() {
  first_aside = regions.size();
  shared_regions.clear();
  names.clear();
  for (size_t i = 0; i < first_aside; i++)
    if (regions[i].space == SHARED) shared_regions.push_back(i);
  if (cluster.size == 1) return;
  for (unsigned part = 0; part < shared_regions.size(); part++)
    for (unsigned rank = 0; rank < cluster.size; rank++) {
      const Region of = regions[shared_regions[part]];
      names.push_back(format("%s of the cluster's block %u", of.name, rank));
      const auto low = reinterpret_cast<uintptr_t>(set_aside(part, rank));
      add_region(low, of.high - of.low, names.back().c_str(), SHARED, false);
      regions.back().rank = static_cast<int>(rank);
    }
}

Region* find(uintptr_t address) {
  Region*& cached = region_of_page[page_of(address)];
  if (cached && cached->holds(address)) return cached;
  for (Region& region : regions)
    if (region.holds(address)) return cached = &region;
  return nullptr;
}

void forget_regions() {
  regions.clear();
  std::fill(region_of_page, region_of_page + REGION_PAGES, nullptr);
}

// Smaller accesses than a cell: give each its own, with the history of the whole.
void split_cells(Region& region, unsigned bytes) {
  unsigned bits = region.cell_bits;
  while (bits > 0 && (1u << bits) > bytes) bits--;
  const unsigned parts = 1u << (region.cell_bits - bits);
  std::vector<Cell> finer;
  finer.reserve(region.cells.size() * parts);
  for (const Cell& cell : region.cells) finer.insert(finer.end(), parts, cell);
  region.cells.swap(finer);
  region.cell_bits = bits;
}

// Shared memory is new in every block and cluster. Done at a region's first use, as a file may have many that one kernel
// never touches.
void renew(Region& region) {
  if (region.space != SHARED || region.block == clusters_checked) return;
  region.block = clusters_checked;
  region.reset(false);
}

const char* verb(const Access& access) {
  if (access.kind == Kind::atomic) return "atomic";
  return access.write ? "write" : "read";
}
std::string describe(const Access& access) { return format("%s of %u bytes", verb(access), access.bytes); }

[[noreturn]] void stop(const char* kind, const Place& place, const std::string& text) {
  add_report(kind, schedule.current, place, text);
  abandon();
}

[[noreturn]] void stop_out_of_bounds(const Access& access, const Place& place) {
  const uintptr_t a = access.address;
  if (a < 4096) stop("null pointer", place, describe(access) + format(" at address %zu", static_cast<size_t>(a)));
  const auto stacks_low = reinterpret_cast<uintptr_t>(cluster.threads.front().fiber.stack);
  const auto stacks_high = reinterpret_cast<uintptr_t>(cluster.threads.back().fiber.top());
  if (a >= stacks_low && a < stacks_high)
    stop("out of bounds", place,
         describe(access) + " in the local variables of another thread, which a GPU cannot reach");
  const Region* nearest = nullptr;
  uintptr_t distance = ~uintptr_t(0);
  for (const Region& region : regions) {
    const uintptr_t away = a >= region.high ? a - region.high : region.low - a;
    if (away < distance) distance = away, nearest = &region;
  }
  if (!nearest) stop("out of bounds", place, describe(access) + "; the kernel was given no array");
  constexpr uintptr_t FAR = 1 << 20;
  stop("out of bounds", place,
       describe(access) + format(", %zu bytes %s %s (%zu bytes)%s", static_cast<size_t>(distance),
                                 a >= nearest->high ? "past the end of" : "before", nearest->name,
                                 static_cast<size_t>(nearest->high - nearest->low),
                                 distance < FAR ? "" : "; an array whose address is in a struct or an array is "
                                                       "known only where it is passed as an argument, too"));
}

// `earlier` was made by a thread of some block; what is missing between it and this access depends on where that thread
// is.
std::string race_text(const Access& access, const Region& region, const char* earlier, uint32_t block,
                      uint32_t thread) {
  const bool same_block = block == schedule.block_number;
  std::string other;
  if (thread == NOBODY || block == MANY_BLOCKS)
    other = same_block ? "another thread of the block" : "another block";
  else if (same_block)
    other = name_of(schedule.threads[thread]);
  else
    other = format("block %u", block);
  return describe(access) +
         format(" after %s by %s, at byte %zu of %s: ", earlier, other.c_str(),
                static_cast<size_t>(access.address - region.low), region.name) +
         (same_block          ? "no barrier between them"
          : in_cluster(block) ? "no cluster barrier between them"
                              : "blocks run in any order, use an atomic, or a fence and an atomic");
}

// Atomics may meet atomics, and volatile accesses each other in global memory; a volatile read may meet an atomic
// anywhere.
bool relaxed_pair(const Access& access, const Cell& cell, const Region& region) {
  if (access.kind == Kind::atomic) return cell.written_atomically || (cell.written_volatile && region.space != SHARED);
  if (access.kind != Kind::relaxed) return false;
  return (!access.write && cell.written_atomically) || (cell.written_volatile && region.space != SHARED);
}

void check_order(const Thread& me, Cell& cell, const Access& access, const Region& region, const Place& place) {
  if (!relaxed_pair(access, cell, region) && !ordered_after(me, cell))
    add_report("race", &me, place,
               race_text(access, region, cell.written_atomically ? "an atomic" : "a write", cell.write.block,
                         cell.write.thread) +
                   (cell.written_atomically && !access.write ? " (an atomic or a volatile read needs none)" : ""));
  if (!access.write) {
    cell.read_plainly |= access.kind == Kind::plain;
    note_read(me, cell);
    cell.read_in_period = access.kind == Kind::plain && !cell.in_flight ? me.period : 0;
    return;
  }
  const bool relaxed = access.kind == Kind::atomic || (access.kind == Kind::relaxed && region.space != SHARED);
  if (!(relaxed && !cell.read_plainly) && !ordered_after_reads(me, cell)) {
    const bool one_lane = __builtin_popcount(cell.reads.lanes) == 1 && cell.reads.warp < SEVERAL;
    const uint32_t thread = one_lane ? cell.reads.warp * 32 + __builtin_ctz(cell.reads.lanes) : NOBODY;
    add_report("race", &me, place, race_text(access, region, "a read", cell.reads.block, thread));
  }
  note_write(me, cell);
  cell.written_atomically = access.kind == Kind::atomic;
  cell.written_volatile = access.kind == Kind::relaxed;
  cell.read_plainly = false;
}

void check_cells(const Thread& me, Region& region, const Access& access, const Place& place) {
  if (access.bytes < (1u << region.cell_bits)) split_cells(region, access.bytes);
  const size_t last = region.cell_of(access.address + access.bytes - 1);
  for (size_t i = region.cell_of(access.address); i <= last; i++) {
    Cell& cell = region.cells[i];
    if (cell.in_flight)
      add_report("async copy", &me, place,
                 describe(access) + format(" of %s before the cp.async that fills it was waited for", region.name));
    if (!access.write || access.kind == Kind::atomic) {
      if (!cell.initialised)
        add_report("uninitialised shared memory", &me, place,
                   describe(access) + format(" at byte %zu of %s, which has not been written",
                                             static_cast<size_t>(access.address - region.low), region.name));
    }
    cell.initialised = true;
    check_order(me, cell, access, region, place);
  }
}

// Another block's shared memory is there from the first cluster barrier on, until that block ends.
void check_remote(const Thread& me, const Region& region, const Access& access, const Place& place) {
  Block& block = cluster.blocks[static_cast<unsigned>(region.rank)];
  const std::string what = describe(access) + format(" of %s", region.name);
  if (static_cast<unsigned>(region.rank) == cluster.running)
    stop("cluster rank", place, what + ": this is the block's own, at an address that another block mapped");
  if (block.alive == 0) stop("exited block", place, what + ", which has ended");
  if (me.cluster_barriers == 0)
    add_report("cluster barrier", &me, place, what + ", which may not have begun: no cluster barrier before");
  if (block.reader && block.read_in > me.cluster_barriers) return;
  block.reader = &me;
  block.read_in = me.cluster_barriers + me.arrived;
  block.place = place;
  block.place.frame = nullptr;  // gone when it is reported
}

}  // namespace

void check_access(const Access& access, const Place& place) {
  const Thread& me = *schedule.current;
  const uintptr_t a = access.address;
  stop_if_out_of_time(place);
  if (me.fiber.owns(a)) return;  // its own local variables
  Region* region = find(a);
  if (!region) {
    if (!access.write && library.constant(a)) return;  // a literal or a table
    stop_out_of_bounds(access, place);
  }
  if (region->space == INTERNAL) return;
  if (a + access.bytes > region->high)
    stop("out of bounds", place, describe(access) + format(", which straddles the end of %s", region->name));
  if (access.write && region->read_only)
    add_report("write to const", &me, place,
               describe(access) + format(" to %s, which the kernel declares const", region->name));
  if (a % std::min(access.bytes, 16u))
    stop("misaligned", place,
         describe(access) + format(" at byte %zu of %s: the address must be a multiple of %u",
                                   static_cast<size_t>(a - region->low), region->name, std::min(access.bytes, 16u)));
  if (region->rank >= 0) check_remote(me, *region, access, place);
  renew(*region);
  check_cells(me, *region, access, place);
}

bool outside_shared_memory(uintptr_t address) {
  if (schedule.current->fiber.owns(address)) return true;
  const Region* region = find(address);
  return region && (region->space != SHARED || region->rank >= 0);
}

void mark_in_flight(uintptr_t address, unsigned bytes, bool in_flight) {
  Region* region = find(address);
  if (!region || bytes == 0) return;
  renew(*region);
  const size_t last = region->cell_of(std::min<uintptr_t>(address + bytes, region->high) - 1);
  for (size_t i = region->cell_of(address); i <= last; i++)
    region->cells[i].in_flight = in_flight, region->cells[i].read_in_period = 0;
}

void begin_checks(const Launch& launch, void* dynamic_shared) {
  forget_regions();
  clusters_checked = 0;
  library = module_data();
  for (uint32_t i = 0; i < launch.range_count; i++) {
    const Range& range = launch.ranges[i];
    const uintptr_t base = range.space == ARGUMENT ? 0 : module_base();
    add_region(base + range.address, range.bytes, range.name, static_cast<Space>(range.space), range.read_only);
  }
  add_region(reinterpret_cast<uintptr_t>(dynamic_shared), launch.dynamic_bytes, "dynamic shared memory", SHARED, false);
  add_aside();
  begin_launch_order(uint64_t(launch.grid[0]) * launch.grid[1] * launch.grid[2]);
}

void begin_checked_cluster() {
  clusters_checked++;
  for (unsigned rank = 0; rank < cluster.size; rank++) begin_block_order(rank);
}

void exchange_checks(unsigned before, unsigned now) {
  for (unsigned part = 0; part < shared_regions.size(); part++)
    for (const unsigned rank : {before, now}) {
      Region &live = regions[shared_regions[part]], &aside = regions[first_aside + part * cluster.size + rank];
      std::swap(live.cell_bits, aside.cell_bits);
      std::swap(live.block, aside.block);
      live.cells.swap(aside.cells);
    }
}

void end_checks() { forget_regions(); }

#ifdef GPE_ASAN
__attribute__((no_sanitize("address")))
#endif
void poison_shared(const Launch& launch, void* dynamic_shared) {
  if (dynamic_shared) memset(dynamic_shared, 0xff, launch.dynamic_bytes);
  for (uint32_t i = 0; i < launch.range_count; i++)
    if (launch.ranges[i].space == SHARED) {
      auto* bytes = reinterpret_cast<volatile char*>(module_base() + launch.ranges[i].address);
#ifdef GPE_ASAN
      for (uint64_t k = 0; k < launch.ranges[i].bytes; k++) bytes[k] = static_cast<char>(0xff);
#else
      memset(const_cast<char*>(bytes), 0xff, launch.ranges[i].bytes);
#endif
    }
}

}  // namespace gpe
