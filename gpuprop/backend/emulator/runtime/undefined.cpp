// Where -fsanitize=undefined and its parts report to. The handlers are ours, so that no sanitizer library is needed:
// the layout of what they are given is the compilers' (GCC and Clang agree).
#include <cstdint>
#include <cstring>

#include "scheduler.h"

namespace {
using namespace gpe;

struct Location {
  const char* file;
  uint32_t line, column;
};
struct Type {
  uint16_t kind, info;  // kind 0: integer, info = (log2 of bits) * 2 + signed
  char name[1];
};

std::string value_text(const Type* type, uintptr_t handle) {
  if (type->kind != 0) return "a value";
  const unsigned bits = 1u << (type->info >> 1);
  if (bits > 64) return "a value";
  uint64_t value = handle;
  if (type->info & 1) {
    const unsigned unused = 64 - bits;
    return format("%lld", static_cast<long long>(static_cast<int64_t>(value << unused) >> unused));
  }
  return format("%llu", static_cast<unsigned long long>(bits == 64 ? value : value & ((uint64_t(1) << bits) - 1)));
}

// Where it is in the kernel: the handlers below set it to their caller, for what happens inside the shim's own inline
// functions.
Place caller;
#define GPE_FROM_HERE \
  caller = Place{reinterpret_cast<uintptr_t>(__builtin_return_address(0)), __builtin_frame_address(0), nullptr, 0}

void report(const Location& where, const std::string& text, const char* kind = "undefined behaviour") {
  if (!schedule.current) return;
  const bool in_shim = where.file && strstr(where.file, "/gpuprop_emulator/");
  add_report(kind, schedule.current, in_shim ? caller : at(where.file, static_cast<int>(where.line)), text);
}
struct Overflow {
  Location where;
  const Type* type;
};
struct OutOfBounds {
  Location where;
  const Type *array, *index;
};
struct Shift {
  Location where;
  const Type *left, *right;
};
struct FloatCast {
  Location where;
  const Type *from, *to;
};
struct Mismatch {
  Location where;
  const Type* type;
  unsigned char log_alignment, kind;
};
struct OnlyLocation {
  Location where;
};

void overflow(const Overflow* data, uintptr_t a, const char* sign, uintptr_t b) {
  report(data->where, format("integer overflow: %s %s %s does not fit in %s", value_text(data->type, a).c_str(), sign,
                             value_text(data->type, b).c_str(), data->type->name));
}
}  // namespace

#pragma GCC visibility push(default)
extern "C" {
void __ubsan_handle_add_overflow(Overflow* data, uintptr_t a, uintptr_t b) {
  GPE_FROM_HERE;
  overflow(data, a, "+", b);
}
void __ubsan_handle_sub_overflow(Overflow* data, uintptr_t a, uintptr_t b) {
  GPE_FROM_HERE;
  overflow(data, a, "-", b);
}
void __ubsan_handle_mul_overflow(Overflow* data, uintptr_t a, uintptr_t b) {
  GPE_FROM_HERE;
  overflow(data, a, "*", b);
}
void __ubsan_handle_negate_overflow(Overflow* data, uintptr_t a) {
  GPE_FROM_HERE;
  report(data->where,
         format("integer overflow: -(%s) does not fit in %s", value_text(data->type, a).c_str(), data->type->name));
}
// A division by zero would end the process on x86; on a GPU its result is undefined. Neither can go on.
void __ubsan_handle_divrem_overflow(Overflow* data, uintptr_t a, uintptr_t b) {
  GPE_FROM_HERE;
  report(data->where, format("division %s / %s", value_text(data->type, a).c_str(), value_text(data->type, b).c_str()));
  if (schedule.current) abandon();
}
void __ubsan_handle_shift_out_of_bounds(Shift* data, uintptr_t a, uintptr_t b) {
  GPE_FROM_HERE;
  report(data->where, format("shift out of range: %s shifted by %s, type %s", value_text(data->left, a).c_str(),
                             value_text(data->right, b).c_str(), data->left->name));
}
void __ubsan_handle_out_of_bounds(OutOfBounds* data, uintptr_t index) {
  GPE_FROM_HERE;
  report(data->where, format("index %s of type %s", value_text(data->index, index).c_str(), data->array->name),
         "out of bounds");
  if (schedule.current) abandon();
}
void __ubsan_handle_float_cast_overflow(void* given, uintptr_t) {
  GPE_FROM_HERE;
  // Without a known place the structure starts with a type, whose first bytes are no file name.
  const auto* data = static_cast<const FloatCast*>(given);
  const auto* first = reinterpret_cast<const unsigned char*>(data->where.file);
  if (!first || first[0] < 2 || first[0] == 0xff)
    return report({"", 0, 0}, "a floating-point value does not fit in the integer type");
  report(data->where, format("a value of type %s does not fit in %s", data->from->name, data->to->name));
}
void __ubsan_handle_type_mismatch_v1(Mismatch* data, uintptr_t address) {
  GPE_FROM_HERE;
  const uintptr_t alignment = uintptr_t(1) << data->log_alignment;
  if (address < 4096)
    report(data->where, format("at address %zu, of type %s", static_cast<size_t>(address), data->type->name),
           "null pointer");
  else if (address & (alignment - 1))
    report(
        data->where,
        format("the address for type %s must be a multiple of %zu", data->type->name, static_cast<size_t>(alignment)),
        "misaligned");
  else
    report(data->where, format("too little memory for an object of type %s", data->type->name), "out of bounds");
  if (schedule.current) abandon();
}
void __ubsan_handle_pointer_overflow(OnlyLocation* data, uintptr_t, uintptr_t) {
  GPE_FROM_HERE;
  report(data->where, "pointer arithmetic overflows");
}
void __ubsan_handle_load_invalid_value(OnlyLocation* data, uintptr_t) {
  GPE_FROM_HERE;
  report(data->where, "a bool or enum holds a value that is not one of its own");
}
void __ubsan_handle_vla_bound_not_positive(OnlyLocation* data, uintptr_t) {
  GPE_FROM_HERE;
  report(data->where, "an array of no positive size");
}
void __ubsan_handle_invalid_builtin(OnlyLocation* data) {
  GPE_FROM_HERE;
  report(data->where, "a bit count of 0");
}
void __ubsan_handle_nonnull_arg(OnlyLocation* data) {
  GPE_FROM_HERE;
  report(data->where, "a null pointer where none is allowed");
}
void __ubsan_handle_nonnull_return_v1(void*, Location* where) {
  GPE_FROM_HERE;
  report(*where, "a null pointer returned where none is allowed");
}
void __ubsan_handle_alignment_assumption(OnlyLocation* data, uintptr_t, uintptr_t, uintptr_t) {
  GPE_FROM_HERE;
  report(data->where, "an address is not aligned as assumed");
}
void __ubsan_handle_builtin_unreachable(OnlyLocation* data) {
  GPE_FROM_HERE;
  report(data->where, "execution reached a place marked as unreachable");
  if (schedule.current) abandon();
}
void __ubsan_handle_missing_return(OnlyLocation* data) {
  GPE_FROM_HERE;
  report(data->where, "a function ends without returning a value");
  if (schedule.current) abandon();
}
}
#pragma GCC visibility pop
