// One-dimensional convolution over text, channels last, and its gradients. README.md derives the equations.
//
//   y[b,t,o] = bias[o] + sum over k, c of  x[b, t*stride - padding + k*dilation, g*C + c] * weight[k,c,o]
//
//   x (batch, length, channels)   weight in memory (kernel_size, C, out_channels)
//   y (batch, out_length, out_channels)
//   C = channels / groups, O = out_channels / groups, g = o / O is the group of output o;
//   x outside 0..length-1 counts as 0, and padding is the left one: out_length says how far the right one reaches.
//
// The dense kernels are matrix products whose left factor is never stored: a block computes a TILE x TILE piece of
// the result, walking the summed index DEPTH at a time through shared memory (with two blocks a multiprocessor
// nothing spills). Groups narrower than a tile would leave most of a block idle, so the *_narrow kernels give one
// thread one result.
// All work is flattened into blockIdx.x and walked with the grid's stride, so that any grid gives the same bits.
// Positions in one padded text fit an int, as do the products of kernel_size, channels and groups (the launcher
// sees to both); everything that counts over a batch is 64 bits wide.
#include "common.cuh"

constexpr int TILE = 64;      // rows and columns of the result a block computes
constexpr int DEPTH = 16;     // summed elements a step
constexpr int SIDE = 16;      // the block is SIDE x SIDE threads, flattened
constexpr int THREADS = SIDE * SIDE;
constexpr int EACH = TILE / SIDE;          // rows and columns a thread computes: EACH x EACH results
constexpr int PITCH = TILE + 2;            // two more columns keep the transposing stores free of bank conflicts

// result[i][j] += sum over r of left[r][row i] * right[r][column j]; a thread's rows and columns lie SIDE apart.
template <typename Acc>
__device__ inline void multiply(const Acc (&left)[DEPTH][PITCH], const Acc (&right)[DEPTH][PITCH],
                                Acc (&result)[EACH][EACH]) {
  const int row = threadIdx.x / SIDE, column = threadIdx.x % SIDE;
#pragma unroll
  for (int r = 0; r < DEPTH; ++r)
#pragma unroll
    for (int i = 0; i < EACH; ++i)
#pragma unroll
      for (int j = 0; j < EACH; ++j) result[i][j] += left[r][row + i * SIDE] * right[r][column + j * SIDE];
}

// y. Rows (b,t), columns o of one group, summed over r = (k,c).   One tile: group, row tile, column tile (fastest).
template <typename T, typename Acc>
__global__ void __launch_bounds__(THREADS, 2)
conv1d_forward(const T* __restrict__ x, const T* __restrict__ weight, const T* __restrict__ bias, T* __restrict__ y,
               int batch, int length, int channels, int out_length, int out_channels, int kernel_size,
               int stride, int padding, int dilation, int groups) {
  __shared__ Acc left[DEPTH][PITCH], right[DEPTH][PITCH];
  const int C = channels / groups, O = out_channels / groups, depth = kernel_size * C;
  const long long rows = (long long)batch * out_length, row_tiles = (rows + TILE - 1) / TILE;
  const int column_tiles = (O + TILE - 1) / TILE;
  // neighbouring threads read neighbouring channels for left, neighbouring outputs for right
  const int r_of_thread = threadIdx.x % DEPTH, line = threadIdx.x / DEPTH;
  const int column_of_thread = threadIdx.x % TILE, step = threadIdx.x / TILE;

  for (long long tile = blockIdx.x; tile < row_tiles * column_tiles * groups; tile += gridDim.x) {
    const long long above = quotient(tile, column_tiles), row0 = quotient(above, groups) * TILE;
    const int column0 = (int)(tile - above * column_tiles) * TILE, group = (int)(above - row0 / TILE * groups);
    const T* text[EACH];  // for each of this thread's rows: its text in x, and the position of its first tap
    int position[EACH];
    for (int i = 0; i < EACH; ++i) {
      const long long row = row0 + line + i * SIDE, b = quotient(row, out_length);
      text[i] = x + b * length * channels + group * C;
      position[i] = row < rows ? (int)(row - b * out_length) * stride - padding : length;  // every tap reads 0
    }
    Acc result[EACH][EACH] = {};
    for (int r0 = 0; r0 < depth; r0 += DEPTH) {
      const int r = r0 + r_of_thread, k = r / C, c = r - k * C;
      for (int i = 0; i < EACH; ++i) {
        const int l = position[i] + k * dilation;
        left[r_of_thread][line + i * SIDE] =
            r < depth && l >= 0 && l < length ? to_acc(text[i][(long long)l * channels + c]) : Acc(0);
      }
      for (int i = step; i < DEPTH; i += THREADS / TILE) {
        const int column = column0 + column_of_thread;
        right[i][column_of_thread] = r0 + i < depth && column < O
            ? to_acc(weight[(long long)(r0 + i) * out_channels + group * O + column]) : Acc(0);
      }
      __syncthreads();
      multiply(left, right, result);
      __syncthreads();
    }
    for (int i = 0; i < EACH; ++i)
      for (int j = 0; j < EACH; ++j) {
        const long long row = row0 + threadIdx.x / SIDE + i * SIDE;
        const int column = column0 + threadIdx.x % SIDE + j * SIDE, o = group * O + column;
        if (row < rows && column < O)
          y[row * out_channels + o] = from_acc<T>(result[i][j] + (bias ? to_acc(bias[o]) : Acc(0)));
      }
  }
}

// dx[b,l,c] = sum over k, o of dy[b,t,o] * weight[k,c,o], where t * stride = l + padding - k * dilation.
// Rows (b,l), columns c of one group, summed over r = (k,o).
template <typename T, typename Acc>
__global__ void __launch_bounds__(THREADS, 2)
conv1d_backward_input(const T* __restrict__ dy, const T* __restrict__ weight, T* __restrict__ dx,
                      int batch, int length, int channels, int out_length, int out_channels, int kernel_size,
                      int stride, int padding, int dilation, int groups) {
  __shared__ Acc left[DEPTH][PITCH], right[DEPTH][PITCH];
  const int C = channels / groups, O = out_channels / groups, depth = kernel_size * O;
  const long long rows = (long long)batch * length, row_tiles = (rows + TILE - 1) / TILE;
  const int column_tiles = (C + TILE - 1) / TILE;
  const int r_of_thread = threadIdx.x % DEPTH, line = threadIdx.x / DEPTH;  // neighbours read neighbouring outputs

  for (long long tile = blockIdx.x; tile < row_tiles * column_tiles * groups; tile += gridDim.x) {
    const long long above = quotient(tile, column_tiles), row0 = quotient(above, groups) * TILE;
    const int column0 = (int)(tile - above * column_tiles) * TILE, group = (int)(above - row0 / TILE * groups);
    const T* text[EACH];  // for each of this thread's rows: its text in dy, and its position among the padded inputs
    int position[EACH];
    for (int i = 0; i < EACH; ++i) {
      const long long row = row0 + line + i * SIDE, b = quotient(row, length);
      text[i] = dy + b * out_length * out_channels + group * O;
      position[i] = row < rows ? (int)(row - b * length) + padding : -1;  // -1 comes before every output
    }
    Acc result[EACH][EACH] = {};
    for (int r0 = 0; r0 < depth; r0 += DEPTH) {
      const int r = r0 + r_of_thread, k = r / O, o = r - k * O;
      for (int i = 0; i < EACH; ++i) {
        const int ahead = position[i] - k * dilation, t = ahead / stride;
        left[r_of_thread][line + i * SIDE] = r < depth && ahead >= 0 && t < out_length && t * stride == ahead
            ? to_acc(text[i][(long long)t * out_channels + o]) : Acc(0);
        const int c = column0 + line + i * SIDE;
        right[r_of_thread][line + i * SIDE] = r < depth && c < C
            ? to_acc(weight[((long long)k * C + c) * out_channels + group * O + o]) : Acc(0);
      }
      __syncthreads();
      multiply(left, right, result);
      __syncthreads();
    }
    for (int i = 0; i < EACH; ++i)
      for (int j = 0; j < EACH; ++j) {
        const long long row = row0 + threadIdx.x / SIDE + i * SIDE;
        const int c = column0 + threadIdx.x % SIDE + j * SIDE;
        if (row < rows && c < C) dx[row * channels + group * C + c] = from_acc<T>(result[i][j]);
      }
  }
}

// dweight[k,c,o] = sum over b, t of x[b, t*stride - padding + k*dilation, g*C + c] * dy[b,t,o].
// Rows (k,c), columns o of one group, summed over n = (b,t). The sum is cut into `splits` runs of `run` pairs (b,t);
// each writes its own partial[split,k,c,o], and conv1d_sum_partials adds them in order: no atomics, always the same
// bits.
template <typename T, typename Acc>
__global__ void __launch_bounds__(THREADS, 2)
conv1d_backward_weight(const T* __restrict__ x, const T* __restrict__ dy, Acc* __restrict__ partial,
                       int batch, int length, int channels, int out_length, int out_channels, int kernel_size,
                       int stride, int padding, int dilation, int groups, int splits, long long run) {
  __shared__ Acc left[DEPTH][PITCH], right[DEPTH][PITCH];
  const int C = channels / groups, O = out_channels / groups, rows = kernel_size * C;
  const int row_tiles = (rows + TILE - 1) / TILE, column_tiles = (O + TILE - 1) / TILE;
  const long long pairs = (long long)batch * out_length;
  const int lane = threadIdx.x % TILE, step = threadIdx.x / TILE;  // neighbours read neighbouring channels and outputs

  for (long long tile = blockIdx.x; tile < (long long)row_tiles * column_tiles * groups * splits; tile += gridDim.x) {
    const long long above = quotient(tile, column_tiles), higher = quotient(above, row_tiles);
    const int column0 = (int)(tile - above * column_tiles) * TILE, row0 = (int)(above - higher * row_tiles) * TILE;
    const long long split = quotient(higher, groups);
    const int group = (int)(higher - split * groups);
    const long long first = split * run, last = first + run < pairs ? first + run : pairs;
    const int row = row0 + lane, k = row / C, c = row - k * C, column = column0 + lane;
    const int shift = k * dilation - padding;
    Acc result[EACH][EACH] = {};
    for (long long n0 = first; n0 < last; n0 += DEPTH) {
      for (int i = step; i < DEPTH; i += THREADS / TILE) {
        const long long n = n0 + i, b = quotient(n, out_length);
        const int l = (int)(n - b * out_length) * stride + shift;
        left[i][lane] = n < last && row < rows && l >= 0 && l < length
            ? to_acc(x[(b * length + l) * channels + group * C + c]) : Acc(0);
        right[i][lane] = n < last && column < O ? to_acc(dy[n * out_channels + group * O + column]) : Acc(0);
      }
      __syncthreads();
      multiply(left, right, result);
      __syncthreads();
    }
    for (int i = 0; i < EACH; ++i)
      for (int j = 0; j < EACH; ++j) {
        const int to_row = row0 + threadIdx.x / SIDE + i * SIDE;
        const int to_column = column0 + threadIdx.x % SIDE + j * SIDE;
        if (to_row < rows && to_column < O)
          partial[(split * rows + to_row) * out_channels + group * O + to_column] = result[i][j];
      }
  }
}

// dbias[o] = sum over b, t of dy[b,t,o], first half: partial[split,o] is the sum over the run of this split.
template <typename T, typename Acc>
__global__ void __launch_bounds__(THREADS)
conv1d_backward_bias(const T* __restrict__ dy, Acc* __restrict__ partial,
                     long long pairs, int out_channels, int splits, long long run) {
  for (long long i = grid_thread(); i < (long long)splits * out_channels; i += grid_threads()) {
    const long long split = quotient(i, out_channels);
    const int o = (int)(i - split * out_channels);
    const long long first = split * run, last = first + run < pairs ? first + run : pairs;
    Acc sum = 0;
    for (long long n = first; n < last; ++n) sum += to_acc(dy[n * out_channels + o]);
    partial[i] = sum;
  }
}

// result[i] = partial[0,i] + partial[1,i] + ... : the second half of dweight and of dbias.
template <typename T, typename Acc>
__global__ void __launch_bounds__(THREADS)
conv1d_sum_partials(const Acc* __restrict__ partial, T* __restrict__ result, long long size, int splits) {
  for (long long i = grid_thread(); i < size; i += grid_threads()) {
    Acc sum = 0;
    for (int split = 0; split < splits; ++split) sum += partial[split * size + i];
    result[i] = from_acc<T>(sum);
  }
}

// y with narrow groups (depthwise: C = O = 1): a thread an output, neighbours along the channels.
template <typename T, typename Acc>
__global__ void __launch_bounds__(THREADS)
conv1d_forward_narrow(const T* __restrict__ x, const T* __restrict__ weight, const T* __restrict__ bias,
                      T* __restrict__ y,
                      int batch, int length, int channels, int out_length, int out_channels, int kernel_size,
                      int stride, int padding, int dilation, int groups) {
  const int C = channels / groups, O = out_channels / groups;
  for (long long i = grid_thread(); i < (long long)batch * out_length * out_channels; i += grid_threads()) {
    const long long row = quotient(i, out_channels), b = quotient(row, out_length);
    const int o = (int)(i - row * out_channels), c0 = o / O * C;
    Acc sum = bias ? to_acc(bias[o]) : Acc(0);
    for (int k = 0; k < kernel_size; ++k) {
      const int l = (int)(row - b * out_length) * stride - padding + k * dilation;
      if (l < 0 || l >= length) continue;
      const T* from = x + (b * length + l) * channels + c0;
      const T* with = weight + (long long)k * C * out_channels + o;
      for (int c = 0; c < C; ++c) sum += to_acc(from[c]) * to_acc(with[(long long)c * out_channels]);
    }
    y[i] = from_acc<T>(sum);
  }
}

// dx with narrow groups: a thread an input.
template <typename T, typename Acc>
__global__ void __launch_bounds__(THREADS)
conv1d_backward_input_narrow(const T* __restrict__ dy, const T* __restrict__ weight, T* __restrict__ dx,
                             int batch, int length, int channels, int out_length, int out_channels, int kernel_size,
                             int stride, int padding, int dilation, int groups) {
  const int C = channels / groups, O = out_channels / groups;
  for (long long i = grid_thread(); i < (long long)batch * length * channels; i += grid_threads()) {
    const long long row = quotient(i, channels), b = quotient(row, length);
    const int channel = (int)(i - row * channels), group = channel / C, c = channel - group * C;
    Acc sum = 0;
    for (int k = 0; k < kernel_size; ++k) {
      const int ahead = (int)(row - b * length) + padding - k * dilation;
      if (ahead < 0) break;
      const int t = ahead / stride;
      if (t >= out_length || t * stride != ahead) continue;
      const T* from = dy + (b * out_length + t) * out_channels + group * O;
      const T* with = weight + ((long long)k * C + c) * out_channels + group * O;
      for (int o = 0; o < O; ++o) sum += to_acc(from[o]) * to_acc(with[o]);
    }
    dx[i] = from_acc<T>(sum);
  }
}

// partial[split,k,c,o] with narrow groups: a thread a sum.
template <typename T, typename Acc>
__global__ void __launch_bounds__(THREADS)
conv1d_backward_weight_narrow(const T* __restrict__ x, const T* __restrict__ dy, Acc* __restrict__ partial,
                              int batch, int length, int channels, int out_length, int out_channels, int kernel_size,
                              int stride, int padding, int dilation, int groups, int splits, long long run) {
  const int C = channels / groups, O = out_channels / groups;
  const long long pairs = (long long)batch * out_length, size = (long long)kernel_size * C * out_channels;
  for (long long i = grid_thread(); i < splits * size; i += grid_threads()) {
    const long long line = quotient(i, out_channels), tap = quotient(line, C), split = quotient(tap, kernel_size);
    const int o = (int)(i - line * out_channels), channel = o / O * C + (int)(line - tap * C);
    const int shift = (int)(tap - split * kernel_size) * dilation - padding;
    const long long first = split * run, last = first + run < pairs ? first + run : pairs;
    Acc sum = 0;
    for (long long n = first; n < last; ++n) {
      const long long b = quotient(n, out_length);
      const int l = (int)(n - b * out_length) * stride + shift;
      if (l >= 0 && l < length)
        sum += to_acc(x[(b * length + l) * channels + channel]) * to_acc(dy[n * out_channels + o]);
    }
    partial[i] = sum;
  }
}

// Row (b, l) of x as row front + b * each + before + l of y, and zeros in all other rows: texts with zeros around them, laid
// end to end, for products. A thread moves N neighbours of a row.
template <typename T, int N>
__global__ void __launch_bounds__(THREADS)
conv1d_pad(const T* __restrict__ x, T* __restrict__ y, int batch, int length, int width, int front, int each,
           int before, long long rows) {
  const int packs = width / N;
  for (long long i = grid_thread(); i < rows * packs; i += grid_threads()) {
    const long long row = quotient(i, packs);
    const int c = (int)(i - row * packs) * N;
    Pack<T, N> pack = {};
    if (row >= front) {
      const long long b = quotient(row - front, each);
      const int l = (int)(row - front - b * each) - before;
      if (b < batch && l >= 0 && l < length) pack = load_pack<T, N>(x + (b * length + l) * width + c);
    }
    store_pack(y + row * width + c, pack);
  }
}
