// Operations that the lanes of a warp perform together. Each lane deposits a value; when all lanes of the mask have,
// each reads.
#pragma once

namespace gpe {
// bool, char and short travel as int, as CUDA's overloads make them.
template <class T>
using promoted = typename std::conditional<std::is_integral<T>::value && sizeof(T) < 4, int, T>::type;

// What `source` deposited. A lane outside the mask has nothing to give: CUDA leaves the value open, here it is all ones
// (a NaN).
template <class T>
GPE_UNCHECKED T shuffle(unsigned mask, T value, int source, bool in_segment, int kind, const char* file, int line) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 2, "CUDA shuffles values of 2, 4 or 8 bytes");
  unsigned present;
  const char* slots = gpe_collective(mask, &value, sizeof(T), kind, &present, file, line);
  if (!in_segment) return value;
  T result;
  if (present >> source & 1) {
    memcpy(&result, slots + SLOT * source, sizeof(T));
    return result;
  }
  gpe_warn("inactive lane",
           "the shuffle reads a lane that is not in the mask or does not exist: its value is undefined", file, line);
  memset(static_cast<void*>(&result), 0xff, sizeof(T));
  return result;
}

template <class T, class Combine>
GPE_UNCHECKED T reduce(unsigned mask, T value, Combine combine, const char* file, int line) {
  unsigned present;
  const char* slots = gpe_collective(mask, &value, sizeof(T), REDUCE, &present, file, line);
  bool first = true;
  T result{};
  for (int i = 0; i < 32; i++) {
    if (!(present >> i & 1)) continue;
    T other;
    memcpy(&other, slots + SLOT * i, sizeof(T));
    result = first ? other : combine(result, other);
    first = false;
  }
  return result;
}

// The lanes whose value equals this lane's.
template <class T>
GPE_UNCHECKED unsigned equal_lanes(unsigned mask, T value, unsigned* present, const char* file, int line) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "CUDA matches values of 4 or 8 bytes");
  const char* slots = gpe_collective(mask, &value, sizeof(T), MATCH, present, file, line);
  unsigned result = 0;
  for (int i = 0; i < 32; i++)
    if (*present >> i & 1 && memcmp(slots + SLOT * i, &value, sizeof(T)) == 0) result |= 1u << i;
  return result;
}
}  // namespace gpe

namespace {
GPE_UNCHECKED inline void __syncwarp(unsigned mask = 0xffffffffu, GPE_PLACE) {
  unsigned present;
  gpe_collective(mask, nullptr, 0, gpe::SYNC_WARP, &present, file, line);
}

// CUDA never promises that lanes run together, so one lane by itself is a correct answer, and one that shows who relied
// on more.
GPE_UNCHECKED inline unsigned __activemask() { return 1u << gpe::lane(); }

template <class T>
GPE_UNCHECKED inline gpe::promoted<T> __shfl_sync(unsigned mask, T value, int source, int width = 32, GPE_PLACE) {
  const int lane = gpe::lane();
  return gpe::shuffle<gpe::promoted<T>>(mask, value, (lane & ~(width - 1)) | (source & (width - 1)), true, gpe::SHUFFLE,
                                        file, line);
}
template <class T>
GPE_UNCHECKED inline gpe::promoted<T> __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                                                     GPE_PLACE) {
  const int lane = gpe::lane(), source = lane - static_cast<int>(delta);
  return gpe::shuffle<gpe::promoted<T>>(mask, value, source, source >= (lane & ~(width - 1)), gpe::SHUFFLE_UP, file,
                                        line);
}
template <class T>
GPE_UNCHECKED inline gpe::promoted<T> __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                                                       GPE_PLACE) {
  const int lane = gpe::lane(), source = lane + static_cast<int>(delta);
  return gpe::shuffle<gpe::promoted<T>>(mask, value, source, source <= (lane | (width - 1)), gpe::SHUFFLE_DOWN, file,
                                        line);
}
template <class T>
GPE_UNCHECKED inline gpe::promoted<T> __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, GPE_PLACE) {
  const int lane = gpe::lane(), source = lane ^ bits;
  return gpe::shuffle<gpe::promoted<T>>(mask, value, source, source <= (lane | (width - 1)), gpe::SHUFFLE_XOR, file,
                                        line);
}

GPE_UNCHECKED inline unsigned __ballot_sync(unsigned mask, int predicate, GPE_PLACE) {
  int value = predicate != 0;
  unsigned present, result = 0;
  const char* slots = gpe_collective(mask, &value, sizeof value, gpe::VOTE, &present, file, line);
  for (int i = 0; i < 32; i++) {
    int other;
    memcpy(&other, slots + gpe::SLOT * i, sizeof other);
    if (present >> i & 1 && other) result |= 1u << i;
  }
  return result;
}
GPE_UNCHECKED inline int __any_sync(unsigned mask, int predicate, GPE_PLACE) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}
GPE_UNCHECKED inline int __all_sync(unsigned mask, int predicate, GPE_PLACE) {
  return __ballot_sync(mask, !predicate, file, line) == 0;
}
GPE_UNCHECKED inline int __uni_sync(unsigned mask, int predicate, GPE_PLACE) {
  int value = predicate != 0;
  unsigned present;
  const unsigned same = gpe::equal_lanes(mask, value, &present, file, line);
  return same == present;
}

template <class T>
GPE_UNCHECKED inline unsigned __match_any_sync(unsigned mask, T value, GPE_PLACE) {
  unsigned present;
  return gpe::equal_lanes(mask, value, &present, file, line);
}
template <class T>
GPE_UNCHECKED inline unsigned __match_all_sync(unsigned mask, T value, int* all_equal, GPE_PLACE) {
  unsigned present;
  const unsigned same = gpe::equal_lanes(mask, value, &present, file, line);
  *all_equal = same == present;
  return *all_equal ? present : 0;
}

#define GPE_REDUCE(NAME, TYPE, EXPRESSION)                                                         \
  GPE_UNCHECKED inline TYPE NAME(unsigned mask, TYPE value, GPE_PLACE) {                           \
    return gpe::reduce(                                                                            \
        mask, value, [](TYPE a, TYPE b) GPE_UNCHECKED -> TYPE { return EXPRESSION; }, file, line); \
  }
GPE_REDUCE(__reduce_add_sync, unsigned, a + b)
GPE_REDUCE(__reduce_add_sync, int, static_cast<int>(static_cast<unsigned>(a) + static_cast<unsigned>(b)))
GPE_REDUCE(__reduce_min_sync, unsigned, a < b ? a : b)
GPE_REDUCE(__reduce_min_sync, int, a < b ? a : b)
GPE_REDUCE(__reduce_max_sync, unsigned, a > b ? a : b)
GPE_REDUCE(__reduce_max_sync, int, a > b ? a : b)
GPE_REDUCE(__reduce_and_sync, unsigned, a& b)
GPE_REDUCE(__reduce_or_sync, unsigned, a | b)
GPE_REDUCE(__reduce_xor_sync, unsigned, a ^ b)
#undef GPE_REDUCE
}  // namespace
