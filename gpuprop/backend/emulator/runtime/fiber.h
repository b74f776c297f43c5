// A fiber is a stack and a saved stack pointer: one for each CUDA thread, switched by hand, as swapcontext costs 100
// times more.
#pragma once
#include <cstddef>
#include <cstdint>

namespace gpe {

constexpr size_t STACK_BYTES = 256 << 10;  // address space: pages are taken when they are first touched

struct Fiber {
  void* saved;  // stack pointer while it does not run
  char* stack;  // lowest usable byte
  void* asan_stack;
  char* top() const { return stack + STACK_BYTES; }
  bool owns(uintptr_t address) const { return address - reinterpret_cast<uintptr_t>(stack) < STACK_BYTES; }
};

// Gives `count` fibers a stack each, with a guard page below it. Stacks are kept for the next launch.
bool allocate_stacks(size_t count);
char* stack_of(size_t number);

// Makes `fiber` begin at `entry`, on an empty stack, at the next switch_to.
void prepare(Fiber& fiber, void (*entry)());

// From the scheduler into a fiber, and back. `ending` says that the fiber will not be resumed.
void switch_to(Fiber& fiber);
void switch_back(Fiber& fiber, bool ending);
// The first thing a fiber does.
void entered();

}  // namespace gpe
