// Convolutions of several widths, ReLU and the maximum over time in one kernel, and their sparse gradients. README.md
// derives the equations.
//
//   y[b,f] = max(0, bias[f] + max over t of c[b,t,f])    c[b,t,f] = sum over k, c of x[b, t - left + k, c] * weight[f,k,c]
//
//   x (batch, length, channels)   y and winner (batch, features): winner is the first t of the largest c, or -1 where
//   y is not above 0, and so has no gradient
//   mask (batch, length) or null: only windows t that hold a position where it is true can win
//   count widths a..d, whose features begin at `first`: k the length of a window, f filters, l and r padding left and right
//
// Text is channels last, so a window is a run of kernel * channels neighbours, which starts at (t - left) * channels: its
// element r = (k,c) meets element r of the filter, and what lies outside the text counts as 0. The filters of all widths
// stand one behind the other in `joined`, made from the weights (kernel, channels, filters) of up to MOST convolutions.
#include "conv1d_relu_max.cuh"

constexpr int THREADS = 256, WARPS = THREADS / 32;

// joined[start of the width + f * kernel * channels + r] = weight[r, f], and bias[feature + f] = its bias, or 0.
template <typename T>
__global__ void __launch_bounds__(THREADS)
conv1d_relu_max_join(const T* __restrict__ weight0, const T* __restrict__ weight1, const T* __restrict__ weight2,
                     const T* __restrict__ weight3, const T* __restrict__ bias0, const T* __restrict__ bias1,
                     const T* __restrict__ bias2, const T* __restrict__ bias3, T* __restrict__ joined,
                     T* __restrict__ bias, int count, int first, int ka, int kb, int kc, int kd, int fa, int fb, int fc,
                     int fd, int la, int lb, int lc, int ld, int ra, int rb, int rc, int rd, int channels) {
  const Widths widths = {count, first, {ka, kb, kc, kd}, {fa, fb, fc, fd}, {la, lb, lc, ld}, {ra, rb, rc, rd}};
  __shared__ T square[SIDE][SIDE + 1];
  const SquareTiles tiles = {channels};
  const int total = tiles_of(widths, tiles), lane = threadIdx.x % SIDE;
  for (int tile = blockIdx.x; tile < total; tile += gridDim.x) {
    const Width w = width_of(widths, channels, tile, tiles);
    const T* weight = pick(w.index, weight0, weight1, weight2, weight3);
    const T* constant = pick(w.index, bias0, bias1, bias2, bias3);
    const int across = (w.filters + SIDE - 1) / SIDE, depth = w.kernel * channels;
    const int r0 = w.tile / across * SIDE, f0 = w.tile % across * SIDE;
    for (int i = threadIdx.x / SIDE; i < SIDE; i += THREADS / SIDE)
      if (r0 + i < depth && f0 + lane < w.filters) square[i][lane] = weight[(long long)(r0 + i) * w.filters + f0 + lane];
    __syncthreads();
    for (int i = threadIdx.x / SIDE; i < SIDE; i += THREADS / SIDE)
      if (f0 + i < w.filters && r0 + lane < depth)
        joined[w.start + (long long)(f0 + i) * depth + r0 + lane] = square[lane][i];
    if (r0 == 0 && threadIdx.x < SIDE && f0 + lane < w.filters)
      bias[w.feature + f0 + lane] = constant ? constant[f0 + lane] : T{};
    __syncthreads();
  }
}

constexpr int TILE = 64;                // windows and filters of a block
constexpr int EACH = 4;                 // neighbouring windows and filters of a thread
constexpr int ACROSS = TILE / EACH;     // threads a side
constexpr int PITCH = TILE + EACH;      // keeps rows aligned, and most banks apart
constexpr int PACKS = THREADS / TILE;   // packs of a window that a step reads, one a thread

struct FilterTiles {
  __device__ int operator()(int, int filters) const { return (filters + TILE - 1) / TILE; }
};

// A block owns TILE / span texts and TILE filters of one width: a matrix product of their windows, `span` of a text at a
// time, with the filters, of which only the largest of each column is kept. span is 16, 32 or 64. Windows without a token
// are not read, and if a whole tile has none, it is left out.
template <typename T, typename Acc>
__global__ void __launch_bounds__(THREADS, 2)
conv1d_relu_max_forward(const T* __restrict__ x, const bool* __restrict__ mask, const T* __restrict__ joined,
                        const T* __restrict__ bias, T* __restrict__ y, int* __restrict__ winner, int count, int first,
                        int ka, int kb, int kc, int kd, int fa, int fb, int fc, int fd, int la, int lb, int lc, int ld,
                        int ra, int rb, int rc, int rd, long long batch, int length, int channels, int features, int span,
                        bool packed) {
  const Widths widths = {count, first, {ka, kb, kc, kd}, {fa, fb, fc, fd}, {la, lb, lc, ld}, {ra, rb, rc, rd}};
  constexpr int SIZE = Pack<T>::SIZE, DEPTH = PACKS * SIZE;
  alignas(32) __shared__ Acc left[DEPTH][PITCH];
  alignas(32) __shared__ Acc right[DEPTH][PITCH];
  __shared__ Acc largest_of[ACROSS][TILE];
  __shared__ int winner_of[ACROSS][TILE];
  __shared__ bool seen[TILE];
  const int texts = TILE / span, filter_tiles = tiles_of(widths, FilterTiles());
  const long long total = (batch + texts - 1) / texts * filter_tiles;
  const int line = threadIdx.x / PACKS, place = threadIdx.x % PACKS * SIZE;  // what this thread reads of a step
  const int row = threadIdx.x / ACROSS * EACH, column = threadIdx.x % ACROSS * EACH;  // what it computes
  const long long whole = (long long)length * channels;

  for (long long tile = blockIdx.x; tile < total; tile += gridDim.x) {
    const long long first_text = quotient(tile, filter_tiles) * texts, text = first_text + line / span;
    const Width w = width_of(widths, channels, (int)(tile % filter_tiles), FilterTiles());
    const int windows = length + w.left + w.right - w.kernel + 1, depth = w.kernel * channels, filter0 = w.tile * TILE;
    const T* from_text = x + text * whole;
    const T* from_filter = joined + w.start + (long long)(filter0 + line) * depth;
    const int filter_stop = filter0 + line < w.filters ? depth : 0;
    Acc largest[EACH];
    int at[EACH];
#pragma unroll
    for (int j = 0; j < EACH; ++j) largest[j] = 0, at[j] = -1;

    for (int t0 = 0; t0 < windows; t0 += span) {
      bool mine = false;
      if (threadIdx.x < TILE) {
        const long long b = first_text + threadIdx.x / span;
        const int t = t0 + threadIdx.x % span;
        mine = b < batch && t < windows && (!mask || holds_token(mask + b * length, t, w.left, w.kernel, length));
        seen[threadIdx.x] = mine;
      }
      if (!__syncthreads_or(mine)) continue;
      const long long start = (long long)(t0 + line % span - w.left) * channels;
      const long long stop = !seen[line] ? 0 : start + depth < whole ? start + depth : whole;
      bool counts[EACH];
#pragma unroll
      for (int i = 0; i < EACH; ++i) counts[i] = seen[row + i];

      Acc result[EACH][EACH] = {};
      Pack<T> window = load_run(from_text, start + place, stop, packed);
      Pack<T> filter = load_run(from_filter, place, filter_stop, packed);
      for (int r0 = 0; r0 < depth; r0 += DEPTH) {
#pragma unroll
        for (int e = 0; e < SIZE; ++e) {
          left[place + e][line] = to_acc(window.v[e]);
          right[place + e][line] = to_acc(filter.v[e]);
        }
        __syncthreads();
        if (r0 + DEPTH < depth) {  // on their way while this step is computed
          window = load_run(from_text, start + r0 + DEPTH + place, stop, packed);
          filter = load_run(from_filter, r0 + DEPTH + place, filter_stop, packed);
        }
#pragma unroll
        for (int r = 0; r < DEPTH; ++r) {
          const Pack<Acc, EACH> a = load_pack<Acc, EACH>(&left[r][row]), b = load_pack<Acc, EACH>(&right[r][column]);
#pragma unroll
          for (int i = 0; i < EACH; ++i)
#pragma unroll
            for (int j = 0; j < EACH; ++j) result[i][j] += a.v[i] * b.v[j];
        }
        __syncthreads();
      }
#pragma unroll
      for (int i = 0; i < EACH; ++i) {
        const int t = t0 + (row + i) % span;
#pragma unroll
        for (int j = 0; j < EACH; ++j)
          if (counts[i] && wins(result[i][j], t, largest[j], at[j])) largest[j] = result[i][j], at[j] = t;
      }
    }

#pragma unroll
    for (int j = 0; j < EACH; ++j) {
      largest_of[row / EACH][column + j] = largest[j];
      winner_of[row / EACH][column + j] = at[j];
    }
    __syncthreads();
    const int of_text = threadIdx.x / TILE, filter = filter0 + threadIdx.x % TILE;
    const long long b = first_text + of_text;
    if (of_text < texts && b < batch && filter < w.filters) {
      Acc top = 0;
      int t = -1;
      for (int i = of_text * span / EACH; i < (of_text + 1) * span / EACH; ++i) {
        const Acc other = largest_of[i][threadIdx.x % TILE];
        const int where = winner_of[i][threadIdx.x % TILE];
        if (where >= 0 && wins(other, where, top, t)) top = other, t = where;
      }
      if (t >= 0) top += to_acc(bias[w.feature + filter]);
      const T value = from_acc<T>(top < 0 ? Acc(0) : top);
      y[b * features + w.feature + filter] = value;
      winner[b * features + w.feature + filter] = to_acc(value) > 0 ? t : -1;
    }
  }
}

constexpr int FILTERS = 4;  // of a block that sums over texts

template <typename T> struct GradientTiles {
  static constexpr int RUN = 32 * Pack<T>::SIZE;  // elements of a filter that a warp holds
  int channels;
  __device__ int operator()(int kernel, int filters) const {
    return ((kernel * channels + RUN - 1) / RUN) * ((filters + FILTERS - 1) / FILTERS);
  }
};

// dweight[r,f] = sum over b of dy[b,f] * element r of the window that won, dbias[f] = sum over b of dy[b,f], where there
// is a winner. A block owns FILTERS filters and a run of r; each warp adds every eighth text in order, then the warps'
// sums are added in order. Those that are null are not wanted.
template <typename T, typename Acc>
__global__ void __launch_bounds__(THREADS, sizeof(T) == 4 ? 3 : 2)
conv1d_relu_max_backward_weight(const T* __restrict__ x, const T* __restrict__ dy, const int* __restrict__ winner,
                                T* __restrict__ dweight0, T* __restrict__ dweight1, T* __restrict__ dweight2,
                                T* __restrict__ dweight3, T* __restrict__ dbias0, T* __restrict__ dbias1,
                                T* __restrict__ dbias2, T* __restrict__ dbias3, int count, int first, int ka, int kb,
                                int kc, int kd, int fa, int fb, int fc, int fd, int la, int lb, int lc, int ld, int ra,
                                int rb, int rc, int rd, long long batch, int length, int channels, int features,
                                bool packed) {
  const Widths widths = {count, first, {ka, kb, kc, kd}, {fa, fb, fc, fd}, {la, lb, lc, ld}, {ra, rb, rc, rd}};
  constexpr int SIZE = Pack<T>::SIZE, RUN = GradientTiles<T>::RUN;
  __shared__ Acc sums_of[WARPS][FILTERS][RUN + 8];  // 8 more keep the banks of the filters apart
  __shared__ Acc bias_of[WARPS][FILTERS];
  const GradientTiles<T> tiles = {channels};
  const int total = tiles_of(widths, tiles), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const long long whole = (long long)length * channels;

  for (int tile = blockIdx.x; tile < total; tile += gridDim.x) {
    const Width w = width_of(widths, channels, tile, tiles);
    const int across = (w.filters + FILTERS - 1) / FILTERS, depth = w.kernel * channels;
    const int filter0 = w.tile % across * FILTERS, r0 = w.tile / across * RUN;
    Acc sums[FILTERS][SIZE] = {}, bias[FILTERS] = {};
    for (long long b = warp; b < batch; b += WARPS) {
      Pack<T> window[FILTERS];
      Acc g[FILTERS];
#pragma unroll
      for (int f = 0; f < FILTERS; ++f) {
        const long long i = b * features + w.feature + filter0 + f;
        const int t = filter0 + f < w.filters ? winner[i] : -1;
        const long long start = (long long)(t - w.left) * channels;
        const long long stop = t < 0 ? 0 : start + depth < whole ? start + depth : whole;
        g[f] = t < 0 ? Acc(0) : to_acc(dy[i]);
        window[f] = load_run(x + b * whole, start + r0 + lane * SIZE, stop, packed);
      }
#pragma unroll
      for (int f = 0; f < FILTERS; ++f) {
        bias[f] += g[f];
#pragma unroll
        for (int e = 0; e < SIZE; ++e) sums[f][e] += g[f] * to_acc(window[f].v[e]);
      }
    }
#pragma unroll
    for (int f = 0; f < FILTERS; ++f) {
#pragma unroll
      for (int e = 0; e < SIZE; ++e) sums_of[warp][f][lane * SIZE + e] = sums[f][e];
      if (lane == 0) bias_of[warp][f] = bias[f];
    }
    __syncthreads();
    T* dweight = pick(w.index, dweight0, dweight1, dweight2, dweight3);
    T* dbias = pick(w.index, dbias0, dbias1, dbias2, dbias3);
    for (int i = threadIdx.x; dweight && i < FILTERS * RUN; i += THREADS) {
      const int f = i % FILTERS, r = i / FILTERS;
      if (filter0 + f >= w.filters || r0 + r >= depth) continue;
      Acc sum = sums_of[0][f][r];
      for (int other = 1; other < WARPS; ++other) sum += sums_of[other][f][r];
      dweight[(long long)(r0 + r) * w.filters + filter0 + f] = from_acc<T>(sum);
    }
    if (dbias && r0 == 0 && threadIdx.x < FILTERS && filter0 + threadIdx.x < w.filters) {
      Acc sum = bias_of[0][threadIdx.x];
      for (int other = 1; other < WARPS; ++other) sum += bias_of[other][threadIdx.x];
      dbias[filter0 + threadIdx.x] = from_acc<T>(sum);
    }
    __syncthreads();
  }
}

// dx[b,l,c] = sum over the features f whose winning window holds l of dy[b,f] * weight[f, l + left - winner[b,f], c].
// A warp owns a run of channels at one position. It asks 32 features at a time, and adds those that hit in order.
// add: to what dx holds already.
template <typename T, typename Acc>
__global__ void __launch_bounds__(THREADS, 4)  // without, some compilers save registers, and spill
conv1d_relu_max_backward_input(const T* __restrict__ dy, const int* __restrict__ winner, const T* __restrict__ joined,
                               T* __restrict__ dx, int count, int first, int ka, int kb, int kc, int kd, int fa, int fb,
                               int fc, int fd, int la, int lb, int lc, int ld, int ra, int rb, int rc, int rd,
                               long long batch, int length, int channels, int features, bool packed, bool add) {
  const Widths widths = {count, first, {ka, kb, kc, kd}, {fa, fb, fc, fd}, {la, lb, lc, ld}, {ra, rb, rc, rd}};
  constexpr int SIZE = Pack<T>::SIZE, RUN = 32 * SIZE;
  const int lane = threadIdx.x % 32, runs = (channels + RUN - 1) / RUN;
  for (long long item = grid_thread() / 32; item < batch * length * runs; item += grid_threads() / 32) {
    const long long position = quotient(item, runs), b = quotient(position, length);
    const int l = (int)(position - b * length), c = (int)(item - position * runs) * RUN + lane * SIZE;
    T* to = dx + position * channels;
    const Pack<T> before = load_run(to, c, add ? channels : 0, packed);
    Acc sums[SIZE];
#pragma unroll
    for (int e = 0; e < SIZE; ++e) sums[e] = to_acc(before.v[e]);
    int feature = widths.first;
    long long start = 0;
    for (int i = 0; i < widths.count; ++i) {
      const int kernel = pick(i, widths.kernel), filters = pick(i, widths.filters), left = pick(i, widths.left);
      for (int f0 = 0; f0 < filters; f0 += 32) {
        const int f = f0 + lane, t = f < filters ? winner[b * features + feature + f] : -1, k = l + left - t;
        const bool hit = t >= 0 && k >= 0 && k < kernel;
        const Acc g = hit ? to_acc(dy[b * features + feature + f]) : Acc(0);
        for (unsigned hits = __ballot_sync(0xffffffffu, hit); hits != 0; hits &= hits - 1) {
          const int other = __ffs(hits) - 1;
          const long long tap = (long long)(f0 + other) * kernel + __shfl_sync(0xffffffffu, k, other);
          const Acc factor = __shfl_sync(0xffffffffu, g, other);
          const Pack<T> weight = load_run(joined + start + tap * channels, c, channels, packed);
#pragma unroll
          for (int e = 0; e < SIZE; ++e) sums[e] += factor * to_acc(weight.v[e]);
        }
      }
      feature += filters;
      start += (long long)filters * kernel * channels;
    }
    Pack<T> result;
#pragma unroll
    for (int e = 0; e < SIZE; ++e) result.v[e] = from_acc<T>(sums[e]);
    if (packed) {
      if (c < channels) store_pack(to + c, result);
    } else {
#pragma unroll
      for (int e = 0; e < SIZE; ++e)
        if (c + e < channels) to[c + e] = result.v[e];
    }
  }
}
