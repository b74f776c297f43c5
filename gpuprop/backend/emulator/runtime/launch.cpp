// Runs a grid, cluster after cluster; a block alone is a cluster of one.
#include "launch.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <link.h>
#include <numeric>
#include <vector>

#include "checker.h"
#include "cluster.h"
#include "faults.h"
#include "scheduler.h"
#ifdef GPE_ASAN
#include <sanitizer/asan_interface.h>
#endif

extern "C" {
gpe::LaunchState gpe_now;
}

namespace gpe {

bool check_is_on;
ModuleData running_module;

uint3 position(uint64_t number, const uint32_t* size) {
  return {static_cast<unsigned>(number % size[0]), static_cast<unsigned>(number / size[0] % size[1]),
          static_cast<unsigned>(number / size[0] / size[1])};
}

namespace {
void (*kernel)(void**);
alignas(64) char packed[8192];  // CUDA's limit is 4096 bytes of arguments
void* packed_arguments[512];

int find_module(dl_phdr_info* info, size_t, void* wanted) {
  ModuleData found{info->dlpi_addr, 0, 0, 0, ~uintptr_t(0), 0, 0};
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const auto& part = info->dlpi_phdr[i];
    const uintptr_t low = info->dlpi_addr + part.p_vaddr, high = low + part.p_memsz;
    if (part.p_type == PT_GNU_RELRO) found.relocated_low = low, found.relocated_high = high;
    if (part.p_type != PT_LOAD) continue;
    found.end = std::max(found.end, high);
    if (part.p_flags & PF_X) found.code_low = low, found.code_high = high;
    if (part.p_flags & PF_W) found.variables = std::min(found.variables, low);
  }
  if (!found.code(*static_cast<uintptr_t*>(wanted))) return 0;
  running_module = found;
  return 1;
}

void pack(const Launch& launch) {
  size_t offset = 0;
  for (uint32_t i = 0; i < launch.parameters; i++) {
    offset = (offset + 15) & ~size_t(15);
    memcpy(packed + offset, launch.arguments[i], launch.sizes[i]);
    packed_arguments[i] = packed + offset;
    offset += launch.sizes[i];
  }
}

void thread_main() {
  entered();
  kernel(packed_arguments);
  Thread& me = *schedule.current;
  for (const auto& group : me.copies)
    if (!group.empty()) {
      add_report("async copy", &me, at(group[0].file, group[0].line),
                 "the thread ends before this cp.async was waited for");
      break;
    }
  finish_thread();
}

std::vector<uint64_t> cluster_order(const Launch& launch) {
  std::vector<uint64_t> order(uint64_t(launch.grid[0]) * launch.grid[1] * launch.grid[2] / cluster.size);
  std::iota(order.begin(), order.end(), uint64_t(0));
  if (launch.order == REVERSE) std::reverse(order.begin(), order.end());
  if (launch.order == RANDOM)
    for (size_t i = order.size(); i > 1; i--) std::swap(order[i - 1], order[schedule.random() % i]);
  return order;
}

void run_clusters(const Launch& launch, void* dynamic_shared) {
  for (const uint64_t number : cluster_order(launch)) {
    begin_cluster(launch, number);
    poison_shared(launch, dynamic_shared);
    if (checking()) begin_checked_cluster();
    if (!run_cluster(thread_main)) return;
    if (full()) return;
    if (!schedule.out_of_time) continue;
    add_report("time limit", nullptr, Place{}, out_of_time_text());
    return;
  }
}

void* allocate_dynamic(unsigned bytes) {
  if (bytes == 0) return nullptr;
  const size_t rounded = (bytes + 127) / 128 * 128;
  void* memory = aligned_alloc(128, rounded + 128);
#ifdef GPE_ASAN
  if (memory) ASAN_POISON_MEMORY_REGION(static_cast<char*>(memory) + bytes, rounded + 128 - bytes);
#endif
  return memory;
}
}  // namespace

}  // namespace gpe

using namespace gpe;

#pragma GCC visibility push(default)
extern "C" {

// 0, or what is missing: 1 memory for stacks, 2 memory for shared memory, 3 the library of the kernel.
int gpe_launch(const Launch* launch) {
  clear_reports();
  auto address = reinterpret_cast<uintptr_t>(launch->run);
  if (!dl_iterate_phdr(find_module, &address)) return 3;
  const uint32_t *block = launch->block, *grid = launch->grid, *size = launch->cluster;
  if (!allocate_stacks(size_t(block[0]) * block[1] * block[2] * size[0] * size[1] * size[2])) return 1;
  void* dynamic_shared = allocate_dynamic(launch->dynamic_bytes);
  if (launch->dynamic_bytes && !dynamic_shared) return 2;
  kernel = launch->run;
  check_is_on = launch->check;
  pack(*launch);
  schedule.order = static_cast<Order>(launch->order);
  schedule.random_state = launch->seed * 0x9E3779B97F4A7C15ull + 88172645463325252ull;
  schedule.aborted = false;
  schedule.periods = 0;
  gpe_now = {nullptr,
             {0, 0, 0},
             {block[0], block[1], block[2]},
             {grid[0], grid[1], grid[2]},
             dynamic_shared,
             launch->dynamic_bytes,
             {size[0], size[1], size[2]},
             0};
  const bool memory = begin_clusters(*launch, dynamic_shared);
  if (memory && checking()) begin_checks(*launch, dynamic_shared);
  guard_begin(launch->time_limit);
  if (memory) run_clusters(*launch, dynamic_shared);
  guard_end();
  if (checking()) end_checks();
  end_clusters();
  check_is_on = false;
#ifdef GPE_ASAN
  if (dynamic_shared) ASAN_UNPOISON_MEMORY_REGION(dynamic_shared, (launch->dynamic_bytes + 127) / 128 * 128 + 128);
#endif
  free(dynamic_shared);
  return memory ? 0 : 2;
}

long long gpe_clock() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000ll + now.tv_nsec;
}

}  // extern "C"
#pragma GCC visibility pop
