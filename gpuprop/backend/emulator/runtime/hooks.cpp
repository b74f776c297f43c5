// The kernel file is compiled with -fsanitize=thread, which puts a call in front of each access to memory that another
// thread could reach. The calls end here: ThreadSanitizer's own library is not linked.
#include <cstddef>
#include <cstring>

#include "checker.h"
#include "scheduler.h"

using namespace gpe;

#define GPE_CALLER \
  (Place{reinterpret_cast<uintptr_t>(__builtin_return_address(0)), __builtin_frame_address(0), nullptr, 0})
#define GPE_CHECK_ACCESS(address, bytes, is_write, kind) \
  if (schedule.current && checking())                    \
  check_access({reinterpret_cast<uintptr_t>(address), static_cast<unsigned>(bytes), is_write, kind}, GPE_CALLER)
#define GPE_HOOK(NAME, BYTES, KIND)                                                         \
  void __tsan_##NAME##read##BYTES(void* p) {                                                \
    if (!schedule.current || !checking()) return;                                           \
    if (KIND == Kind::plain && already_read(reinterpret_cast<uintptr_t>(p), BYTES)) return; \
    check_access({reinterpret_cast<uintptr_t>(p), BYTES, false, KIND}, GPE_CALLER);         \
  }                                                                                         \
  void __tsan_##NAME##write##BYTES(void* p) { GPE_CHECK_ACCESS(p, BYTES, true, KIND); }
#define GPE_HOOKS(NAME, KIND) \
  GPE_HOOK(NAME, 1, KIND)     \
  GPE_HOOK(NAME, 2, KIND) GPE_HOOK(NAME, 4, KIND) GPE_HOOK(NAME, 8, KIND) GPE_HOOK(NAME, 16, KIND)

// Structs copied whole: in pieces, as the GPU does, each with the alignment it can have.
static void check_range(void* p, size_t bytes, bool write, const Place& place) {
  for (auto at = reinterpret_cast<uintptr_t>(p), end = at + bytes; at < end;) {
    size_t piece = 16;
    while (at % piece || piece > end - at) piece /= 2;
    check_access({at, static_cast<unsigned>(piece), write, Kind::plain}, place);
    at += piece;
  }
}

#pragma GCC visibility push(default)
extern "C" {
GPE_HOOKS(, Kind::plain)
GPE_HOOKS(unaligned_, Kind::plain)
GPE_HOOKS(volatile_, Kind::relaxed)
GPE_HOOKS(unaligned_volatile_, Kind::relaxed)

#define GPE_READ_WRITE(BYTES)                        \
  void __tsan_read_write##BYTES(void* p) {           \
    GPE_CHECK_ACCESS(p, BYTES, false, Kind::plain);  \
    GPE_CHECK_ACCESS(p, BYTES, true, Kind::plain);   \
  }                                                  \
  void __tsan_unaligned_read_write##BYTES(void* p) { \
    GPE_CHECK_ACCESS(p, BYTES, false, Kind::plain);  \
    GPE_CHECK_ACCESS(p, BYTES, true, Kind::plain);   \
  }
GPE_READ_WRITE(1)
GPE_READ_WRITE(2)
GPE_READ_WRITE(4)
GPE_READ_WRITE(8)
GPE_READ_WRITE(16)
#define GPE_CHECK_RANGE(p, bytes, is_write) \
  if (schedule.current && checking()) check_range(p, bytes, is_write, GPE_CALLER)
void __tsan_read_range(void* p, size_t bytes) { GPE_CHECK_RANGE(p, bytes, false); }
void __tsan_write_range(void* p, size_t bytes) { GPE_CHECK_RANGE(p, bytes, true); }
// Clang from version 15 on.
void* __tsan_memcpy(void* to, void* from, size_t bytes) {
  GPE_CHECK_RANGE(from, bytes, false);
  GPE_CHECK_RANGE(to, bytes, true);
  return memcpy(to, from, bytes);
}
void* __tsan_memmove(void* to, void* from, size_t bytes) {
  GPE_CHECK_RANGE(from, bytes, false);
  GPE_CHECK_RANGE(to, bytes, true);
  return memmove(to, from, bytes);
}
void* __tsan_memset(void* to, int value, size_t bytes) {
  GPE_CHECK_RANGE(to, bytes, true);
  return memset(to, value, bytes);
}

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

#pragma GCC visibility pop

void gpe_touch(const void* address, unsigned bytes, int is_write, const char* file, int line) {
  if (checking())
    check_access({reinterpret_cast<uintptr_t>(address), bytes, is_write != 0, Kind::plain}, at(file, line));
}
}  // extern "C"
