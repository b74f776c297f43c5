#include "reports.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <deque>
#include <set>
#include <tuple>
#include <vector>

#include "cluster.h"
#include "launch.h"
#include "scheduler.h"

namespace gpe {
namespace {
constexpr unsigned MAX_REPORTS = 20;    // more of them would not be read
constexpr size_t MAX_OUTPUT = 1 << 20;  // CUDA's own printf buffer

std::deque<std::string> texts;  // stable addresses
std::vector<Report> reports;
std::set<std::tuple<std::string, uintptr_t, std::string, int>> seen;
std::string output;

// The calls that led to a place: frame pointers lead from one to the next, up to the top of the thread's stack.
void find_callers(const Place& place, uint64_t* frames) {
  if (!place.code) return;
  frames[0] = place.code - module_base();
  if (!place.frame || !schedule.current) return;
  const Fiber& fiber = schedule.current->fiber;
  auto frame = *static_cast<const uintptr_t*>(place.frame);  // that of the function the code is in
  for (int i = 1; i < 4 && fiber.owns(frame) && fiber.owns(frame + 15); i++) {
    const auto* saved = reinterpret_cast<const uintptr_t*>(frame);  // the frame before, and the return address
    if (!module_data().code(saved[1])) return;
    frames[i] = saved[1] - module_base();
    if (saved[0] <= frame) return;
    frame = saved[0];
  }
}
}  // namespace

void clear_reports() {
  texts.clear();
  reports.clear();
  seen.clear();
  output.clear();
}
unsigned report_count() { return static_cast<unsigned>(reports.size()); }
bool full() { return reports.size() >= MAX_REPORTS; }

void add_report(const char* kind, const Thread* thread, const Place& place, const std::string& text) {
  const std::string file = place.file ? place.file : "";
  if (full() || !seen.insert({kind, place.code, file, place.line}).second) return;
  texts.push_back(text);
  const char* stored = texts.back().c_str();
  texts.push_back(file);
  Report report{kind,
                stored,
                texts.back().c_str(),
                {},
                static_cast<uint32_t>(place.line < 0 ? -place.line : place.line),
                thread != nullptr,
                {},
                {}};
  find_callers(place, report.frames);
  if (thread) {
    const uint3 block = block_of(*thread).index, index = thread->state.index;
    const uint32_t blocks[] = {block.x, block.y, block.z}, indices[] = {index.x, index.y, index.z};
    memcpy(report.block, blocks, sizeof blocks);
    memcpy(report.thread, indices, sizeof indices);
  }
  reports.push_back(report);
}

void append_output(const char* text, size_t bytes) {
  if (output.size() < MAX_OUTPUT) output.append(text, bytes);
}

std::string format(const char* pattern, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, pattern);
  vsnprintf(text, sizeof text, pattern, arguments);
  va_end(arguments);
  return text;
}

std::string name_of(const Thread& thread) {
  return format("thread (%u,%u,%u)", thread.state.index.x, thread.state.index.y, thread.state.index.z);
}

}  // namespace gpe

#pragma GCC visibility push(default)
extern "C" {
const gpe::Report* gpe_reports(unsigned* count) {
  *count = gpe::report_count();
  return gpe::reports.data();
}
const char* gpe_output(size_t* bytes) {
  *bytes = gpe::output.size();
  return gpe::output.data();
}

int gpe_printf(const char* pattern, ...) {
  char text[4096];
  va_list arguments;
  va_start(arguments, pattern);
  int written = vsnprintf(text, sizeof text, pattern, arguments);
  va_end(arguments);
  if (written > 0) gpe::append_output(text, static_cast<size_t>(written) < sizeof text ? written : sizeof text - 1);
  return written;
}

void gpe_warn(const char* kind, const char* text, const char* file, int line) {
  if (gpe::checking()) gpe::add_report(kind, gpe::schedule.current, gpe::at(file, line), text);
}
void gpe_stop(const char* kind, const char* text, const char* file, int line) {
  gpe::add_report(kind, gpe::schedule.current, gpe::at(file, line), text);
  gpe::abandon();
}
}
#pragma GCC visibility pop
