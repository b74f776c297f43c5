// Of cooperative groups, those inside a warp: tiles of 1 to 32 threads, and the threads that happen to be together. A
// tile is a mask of lanes; what its threads do together are the _sync functions with that mask.
#pragma once

namespace cooperative_groups {
// Lanes of this thread's warp, the thread itself among them.
class lanes {
 public:
  explicit lanes(unsigned mask) : mask_(mask) {}
  unsigned thread_rank() const { return __popc(mask_ & ((1u << gpe::lane()) - 1)); }
  unsigned num_threads() const { return __popc(mask_); }
  unsigned size() const { return num_threads(); }
  void sync(GPE_PLACE) const { __syncwarp(mask_, file, line); }
  template <class T>
  T shfl(T value, int rank, GPE_PLACE) const {
    return static_cast<T>(__shfl_sync(mask_, value, lane_of(rank % static_cast<int>(size())), 32, file, line));
  }
  // As in CUDA, a thread beyond whose end the source would lie keeps its own value.
  template <class T>
  T shfl_up(T value, unsigned delta, GPE_PLACE) const {
    const unsigned rank = thread_rank();
    return from(value, delta > rank ? rank : rank - delta, file, line);
  }
  template <class T>
  T shfl_down(T value, unsigned delta, GPE_PLACE) const {
    const unsigned rank = thread_rank();
    return from(value, delta >= size() - rank ? rank : rank + delta, file, line);
  }
  int any(int predicate, GPE_PLACE) const { return __any_sync(mask_, predicate, file, line); }
  int all(int predicate, GPE_PLACE) const { return __all_sync(mask_, predicate, file, line); }
  unsigned ballot(int predicate, GPE_PLACE) const { return ranks_of(__ballot_sync(mask_, predicate, file, line)); }
  template <class T>
  unsigned match_any(T value, GPE_PLACE) const {
    return ranks_of(__match_any_sync(mask_, value, file, line));
  }
  template <class T>
  unsigned match_all(T value, int& all_equal, GPE_PLACE) const {
    return ranks_of(__match_all_sync(mask_, value, &all_equal, file, line));
  }

 protected:
  friend class thread_group;
  template <class T>
  T from(T value, unsigned rank, const char* file, int line) const {
    return static_cast<T>(__shfl_sync(mask_, value, lane_of(rank), 32, file, line));
  }
  int lane_of(unsigned rank) const {
    unsigned left = mask_;
    while (rank--) left &= left - 1;
    return __ffs(left) - 1;
  }
  unsigned ranks_of(unsigned lanes) const {
    unsigned ranks = 0;
    for (unsigned rank = 0; rank < size(); rank++) ranks |= (lanes >> lane_of(rank) & 1) << rank;
    return ranks;
  }
  unsigned mask_;
};

template <unsigned Size, class Parent = void>
class thread_block_tile;

template <unsigned Size>
class thread_block_tile<Size, void> : public lanes {
  static_assert(Size >= 1 && (Size & (Size - 1)) == 0, "the size of a tile is a power of two");
  static_assert(Size <= 32, "tiles of more than 32 threads are not emulated");

 public:
  thread_block_tile(unsigned rank_in_parent, unsigned parent_size)
      : lanes(static_cast<unsigned>((1ull << Size) - 1) << (gpe::lane() & ~(Size - 1))),
        meta_rank_(rank_in_parent / Size),
        meta_size_((parent_size + Size - 1) / Size) {}
  static constexpr unsigned num_threads() { return Size; }
  static constexpr unsigned size() { return Size; }
  unsigned meta_group_rank() const { return meta_rank_; }
  unsigned meta_group_size() const { return meta_size_; }
  template <class T>
  T shfl_xor(T value, unsigned bits, GPE_PLACE) const {
    return static_cast<T>(__shfl_xor_sync(mask_, value, static_cast<int>(bits), Size, file, line));
  }

 private:
  unsigned meta_rank_, meta_size_;
};

template <unsigned Size, class Parent>
class thread_block_tile : public thread_block_tile<Size, void> {
 public:
  using thread_block_tile<Size, void>::thread_block_tile;
};

template <unsigned Size, class Parent>
thread_block_tile<Size, Parent> tiled_partition(const Parent& parent) {
  return {parent.thread_rank(), parent.num_threads()};
}

class coalesced_group : public lanes {
 public:
  using lanes::lanes;
};
inline coalesced_group coalesced_threads() { return coalesced_group(__activemask()); }

// Any group of a block, its kind known when it runs. A mask of 0: the whole block.
class thread_group {
 public:
  thread_group(const thread_block&) : mask_(0) {}
  thread_group(const lanes& group) : mask_(group.mask_) {}
  unsigned thread_rank() const { return mask_ ? lanes(mask_).thread_rank() : thread_block::thread_rank(); }
  unsigned num_threads() const { return mask_ ? lanes(mask_).num_threads() : thread_block::num_threads(); }
  unsigned size() const { return num_threads(); }
  void sync(GPE_PLACE) const { mask_ ? __syncwarp(mask_, file, line) : __syncthreads(file, line); }

 private:
  unsigned mask_;
};
inline thread_group tiled_partition(const thread_group&, unsigned size) {
  return lanes(static_cast<unsigned>((1ull << size) - 1) << (gpe::lane() & ~(size - 1)));
}

inline void sync(const lanes& group, GPE_PLACE) { group.sync(file, line); }
inline void sync(const thread_group& group, GPE_PLACE) { group.sync(file, line); }
}  // namespace cooperative_groups
