// cooperative_groups::inclusive_scan and exclusive_scan of the values of a tile, in the order of its threads.
#pragma once
#include <cooperative_groups/reduce.h>

namespace cooperative_groups {
template <class Group, class T, class Combine>
T inclusive_scan(const Group& group, T value, Combine combine, GPE_PLACE) {
  for (unsigned distance = 1; distance < group.size(); distance *= 2) {
    const T other = group.shfl_up(value, distance, file, line);
    if (group.thread_rank() >= distance) value = combine(other, value);
  }
  return value;
}
template <class Group, class T>
T inclusive_scan(const Group& group, T value, GPE_PLACE) {
  return inclusive_scan(group, value, plus<T>(), file, line);
}
template <class Group, class T, class Combine>
T exclusive_scan(const Group& group, T value, Combine combine, GPE_PLACE) {
  const T before = group.shfl_up(inclusive_scan(group, value, combine, file, line), 1, file, line);
  return group.thread_rank() ? before : T();
}
template <class Group, class T>
T exclusive_scan(const Group& group, T value, GPE_PLACE) {
  return exclusive_scan(group, value, plus<T>(), file, line);
}
}  // namespace cooperative_groups
