// One launch, as the Python side describes it.
#pragma once
#include <cstdint>

#include "gpuprop_emulator/interface.h"

namespace gpe {

enum Space : uint32_t { ARGUMENT, SHARED, GLOBAL_VARIABLE, INTERNAL };  // INTERNAL: the compiler's, not checked

// Memory that a kernel may touch. Keep in step with module.py.
struct Range {
  uint64_t address;  // for all but ARGUMENT: relative to where the kernel's library is loaded
  uint64_t bytes;
  const char* name;
  uint32_t space, read_only;
};

struct Launch {
  void (*run)(void** arguments);
  void* const* arguments;
  const unsigned* sizes;
  uint32_t parameters;
  uint32_t grid[3], block[3], cluster[3];
  uint32_t dynamic_bytes, order;
  uint64_t seed;
  double time_limit;  // seconds
  uint32_t check, range_count;
  const Range* ranges;
};

// Where the running kernel's library is loaded. Among its variables the gaps between __shared__ arrays are out of
// bounds.
struct ModuleData {
  uintptr_t base, end;
  uintptr_t code_low, code_high;
  uintptr_t variables;                      // first byte of what can be written
  uintptr_t relocated_low, relocated_high;  // of that, what is constant after loading
  bool code(uintptr_t a) const { return a >= code_low && a < code_high; }
  bool constant(uintptr_t a) const {
    return a >= base && a < end && (a < variables || (a >= relocated_low && a < relocated_high));
  }
};
extern ModuleData running_module;
inline const ModuleData& module_data() { return running_module; }
inline uintptr_t module_base() { return module_data().base; }

// Of item `number` where `size` items lie along x, y and z.
uint3 position(uint64_t number, const uint32_t* size);

extern bool check_is_on;
inline bool checking() { return check_is_on; }

}  // namespace gpe
