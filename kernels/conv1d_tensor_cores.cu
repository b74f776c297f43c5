// One-dimensional convolution on tensor cores, of stride 1 and one group, and the gradient of its input, which is another
// one. conv1d.cu has the simple versions; README.md derives the equations.
//
//   y[b,t,o] = bias[o] + sum over k, c of  x[b, t - left + k*dilation, c] * w(k, c, o)
//
//   x (batch, length, channels), 0 outside its length   y (batch, out_length, columns)
//   forward: w(k,c,o) = weight[k,c,o]      gradient of x, where x is dy: w(k,c,o) = weight[kernel_size - 1 - k, o, c]
//
// Texts lie end to end in `each` rows: row v = b * each + l + left holds x[b,l], and all others are 0, so that the zeros
// between two texts serve both. Output (b,t) is row q = b * each + t, and tap k of it reads row q + k * dilation: one
// tile of ROWS + reach rows in shared memory serves all taps, each a matrix that begins some rows further down. The
// few rows q with t >= out_length are computed and left out. A block makes ROWS x COLUMNS results: STEP packs of channels
// and a tap at a time, while the weights of the next tap, and the rows of the next channels, are on their way.
// Rows, those between texts among them, fit an int, as do the tiles (the launcher sees to it).
// x and y may begin anywhere and have any number of channels; those of whole packs of 16 bytes are copied without
// passing through registers. Half types are multiplied as they are, float as TF32; sums are float.
// Needs sm_80: below it is a trap, and whoever launches takes conv1d.cu.
#include "tensor_core.cuh"

constexpr int ROWS = 128, COLUMNS = 128;  // of the result a block computes
constexpr int REACH = 32;                 // (kernel_size - 1) * dilation, at most
constexpr int THREADS = 256;              // eight warps, two down and four across
constexpr int DOWN = 64, ACROSS = 32;     // rows and columns of a warp's part
constexpr int STEP = 4;                   // packs of the summed index that are in shared memory at a time
constexpr int M_TILES = DOWN / 16, N_TILES = ACROSS / 8;

// The sizes of the tiles, in elements. One pack more a row keeps eight rows in different banks, wherever they begin.
template <typename T, bool FORWARD> struct Tiles {
  static constexpr int PACK = 16 / sizeof(T), DEPTH = STEP * PACK, PITCH = DEPTH + PACK;
  static constexpr int WEIGHT_PITCH = FORWARD ? COLUMNS + 8 : PITCH;  // rows along columns, or along channels
  static constexpr int X = (ROWS + REACH) * PITCH, WEIGHT = (FORWARD ? DEPTH : COLUMNS) * WEIGHT_PITCH;
  static constexpr int LOADS = ((ROWS + REACH) * STEP + THREADS - 1) / THREADS;  // packs of x a thread
  static constexpr int WEIGHT_LOADS = COLUMNS * STEP / THREADS;
};

// A pack of shared memory: `count` elements from `from` on, zeros behind them.
template <typename T> __device__ inline void bring(T* to, const T* from, int count) {
  constexpr int PACK = 16 / sizeof(T);
  if (count >= PACK && reinterpret_cast<unsigned long long>(from) % 16 == 0) {
    copy_async(to, from, true);
    return;
  }
  Pack<T> pack = {};
#pragma unroll
  for (int e = 0; e < PACK; ++e)
    if (e < count) pack.v[e] = from[e];
  store_pack(to, pack);
}

// The weights of tap k, channels from `channel0` and columns from `column0` on.
template <typename T, bool FORWARD>
__device__ inline void bring_weights(T* tile, const T* weight, int k, int channel0, int column0, int kernel_size,
                                     int channels, int columns) {
  using Of = Tiles<T, FORWARD>;
  constexpr int A_ROW = FORWARD ? COLUMNS / Of::PACK : STEP;  // packs
#pragma unroll
  for (int i = 0; i < Of::WEIGHT_LOADS; ++i) {
    const int job = threadIdx.x + i * THREADS, row = job / A_ROW, part = job % A_ROW * Of::PACK;
    const int channel = channel0 + (FORWARD ? row : part), column = column0 + (FORWARD ? part : row);
    const int left = channel >= channels || column >= columns ? 0 : FORWARD ? columns - column : channels - channel;
    const long long at = FORWARD ? ((long long)k * channels + channel) * columns + column
                                 : ((long long)(kernel_size - 1 - k) * columns + column) * channels + channel;
    bring(tile + row * Of::WEIGHT_PITCH + part, weight + (left > 0 ? at : 0), left);
  }
}

__device__ inline void round_to_tf32(unsigned& bits) { bits = to_tf32(__uint_as_float(bits)); }

// b of the MMA_K channels from pack `part` on and the 16 columns from `column` on, for two products.
template <typename T, bool FORWARD>
__device__ inline void load_weights(unsigned (&b)[2][2], const T* tile, int part, int column) {
  using Of = Tiles<T, FORWARD>;
  const int lane = threadIdx.x % 32;
  unsigned r[4];
  if constexpr (!FORWARD) {
    const int row = column + lane / 16 * 8 + lane % 8;
    load_matrices(r, tile + row * Of::PITCH + (part + lane / 8 % 2) * Of::PACK);
  } else if constexpr (sizeof(T) == 2) {
    load_matrices_turned(r, tile + (part * Of::PACK + lane % 16) * Of::WEIGHT_PITCH + column + lane / 16 * 8);
  } else {  // there is no turning of 4-byte elements: one by one, without bank conflicts
    for (int i = 0; i < 4; ++i)
      r[i] = __float_as_uint(tile[(part * 4 + i % 2 * 4 + lane % 4) * Of::WEIGHT_PITCH + column + i / 2 * 8 + lane / 4]);
  }
  for (int i = 0; i < 4; ++i) {
    if (sizeof(T) == 4) round_to_tf32(r[i]);
    b[i / 2][i % 2] = r[i];
  }
}

// sum += (rows of x from `x` on) (weights of one tap), for this warp's part.
template <typename T, bool FORWARD>
__device__ inline void multiply(const T* x, const T* weights, float (&sum)[M_TILES][N_TILES][4]) {
  using Of = Tiles<T, FORWARD>;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const T* const first = x + (warp / 4 * DOWN + lane % 16) * Of::PITCH + lane / 16 * Of::PACK;
#pragma unroll
  for (int part = 0; part < STEP; part += 2) {
    unsigned a[M_TILES][4], b[N_TILES][2];
#pragma unroll
    for (int i = 0; i < M_TILES; ++i) {
      load_matrices(a[i], first + i * 16 * Of::PITCH + part * Of::PACK);
      if (sizeof(T) == 4)
        for (int e = 0; e < 4; ++e) round_to_tf32(a[i][e]);
    }
#pragma unroll
    for (int n = 0; n < N_TILES; n += 2) {
      unsigned two[2][2];
      load_weights<T, FORWARD>(two, weights, part, warp % 4 * ACROSS + n * 8);
      for (int e = 0; e < 2; ++e) b[n][e] = two[0][e], b[n + 1][e] = two[1][e];
    }
#pragma unroll
    for (int i = 0; i < M_TILES; ++i)
#pragma unroll
      for (int n = 0; n < N_TILES; ++n) mma<T>(sum[i][n], a[i], b[n]);
  }
}

// The results of a block to y, half of its rows at a time through shared memory, so that packs of a row are stored.
template <typename T>
__device__ inline void store(T* memory, const float (&sum)[M_TILES][N_TILES][4], const T* bias, T* y, int batch,
                             int out_length, int columns, int each, int row0, int column0) {
  constexpr int PACK = 16 / sizeof(T), PITCH = COLUMNS + PACK, A_ROW = COLUMNS / PACK;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int half = 0; half < ROWS / DOWN; ++half) {
    __syncthreads();
    if (warp / 4 == half) {
#pragma unroll
      for (int n = 0; n < N_TILES; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int column = warp % 4 * ACROSS + n * 8 + lane % 4 * 2 + e;
          const float more = bias && column0 + column < columns ? to_acc(bias[column0 + column]) : 0.0f;
#pragma unroll
          for (int i = 0; i < M_TILES * 2; ++i)
            memory[(i * 8 + lane / 4) * PITCH + column] = from_acc<T>(sum[i / 2][n][i % 2 * 2 + e] + more);
        }
    }
    __syncthreads();
    for (int job = threadIdx.x; job < DOWN * A_ROW; job += THREADS) {
      const int row = job / A_ROW, column = column0 + job % A_ROW * PACK;
      const int q = row0 + half * DOWN + row, b = q / each, t = q - b * each;
      if (b >= batch || t >= out_length || column >= columns) continue;
      const T* const from = memory + row * PITCH + job % A_ROW * PACK;
      T* const to = y + ((long long)b * out_length + t) * columns + column;
      if (column + PACK <= columns && reinterpret_cast<unsigned long long>(to) % 16 == 0) {
        store_pack(to, load_pack(from));
      } else {
        for (int e = 0; e < PACK && column + e < columns; ++e) to[e] = from[e];
      }
    }
  }
}

template <typename T, bool FORWARD>
__device__ inline void convolve(const T* __restrict__ x, const T* __restrict__ weight, const T* __restrict__ bias,
                                T* __restrict__ y, int batch, int length, int channels, int out_length, int columns,
                                int kernel_size, int left, int dilation, int each) {
  using Of = Tiles<T, FORWARD>;
  __shared__ __align__(16) T memory[2 * Of::X + 2 * Of::WEIGHT];
  T* const weights = memory + 2 * Of::X;
  const int column_tiles = (columns + COLUMNS - 1) / COLUMNS, rows = ROWS + (kernel_size - 1) * dilation;
  const int tiles = (batch * each + ROWS - 1) / ROWS * column_tiles;

  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const int row0 = tile / column_tiles * ROWS, column0 = tile % column_tiles * COLUMNS;
    int place[Of::LOADS];  // of each pack that this thread brings: its row of x, -1 for zeros
#pragma unroll
    for (int i = 0; i < Of::LOADS; ++i) {
      const int v = row0 + (threadIdx.x + i * THREADS) / STEP, b = v / each, l = v - b * each - left;
      place[i] = b < batch && l >= 0 && l < length ? b * length + l : -1;
    }
    const auto bring_rows = [&](T* to, int channel0) {
#pragma unroll
      for (int i = 0; i < Of::LOADS; ++i) {
        const int row = (threadIdx.x + i * THREADS) / STEP, part = threadIdx.x % STEP * Of::PACK;
        const int count = place[i] < 0 ? 0 : channels - channel0 - part;
        const T* const from = x + (count > 0 ? (long long)place[i] * channels + channel0 + part : 0);
        if (row < rows) bring(to + row * Of::PITCH + part, from, count);
      }
    };
    float sum[M_TILES][N_TILES][4] = {};
    bring_rows(memory, 0);
    bring_weights<T, FORWARD>(weights, weight, 0, 0, column0, kernel_size, channels, columns);
    copies_commit();
    int step = 0, chunk = 0;  // how many taps, and how many DEPTH channels, have been multiplied
    for (int channel0 = 0; channel0 < channels; channel0 += Of::DEPTH, ++chunk)
      for (int k = 0; k < kernel_size; ++k, ++step) {
        copies_arrived<0>();
        __syncthreads();  // this tap's tiles are there, and the others are no longer read
        const bool last = k + 1 == kernel_size;
        if (!last || channel0 + Of::DEPTH < channels) {
          T* const to = weights + (step + 1) % 2 * Of::WEIGHT;
          const int next = last ? channel0 + Of::DEPTH : channel0;
          bring_weights<T, FORWARD>(to, weight, last ? 0 : k + 1, next, column0, kernel_size, channels, columns);
          if (last) bring_rows(memory + (chunk + 1) % 2 * Of::X, next);
          copies_commit();
        }
        multiply<T, FORWARD>(memory + chunk % 2 * Of::X + k * dilation * Of::PITCH,
                             weights + step % 2 * Of::WEIGHT, sum);
      }
    store(memory, sum, bias, y, batch, out_length, columns, each, row0, column0);
    __syncthreads();
  }
}

template <typename T, bool FORWARD>
__global__ void __launch_bounds__(THREADS, 2)
conv1d_tensor_cores(const T* __restrict__ x, const T* __restrict__ weight, const T* __restrict__ bias, T* __restrict__ y,
                    int batch, int length, int channels, int out_length, int columns, int kernel_size, int left,
                    int dilation, int each) {
  if constexpr (TENSOR_CORES)
    convolve<T, FORWARD>(x, weight, bias, y, batch, length, channels, out_length, columns, kernel_size, left, dilation,
                         each);
  else
    __trap();
}
