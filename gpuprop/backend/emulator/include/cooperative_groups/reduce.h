// cooperative_groups::reduce of the values of a tile: each thread gets the result.
#pragma once
#include <cooperative_groups.h>

namespace cooperative_groups {
#define GPE_FUNCTOR(NAME, EXPRESSION)                    \
  template <class T>                                     \
  struct NAME {                                          \
    T operator()(T a, T b) const { return EXPRESSION; } \
  };
GPE_FUNCTOR(plus, a + b)
GPE_FUNCTOR(less, b < a ? b : a)
GPE_FUNCTOR(greater, a < b ? b : a)
GPE_FUNCTOR(bit_and, a& b)
GPE_FUNCTOR(bit_or, a | b)
GPE_FUNCTOR(bit_xor, a ^ b)
#undef GPE_FUNCTOR

template <unsigned Size, class Parent, class T, class Combine>
T reduce(const thread_block_tile<Size, Parent>& tile, T value, Combine combine, GPE_PLACE) {
  for (unsigned bits = Size / 2; bits > 0; bits /= 2) value = combine(value, tile.shfl_xor(value, bits, file, line));
  return value;
}
template <class T, class Combine>
T reduce(const coalesced_group& group, T value, Combine combine, GPE_PLACE) {
  T result = group.shfl(value, 0, file, line);
  for (unsigned rank = 1; rank < group.size(); rank++) result = combine(result, group.shfl(value, rank, file, line));
  return result;
}
}  // namespace cooperative_groups
