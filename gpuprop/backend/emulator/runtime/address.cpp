// AddressSanitizer's findings, in mode "asan".
#ifdef GPE_ASAN
#include <cstring>
#include <sanitizer/asan_interface.h>

#include "scheduler.h"

namespace {
using namespace gpe;

// The lines that say what and where; the rest of its report describes the shadow memory.
std::string summary(const char* text) {
  std::string result;
  int lines = 0;
  for (const char* at = text; *at && lines < 4;) {
    const char* end = strchr(at, '\n');
    std::string line(at, end ? static_cast<size_t>(end - at) : strlen(at));
    if (line.find("ERROR:") != std::string::npos || line.find(" #0 ") != std::string::npos ||
        line.find("is located") != std::string::npos) {
      result += (lines++ ? " | " : "") + line;
    }
    if (!end) break;
    at = end + 1;
  }
  return result;
}

void on_report(const char* text) {
  if (!schedule.current) return;
  add_report("address", schedule.current, at(reinterpret_cast<uintptr_t>(__asan_get_report_pc()) + 1), summary(text));
}
__attribute__((constructor)) void install() { __asan_set_error_report_callback(on_report); }
}  // namespace
#endif
