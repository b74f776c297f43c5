#include "fiber.h"

#include <cstring>
#include <sys/mman.h>
#include <unistd.h>
#ifdef GPE_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// gpe_switch_stack(&save, to): stores the registers a callee must keep, then the stack pointer in *save, and resumes
// `to`.
extern "C" void gpe_switch_stack(void** save, void* to);

#if defined(__x86_64__)
asm(R"(
.text
.globl gpe_switch_stack
.hidden gpe_switch_stack
.type gpe_switch_stack,@function
gpe_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmp *%rcx     # not ret: returning on another stack is mispredicted every time (28 ns instead of 4)
.size gpe_switch_stack,.-gpe_switch_stack
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl gpe_switch_stack
.hidden gpe_switch_stack
.type gpe_switch_stack,%function
gpe_switch_stack:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size gpe_switch_stack,.-gpe_switch_stack
)");
#else
#error "fibers are written for x86-64 and aarch64"
#endif

namespace gpe {
namespace {
char* stacks;
size_t stack_count, page;
void* scheduler;
#ifdef GPE_ASAN
void* scheduler_asan_stack;
const void* scheduler_bottom;
size_t scheduler_bytes;
#endif
}  // namespace

bool allocate_stacks(size_t count) {
  page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  if (count <= stack_count) {
#ifdef GPE_ASAN
    ASAN_UNPOISON_MEMORY_REGION(stacks, stack_count * (STACK_BYTES + page));  // what abandoned frames left behind
#endif
    return true;
  }
  if (stacks) munmap(stacks, stack_count * (STACK_BYTES + page));
  stack_count = 0;
  void* memory = mmap(nullptr, count * (STACK_BYTES + page), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  stacks = memory == MAP_FAILED ? nullptr : static_cast<char*>(memory);
  if (!stacks) return false;
  for (size_t i = 0; i < count; i++) mprotect(stacks + i * (STACK_BYTES + page), page, PROT_NONE);
  stack_count = count;
  return true;
}

char* stack_of(size_t number) { return stacks + number * (STACK_BYTES + page) + page; }

void prepare(Fiber& fiber, void (*entry)()) {
  auto* at = reinterpret_cast<uintptr_t*>(fiber.top());
#if defined(__x86_64__)
  *--at = 0;  // where a return address would be: keeps the alignment a called function expects, and ends a backtrace
  *--at = reinterpret_cast<uintptr_t>(entry);
  for (int i = 0; i < 6; i++) *--at = 0;
#else
  at -= 20;
  memset(at, 0, 160);
  at[11] = reinterpret_cast<uintptr_t>(entry);  // x30, the link register
#endif
  fiber.saved = at;
}

#ifdef GPE_ASAN
void switch_to(Fiber& fiber) {
  __sanitizer_start_switch_fiber(&scheduler_asan_stack, fiber.stack, STACK_BYTES);
  gpe_switch_stack(&scheduler, fiber.saved);
  __sanitizer_finish_switch_fiber(scheduler_asan_stack, nullptr, nullptr);
}
void switch_back(Fiber& fiber, bool ending) {
  __sanitizer_start_switch_fiber(ending ? nullptr : &fiber.asan_stack, scheduler_bottom, scheduler_bytes);
  gpe_switch_stack(&fiber.saved, scheduler);
  __sanitizer_finish_switch_fiber(fiber.asan_stack, nullptr, nullptr);
}
void entered() { __sanitizer_finish_switch_fiber(nullptr, &scheduler_bottom, &scheduler_bytes); }
#else
void switch_to(Fiber& fiber) { gpe_switch_stack(&scheduler, fiber.saved); }
void switch_back(Fiber& fiber, bool) { gpe_switch_stack(&fiber.saved, scheduler); }
void entered() {}
#endif

}  // namespace gpe
