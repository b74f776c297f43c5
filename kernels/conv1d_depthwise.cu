// Depthwise convolution with stride 1 over text, channels last, and its gradients, at the speed of memory. README.md derives
// the equations; the simple versions are conv1d_forward_narrow, conv1d_backward_input_narrow and _weight_narrow in conv1d.cu.
//
//   y[b,t,c] = bias[c] + sum over k < K of  x[b, t - padding + k * dilation, c] * weight[k,c]
//
//   x (batch, length, channels)   weight (K, channels)   y (batch, out_length, channels)   x outside 0..length-1 is 0
//
// A thread owns 16 or 8 bytes of neighbouring channels and walks through time in steps of `dilation`: each number is loaded once,
// and what K outputs need of it stays in registers. A walk is a text, one of the `dilation` residues, and one of `pieces`
// runs of `run` steps; a block is `across` threads along channels (a power of two up to 32) times walkers, and the walks
// are shared by `parts` blocks.
#include "common.cuh"

constexpr int THREADS = 128, ADDERS = 1024;  // a block that walks, and one that adds partial sums

// What of a row is in one register: a number, or two of half types. Apart, each of those would take a register.
template <typename T> struct Word {
  using Type = T;
  static constexpr int SIZE = 1;
  __device__ static void unpack(T word, T* v) { v[0] = word; }
  __device__ static T pack(const T* v) { return v[0]; }
};
template <> struct Word<__half> {
  using Type = unsigned;
  static constexpr int SIZE = 2;
  __device__ static void unpack(unsigned word, float* v) {
    const float2 two = __half22float2(reinterpret_cast<const __half2&>(word));
    v[0] = two.x, v[1] = two.y;
  }
  __device__ static unsigned pack(const float* v) {
    const __half2 two = __floats2half2_rn(v[0], v[1]);
    return reinterpret_cast<const unsigned&>(two);
  }
};
template <> struct Word<__nv_bfloat16> {
  using Type = unsigned;
  static constexpr int SIZE = 2;
  __device__ static void unpack(unsigned word, float* v) {
    const float2 two = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(word));
    v[0] = two.x, v[1] = two.y;
  }
  __device__ static unsigned pack(const float* v) {
    const __nv_bfloat162 two = __floats2bfloat162_rn(v[0], v[1]);
    return reinterpret_cast<const unsigned&>(two);
  }
};

// Channels of a thread: 16 bytes, or 8 of half types where there are so many taps that sums of 16 would take all registers.
template <typename T, int K> constexpr int CHANNELS = (sizeof(T) == 2 && K >= 5 ? 8 : 16) / sizeof(T);

// They as they are moved.
template <typename T, int SIZE> using Row = Pack<typename Word<T>::Type, SIZE / Word<T>::SIZE>;
template <int SIZE, typename T> __device__ inline Row<T, SIZE> load_row(const T* from) {
  return load_pack<typename Word<T>::Type, SIZE / Word<T>::SIZE>(reinterpret_cast<const typename Word<T>::Type*>(from));
}
template <typename T, int N> __device__ inline void store_row(T* to, const Pack<typename Word<T>::Type, N>& row) {
  store_pack(reinterpret_cast<typename Word<T>::Type*>(to), row);
}
template <typename T, typename Acc, int SIZE> __device__ inline void unpack(const Row<T, SIZE>& row, Acc (&v)[SIZE]) {
#pragma unroll
  for (int e = 0; e < SIZE / Word<T>::SIZE; ++e) Word<T>::unpack(row.v[e], v + e * Word<T>::SIZE);
}
template <typename T, typename Acc, int SIZE> __device__ inline Row<T, SIZE> packed(const Acc (&v)[SIZE]) {
  Row<T, SIZE> row;
#pragma unroll
  for (int e = 0; e < SIZE / Word<T>::SIZE; ++e) row.v[e] = Word<T>::pack(v + e * Word<T>::SIZE);
  return row;
}

// How many blocks a processor has registers for, if a thread holds so many bytes, and other registers besides: without this
// some compilers want more blocks, and spill.
constexpr int blocks(int bytes, int others) { return 65536 / (THREADS * (bytes / 4 + others)); }
template <typename T, int K> constexpr int ROW_BYTES = CHANNELS<T, K> * sizeof(T);
// Rows that are loaded before the first of them is used: forward, and backward of x and dy each.
template <typename T, int K> constexpr int AHEAD = 64 / ROW_BYTES<T, K>;
template <typename T, int K> constexpr int AHEAD_OF_BOTH = 32 / ROW_BYTES<T, K>;
template <typename T, typename Acc, int K>
constexpr int FORWARD = blocks(2 * K * CHANNELS<T, K> * sizeof(Acc) + 64, sizeof(T) == 2 ? 40 : 32);
template <typename T, typename Acc, int K>
constexpr int BACKWARD = blocks((2 * K + 1) * CHANNELS<T, K> * sizeof(Acc) + K * ROW_BYTES<T, K> + 64, 48);

// What a thread works on: its first channel, and walks first, first + step, ... before last.
struct Share {
  int column;
  long long first, last;
  int step, part;
};
template <int SIZE> __device__ inline Share share(int channels, int across, int parts, long long walks) {
  const int tiles = (channels / SIZE + across - 1) / across, part = blockIdx.x / tiles;
  const int lane = threadIdx.x % across, walker = threadIdx.x / across;
  return {(int)((blockIdx.x % tiles) * across + lane) * SIZE, walks * part / parts + walker, walks * (part + 1) / parts,
          (int)(THREADS / across), part};
}

// A walk: its text, its residue, its steps first .. last of `steps(residue)`.
struct Walk {
  long long text;
  int residue, first, last;
};
__device__ inline Walk walk(long long w, int total, int dilation, int pieces, int run) {
  const long long above = quotient(w, dilation), text = quotient(above, pieces);
  const int residue = (int)(w - above * dilation), first = (int)(above - text * pieces) * run;
  const int steps = total > residue ? (total - residue + dilation - 1) / dilation : 0;
  return {text, residue, first, first + run < steps ? first + run : steps};
}

// y; with `flipped`, taps in the other order: dx from dy, with padding (K - 1) * dilation - padding. bias may be null.
// An input adds to K outputs: sum[j] is the one that ends j + 1 steps later, and moves on by one each step.
template <typename T, typename Acc, int K>
__global__ void __launch_bounds__(THREADS, FORWARD<T, Acc, K>)
conv1d_depthwise_forward(const T* __restrict__ x, const T* __restrict__ weight, const T* __restrict__ bias,
                         T* __restrict__ y, int batch, int length, int channels, int out_length, int padding, int dilation,
                         int flipped, int across, int parts, int pieces, int run) {
  constexpr int SIZE = CHANNELS<T, K>, NEXT = AHEAD<T, K>;
  const Share of = share<SIZE>(channels, across, parts, (long long)batch * pieces * dilation);
  if (of.column >= channels) return;
  Acc w[K][SIZE], start[SIZE];
#pragma unroll
  for (int e = 0; e < SIZE; ++e) {
    start[e] = bias ? to_acc(bias[of.column + e]) : Acc(0);
#pragma unroll
    for (int k = 0; k < K; ++k) w[k][e] = to_acc(weight[(flipped ? K - 1 - k : k) * (long long)channels + of.column + e]);
  }
  const long long step = (long long)dilation * channels;
  for (long long i = of.first; i < of.last; i += of.step) {
    const Walk at = walk(i, out_length, dilation, pieces, run);
    int l = at.residue + at.first * dilation - padding;
    const T* from = x + (at.text * length + l) * channels + of.column;
    T* to = y + (at.text * out_length + at.residue + at.first * (long long)dilation) * channels + of.column;
    Acc sum[K - 1][SIZE] = {};
    int ended = 0;
    for (int left = at.last - at.first + K - 1; left > 0; left -= NEXT) {  // inputs; a result ends with its K-th
      Row<T, SIZE> in[NEXT];
#pragma unroll
      for (int u = 0; u < NEXT; ++u, l += dilation, from += step)
        in[u] = u < left && l >= 0 && l < length ? load_row<SIZE>(from) : Row<T, SIZE>{};
#pragma unroll
      for (int u = 0; u < NEXT; ++u) {
        Acc v[SIZE], result[SIZE];
        unpack<T>(in[u], v);
#pragma unroll
        for (int e = 0; e < SIZE; ++e) {
          result[e] = sum[0][e] + w[K - 1][e] * v[e];
#pragma unroll
          for (int j = 0; j < K - 2; ++j) sum[j][e] = sum[j + 1][e] + w[K - 2 - j][e] * v[e];
          sum[K - 2][e] = start[e] + w[0][e] * v[e];
        }
        if (++ended < K) continue;
        if (u < left) store_row(to, packed<T>(result));
        to += step;
      }
    }
  }
}

// dx[b,l,c] = sum over k of dy[b, l + padding - k * dilation, c] * weight[k,c], and of each part of the walks
// partial[part,k,c] = sum of x[b,l,c] * dy[b, l + padding - k * dilation, c], partial[part,K,c] = sum of dy. Both need the same
// K rows of dy, which stay in registers: x and dy are loaded once. Step s is l = residue + s * dilation - padding. dx and
// partial may be null.
template <typename T, typename Acc, int K>
__global__ void __launch_bounds__(THREADS, BACKWARD<T, Acc, K>)
conv1d_depthwise_backward(const T* __restrict__ x, const T* __restrict__ dy, const T* __restrict__ weight,
                          T* __restrict__ dx, Acc* __restrict__ partial, int batch, int length, int channels, int out_length,
                          int padding, int dilation, int across, int parts, int pieces, int run) {
  constexpr int SIZE = CHANNELS<T, K>, NEXT = AHEAD_OF_BOTH<T, K>;
  const Share of = share<SIZE>(channels, across, parts, (long long)batch * pieces * dilation);
  const bool inside = of.column < channels;
  Acc w[K][SIZE], dw[K][SIZE] = {}, db[SIZE] = {};
#pragma unroll
  for (int k = 0; k < K; ++k)
#pragma unroll
    for (int e = 0; e < SIZE; ++e) w[k][e] = inside ? to_acc(weight[k * (long long)channels + of.column + e]) : Acc(0);
  const int total = length + padding > out_length ? length + padding : out_length;
  const long long step = (long long)dilation * channels;
  for (long long i = inside ? of.first : of.last; i < of.last; i += of.step) {
    const Walk at = walk(i, total, dilation, pieces, run);
    int t = at.residue + (at.first - (K - 1)) * dilation;
    const T* gradients = dy + (at.text * out_length + t) * channels + of.column;
    long long place = (at.text * length + t + (K - 1) * dilation - padding) * channels + of.column;
    Row<T, SIZE> window[K];  // window[k]: the row of dy k steps before this one
#pragma unroll
    for (int k = K - 2; k >= 0; --k, t += dilation, gradients += step)
      window[k] = t >= 0 && t < out_length ? load_row<SIZE>(gradients) : Row<T, SIZE>{};
    for (int left = at.last - at.first; left > 0; left -= NEXT) {
      Row<T, SIZE> next[NEXT], in[NEXT];
#pragma unroll
      for (int u = 0; u < NEXT; ++u, gradients += step) {
        const int now = t + u * dilation, l = now - padding;
        next[u] = u < left && now < out_length ? load_row<SIZE>(gradients) : Row<T, SIZE>{};
        in[u] = partial && u < left && l >= 0 && l < length ? load_row<SIZE>(x + place + u * step) : Row<T, SIZE>{};
      }
#pragma unroll
      for (int u = 0; u < NEXT; ++u, t += dilation, place += step) {
#pragma unroll
        for (int k = K - 1; k > 0; --k) window[k] = window[k - 1];
        window[0] = next[u];
        Acc v[SIZE], sum[SIZE] = {};
        unpack<T>(in[u], v);
#pragma unroll
        for (int k = 0; k < K; ++k) {
          Acc g[SIZE];
          unpack<T>(window[k], g);
#pragma unroll
          for (int e = 0; e < SIZE; ++e) {
            sum[e] += w[k][e] * g[e];
            dw[k][e] += v[e] * g[e];
            if (k == 0) db[e] += g[e];
          }
        }
        const int l = t - padding;
        if (dx && u < left && l >= 0 && l < length) store_row(dx + place, packed<T>(sum));
      }
    }
  }
  if (!partial) return;

  __shared__ Acc of_thread[THREADS * SIZE];
  for (int k = 0; k <= K; ++k) {
#pragma unroll
    for (int e = 0; e < SIZE; ++e) {
      Acc own = db[e];
#pragma unroll
      for (int j = 0; j < K; ++j) own = j == k ? dw[j][e] : own;  // an index the compiler knows: dw stays in registers
      of_thread[threadIdx.x * SIZE + e] = own;
    }
    __syncthreads();
    const int columns = across * SIZE, first = of.column - (int)(threadIdx.x % across) * SIZE;
    for (int c = threadIdx.x; c < columns && first + c < channels; c += THREADS) {
      Acc sum = 0;
      for (int other = c; other < THREADS * SIZE; other += columns) sum += of_thread[other];
      partial[((long long)of.part * (K + 1) + k) * channels + first + c] = sum;
    }
    __syncthreads();
  }
}

// The sums of partial over the parts: the first blocks, 32 numbers each, for dweight (kernel_size, channels), the others for
// dbias. Either may be null.
template <typename T, typename Acc>
__global__ void __launch_bounds__(ADDERS)
conv1d_depthwise_sum(const Acc* __restrict__ partial, T* __restrict__ dweight, T* __restrict__ dbias, int kernel_size,
                     int channels, int parts) {
  const int taps = kernel_size * channels, tiles = (taps + 31) / 32, tile = blockIdx.x;
  const long long stride = (kernel_size + 1LL) * channels;
  if (tile < tiles) {
    if (dweight) sum_of_parts<ADDERS>(partial, stride, parts, dweight, taps, tile);
  } else if (dbias) {
    sum_of_parts<ADDERS>(partial + taps, stride, parts, dbias, channels, tile - tiles);
  }
}
