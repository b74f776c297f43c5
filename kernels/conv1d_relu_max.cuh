// What the kernels of conv1d_relu_max.cu share: the widths, runs of elements, and which windows count.
#pragma once
#include "common.cuh"

constexpr int MOST = 4;  // convolutions of a launch

struct Widths {  // `first` is the first feature of the first width
  int count, first, kernel[MOST], filters[MOST], left[MOST], right[MOST];
};

// One of the widths: its first feature, where its filters begin in `joined`, and which of its tiles is meant.
struct Width {
  int index, kernel, filters, left, right, feature, tile;
  long long start;
};

template <typename P> __device__ inline P pick(int i, P a, P b, P c, P d) {
  return i == 0 ? a : i == 1 ? b : i == 2 ? c : d;
}
// a[i] of a parameter, which an index that varies would copy to memory first.
__device__ inline int pick(int i, const int (&a)[MOST]) { return pick(i, a[0], a[1], a[2], a[3]); }

// What tile number `tile` of all widths belongs to; tiles(kernel, filters) is how many a width has.
template <typename Tiles>
__device__ inline Width width_of(const Widths& widths, int channels, int tile, Tiles tiles) {
  int i = 0, feature = widths.first;
  long long start = 0;
  for (; i + 1 < widths.count; ++i) {
    const int kernel = pick(i, widths.kernel), filters = pick(i, widths.filters), count = tiles(kernel, filters);
    if (tile < count) break;
    tile -= count;
    feature += filters;
    start += (long long)filters * kernel * channels;
  }
  return {i, pick(i, widths.kernel), pick(i, widths.filters), pick(i, widths.left), pick(i, widths.right),
          feature, tile, start};
}

template <typename Tiles>
__device__ inline int tiles_of(const Widths& widths, Tiles tiles) {
  int sum = 0;
  for (int i = 0; i < widths.count; ++i) sum += tiles(pick(i, widths.kernel), pick(i, widths.filters));
  return sum;
}

constexpr int SIDE = 32;  // of the tiles that are transposed

struct SquareTiles {
  int channels;
  __device__ int operator()(int kernel, int filters) const {
    return ((kernel * channels + SIDE - 1) / SIDE) * ((filters + SIDE - 1) / SIDE);
  }
};

// Elements i.. of a run; zeros for those outside 0..stop-1. packed: i and stop are whole packs of a run that begins at one,
// as all are where a position is whole packs.
template <typename T>
__device__ inline Pack<T> load_run(const T* __restrict__ from, long long i, long long stop, bool packed) {
  Pack<T> pack = {};
  if (packed) {
    if (i >= 0 && i < stop) pack = load_pack(from + i);
  } else {
#pragma unroll
    for (int e = 0; e < Pack<T>::SIZE; ++e)
      if (i + e >= 0 && i + e < stop) pack.v[e] = from[i + e];
  }
  return pack;
}

// Whether window t of a text holds a real token.
__device__ inline bool holds_token(const bool* __restrict__ mask, int t, int left, int kernel, int length) {
  const int first = t - left, stop = first + kernel < length ? first + kernel : length;
  for (int l = first < 0 ? 0 : first; l < stop; ++l)
    if (mask[l]) return true;
  return false;
}
