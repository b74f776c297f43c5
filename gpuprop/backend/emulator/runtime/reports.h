// What went wrong in a launch. The place is a program address (from the checker's hooks) or a file and line (from the
// shim).
#pragma once
#include <cstdint>
#include <string>

namespace gpe {

struct Thread;

struct Place {
  uintptr_t code;     // the return address of a call from the kernel, or 0
  const void* frame;  // the stack frame of what was called, or null
  const char* file;
  int line;
};
inline Place at(const char* file, int line) { return {0, nullptr, file, line}; }
inline Place at(uintptr_t code) { return {code, nullptr, nullptr, 0}; }

// Read by the Python side: keep in step with report.py.
struct Report {
  const char* kind;
  const char* text;
  const char* file;
  uint64_t frames[4];  // return addresses, innermost first, relative to where the kernel's library is loaded
  uint32_t line;
  uint32_t has_thread;
  uint32_t block[3], thread[3];
};

void clear_reports();
unsigned report_count();
bool full();
// Adds a report, once for each kind and place. `thread` is null when no one thread did it.
void add_report(const char* kind, const Thread* thread, const Place& place, const std::string& text);
void append_output(const char* text, size_t bytes);

__attribute__((format(printf, 1, 2))) std::string format(const char* pattern, ...);
std::string name_of(const Thread& thread);

}  // namespace gpe
