// Bad memory accesses that no checker stopped, and kernels that never end: a signal leads the thread back to the
// scheduler, so that the Python process survives.
#include "faults.h"

#include <csignal>
#include <cstring>
#include <ctime>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "launch.h"
#include "scheduler.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

namespace gpe {
namespace {

constexpr int FAULTS[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
constexpr int FAULT_COUNT = sizeof FAULTS / sizeof *FAULTS;
int timer_signal() { return SIGRTMIN + 7; }

struct sigaction before[FAULT_COUNT], timer_before;
stack_t stack_before;
timer_t timer;
bool timer_made;
pid_t launching_thread;
alignas(16) char signal_stack[64 << 10];

// What the handler leaves for the thread it redirects.
int fault;
uintptr_t fault_code, fault_address;
int ticks;  // of the timer, since time was up

pid_t this_thread() { return static_cast<pid_t>(syscall(SYS_gettid)); }

[[noreturn]] void after_fault() {
  Thread* me = schedule.current;
  const Place place = fault_code && module_data().code(fault_code) ? at(fault_code + 1) : Place{};
  if (fault == timer_signal())
    add_report("time limit", me, place, out_of_time_text());
  else if (fault == SIGFPE)
    add_report("fault", me, place, "integer division by zero");
  else if (fault == SIGILL || fault == SIGTRAP)
    add_report("fault", me, place, "execution reached a place the compiler holds impossible");
  else if (fault_address < 4096)
    add_report("null pointer", me, place, format("access at address %zu", static_cast<size_t>(fault_address)));
  else if (const auto stack = reinterpret_cast<uintptr_t>(me->fiber.stack);
           fault_address < stack && fault_address + 4096 >= stack)
    add_report("fault", me, place, format("the thread needs more than %zu KB of stack", STACK_BYTES >> 10));
  else
    add_report("fault", me, place,
               format("access to address 0x%zx, which is not mapped; mode \"check\" says which array it missed",
                      static_cast<size_t>(fault_address)));
  abandon();
}

// Makes the interrupted thread go on in after_fault, on its own, empty stack.
void redirect(void* context) {
  auto* machine = static_cast<ucontext_t*>(context);
  const auto top = reinterpret_cast<uintptr_t>(schedule.current->fiber.top());
#if defined(__x86_64__)
  machine->uc_mcontext.gregs[REG_RIP] = reinterpret_cast<greg_t>(&after_fault);
  machine->uc_mcontext.gregs[REG_RSP] = static_cast<greg_t>(top - 8);
#else
  machine->uc_mcontext.pc = reinterpret_cast<uintptr_t>(&after_fault);
  machine->uc_mcontext.sp = top;
#endif
}
uintptr_t program_counter(void* context) {
  auto* machine = static_cast<ucontext_t*>(context);
#if defined(__x86_64__)
  return static_cast<uintptr_t>(machine->uc_mcontext.gregs[REG_RIP]);
#else
  return machine->uc_mcontext.pc;
#endif
}

uintptr_t frame_pointer(void* context) {
  auto* machine = static_cast<ucontext_t*>(context);
#if defined(__x86_64__)
  return static_cast<uintptr_t>(machine->uc_mcontext.gregs[REG_RBP]);
#else
  return machine->uc_mcontext.regs[29];
#endif
}

// Where the kernel is: at the program counter, or where it called the runtime or the C library from, as frame pointers
// lead there.
uintptr_t place_in_kernel(void* context) {
  const uintptr_t counter = program_counter(context);
  if (module_data().code(counter)) return counter;
  const Fiber& fiber = schedule.current->fiber;
  uintptr_t frame = frame_pointer(context);
  while (fiber.owns(frame) && fiber.owns(frame + 15)) {
    const auto* saved = reinterpret_cast<const uintptr_t*>(frame);  // the frame before, and the return address
    if (module_data().code(saved[1])) return saved[1] - 1;
    if (saved[0] <= frame) break;
    frame = saved[0];
  }
  return 0;
}

void on_fault(int signal, siginfo_t* info, void* context) {
  const bool ours = this_thread() == launching_thread && schedule.current && !schedule.aborted;
  if (!ours) {  // another thread of the process, or our own fault: as if we were not here
    for (int i = 0; i < FAULT_COUNT; i++)
      if (FAULTS[i] == signal) sigaction(signal, &before[i], nullptr);
    return;
  }
  fault = signal;
  fault_code = place_in_kernel(context);
  fault_address = reinterpret_cast<uintptr_t>(info->si_addr);
  redirect(context);
}

// Atomics, checked accesses and the scheduler see that time is up, and know the place. Only a loop without any of them
// is interrupted, later, and where it is in the kernel's own code, as the runtime and the C library must not be.
void on_timer(int signal, siginfo_t*, void* context) {
  schedule.out_of_time = true;
  if (this_thread() != launching_thread || !schedule.current || schedule.aborted || ++ticks < 4) return;
  if (!module_data().code(program_counter(context))) return;
  fault = signal;
  fault_code = program_counter(context);
  redirect(context);
}

void handle(int signal, void (*handler)(int, siginfo_t*, void*), struct sigaction* old) {
  struct sigaction action {};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(signal, &action, old);
}
}  // namespace

void guard_begin(double time_limit) {
  launching_thread = this_thread();
  ticks = 0;
  schedule.out_of_time = false;
  schedule.time_limit = time_limit;
  stack_t stack{};
  stack.ss_sp = signal_stack;
  stack.ss_size = sizeof signal_stack;
  sigaltstack(&stack, &stack_before);
  for (int i = 0; i < FAULT_COUNT; i++) handle(FAULTS[i], on_fault, &before[i]);
  handle(timer_signal(), on_timer, &timer_before);

  sigevent event{};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = timer_signal();
  event.sigev_notify_thread_id = launching_thread;
  timer_made = timer_create(CLOCK_MONOTONIC, &event, &timer) == 0;
  itimerspec when{};
  when.it_value.tv_sec = static_cast<time_t>(time_limit);
  when.it_value.tv_nsec = static_cast<long>((time_limit - static_cast<double>(when.it_value.tv_sec)) * 1e9) + 1;
  when.it_interval.tv_nsec = 5000000;  // again and again, until it finds the kernel's own code
  if (timer_made) timer_settime(timer, 0, &when, nullptr);
}

void guard_end() {
  if (timer_made) timer_delete(timer);
  handle(timer_signal(), on_timer, nullptr);  // one may be pending: it finds no thread
  for (int i = 0; i < FAULT_COUNT; i++) sigaction(FAULTS[i], &before[i], nullptr);
  sigaltstack(&stack_before, nullptr);
}

}  // namespace gpe
