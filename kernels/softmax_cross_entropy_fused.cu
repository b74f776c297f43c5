// Softmax cross-entropy and its gradient in one walk over the logits: they are read once, the gradient is written once.
// README.md derives the equations; softmax_cross_entropy.cu has the simple version and says what a loss is.
//
// By the number of classes: up to 64 a slab of rows in shared memory, a thread a row (_slab); up to 8192 a row in the
// registers of a warp or a block (_team); above, a block a row that it reads twice, the second time from the cache (_online).
// Each makes the gradient of the sum, or of the mean where `total` (from _total) is not null, with rows of logits that may
// begin anywhere, in arrays that begin at a multiple of 16 bytes. Null may be: gradient; log_sum_exp; loss, one a row; and
// result, their sum or mean, which the last block adds up. The grid must depend on the sizes alone: it decides the order.
#include "softmax_cross_entropy.cuh"

constexpr int THREADS = 256, SLAB_THREADS = 128;

// *total = sum of w[target] over the rows that count.
template <typename Acc>
__global__ void __launch_bounds__(THREADS)
softmax_cross_entropy_total(const long long* __restrict__ targets, const Acc* __restrict__ weight,
                            volatile Acc* partials, unsigned* arrived, Acc* __restrict__ total, long long rows,
                            int classes, long long ignore_index) {
  const Problem<Acc> problem = {weight, nullptr, classes, ignore_index, 0, 0, 0};
  Acc sum = 0;
  for (long long row = grid_thread(); row < rows; row += grid_threads())
    if (problem.counts(targets[row])) sum += problem.weight_of((int)targets[row]);
  if (sum_over_grid<THREADS>(sum, partials, arrived)) *total = sum;
}

// gradient *= *dy. Most often *dy is 1, and nothing is read.
template <typename T, typename Acc>
__global__ void __launch_bounds__(THREADS)
softmax_cross_entropy_scale(T* __restrict__ gradient, const Acc* __restrict__ dy, long long size) {
  const Acc factor = *dy;
  if (factor == 1) return;
  for (long long i = grid_thread() * Pack<T>::SIZE; i < size; i += grid_threads() * Pack<T>::SIZE) {
    Pack<T> pack = load_within(gradient, i, 0, size);
    for (int e = 0; e < Pack<T>::SIZE; ++e) pack.v[e] = from_acc<T>(to_acc(pack.v[e]) * factor);
    store_within(gradient, pack, i, 0, size);
  }
}

// The gradient of a row's loss where that of the result is 1.
template <typename Acc> __device__ inline Acc share_of_row(const Acc* total) {
  return total ? (*total == 0 ? Acc(0) : 1 / *total) : Acc(1);
}

// At the end of a kernel: result = the sum of what each thread added up of the losses, over *total if that is not null.
template <int BLOCK, typename Acc>
__device__ inline void finish(Acc losses, volatile Acc* partials, unsigned* arrived, const Acc* total, Acc* result) {
  if (!result || !sum_over_grid<BLOCK>(losses, partials, arrived)) return;
  *result = !total ? losses : *total == 0 ? losses * 0 : losses / *total;  // a NaN stays one
}

// Rows of SLAB_THREADS neighbours are moved to and from shared memory in packs; there a thread walks along its own. An odd
// stride spreads the threads over all banks. Dynamic shared memory: SLAB_THREADS * (classes | 1) sums.
template <typename T, typename Acc>
__global__ void __launch_bounds__(SLAB_THREADS)
softmax_cross_entropy_slab(const T* __restrict__ logits, const long long* __restrict__ targets,
                           const Acc* __restrict__ weight, const Acc* __restrict__ weight_sum,
                           const Acc* __restrict__ total, T* __restrict__ gradient, Acc* __restrict__ loss,
                           Acc* __restrict__ log_sum_exp, Acc* __restrict__ result, volatile Acc* partials,
                           unsigned* arrived, unsigned long long* __restrict__ first_bad_row, long long rows,
                           int classes, long long ignore_index, Acc smoothing, Acc z_loss, Acc soft_cap) {
  extern __shared__ __align__(16) unsigned char raw[];
  Acc* slab = reinterpret_cast<Acc*>(raw);
  constexpr int SIZE = Pack<T>::SIZE;
  const Problem<Acc> problem = {weight, weight_sum, classes, ignore_index, smoothing, z_loss, soft_cap};
  const int stride = classes | 1;
  Acc losses = 0;
  for (long long first = (long long)blockIdx.x * SLAB_THREADS; first < rows; first += (long long)gridDim.x * SLAB_THREADS) {
    const int size = (int)(rows - first < SLAB_THREADS ? rows - first : SLAB_THREADS) * classes;
    for (int i = threadIdx.x * SIZE; i < size; i += SLAB_THREADS * SIZE) {
      const Pack<T> pack = load_within(logits + first * classes, i, 0, size);
      int r = i / classes, c = i - r * classes;
#pragma unroll
      for (int e = 0; e < SIZE; ++e) {
        if (i + e < size) slab[r * stride + c] = problem.capped(to_acc(pack.v[e]));
        if (++c == classes) ++r, c = 0;
      }
    }
    __syncthreads();

    const long long row = first + threadIdx.x;
    if (row < rows) {
      Acc* v = slab + threadIdx.x * stride;
      const long long target = targets[row];
      Acc top = lowest<Acc>(), exponentials = 0, below = 0;
      for (int c = 0; c < classes; ++c) top = Max()(top, v[c]);
      for (int c = 0; c < classes; ++c) {
        exponentials += exp(v[c] - top);
        if (smoothing > 0) below += problem.weight_of(c) * (top - v[c]);
      }
      const Acc log_sum = log(exponentials), of_target = problem.in_range(target) ? v[target] : Acc(0);
      const Acc value = loss_of_row(problem, target, top, log_sum, below, of_target, row, first_bad_row);
      losses += value;
      if (loss) loss[row] = value;
      if (log_sum_exp) log_sum_exp[row] = top + log_sum;
      const RowGradient<Acc> of_row(problem, target, top + log_sum, share_of_row(total));
      for (int c = 0; gradient && c < classes; ++c) v[c] = of_row.at(problem, c, v[c], exp(v[c] - top) / exponentials);
    }
    __syncthreads();

    T* to = gradient + first * classes;
    for (int i = threadIdx.x * SIZE; gradient && i < size; i += SLAB_THREADS * SIZE) {
      Pack<T> pack;
      int r = i / classes, c = i - r * classes;
#pragma unroll
      for (int e = 0; e < SIZE; ++e) {
        const Acc value = i + e < size ? slab[r * stride + c] : Acc(0);
        pack.v[e] = from_acc<T>(value);
        if (++c == classes) ++r, c = 0;
      }
      if (i + SIZE <= size) {  // in one store: left to itself, the compiler makes one an element here
        uint4 bits;
        memcpy(&bits, &pack, sizeof(bits));
        __stwb(reinterpret_cast<uint4*>(to + i), bits);
      } else {
        for (int e = 0; i + e < size; ++e) to[i + e] = from_acc<T>(slab[(i + e) / classes * stride + (i + e) % classes]);
      }
    }
    __syncthreads();  // before the slab is filled again
  }
  finish<SLAB_THREADS>(losses, partials, arrived, total, result);
}

// A row in the registers of TEAM threads, E elements each, in packs of 16 bytes that the team shares in turn.
template <typename T, typename Acc, int TEAM, int E>
__global__ void __launch_bounds__(THREADS, sizeof(Acc) == 4 ? 2 : 1)  // or some compilers aim at four blocks, and spill
softmax_cross_entropy_team(const T* __restrict__ logits, const long long* __restrict__ targets,
                           const Acc* __restrict__ weight, const Acc* __restrict__ weight_sum,
                           const Acc* __restrict__ total, T* __restrict__ gradient, Acc* __restrict__ loss,
                           Acc* __restrict__ log_sum_exp, Acc* __restrict__ result, volatile Acc* partials,
                           unsigned* arrived, unsigned long long* __restrict__ first_bad_row, long long rows,
                           int classes, long long ignore_index, Acc smoothing, Acc z_loss, Acc soft_cap) {
  constexpr int SIZE = Pack<T>::SIZE, K = E / SIZE;
  const Problem<Acc> problem = {weight, weight_sum, classes, ignore_index, smoothing, z_loss, soft_cap};
  const int teams = THREADS / TEAM, team = threadIdx.x / TEAM, member = threadIdx.x % TEAM;
  Acc losses = 0;
  for (long long row0 = (long long)blockIdx.x * teams; row0 < rows; row0 += (long long)gridDim.x * teams) {
    const long long row = row0 + team, start = row * classes, stop = row < rows ? start + classes : start;
    const long long pack0 = start / SIZE + member;  // pack k of this thread is pack0 + k * TEAM of the whole array
    const bool inside = row < rows;
    const long long target = inside ? targets[row] : ignore_index;

    Acc v[K][SIZE], top = lowest<Acc>();
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const long long i = (pack0 + k * TEAM) * SIZE;
      const Pack<T> pack = i < stop ? load_within(logits, i, start, stop) : Pack<T>{};
#pragma unroll
      for (int e = 0; e < SIZE; ++e) {
        const bool real = i + e >= start && i + e < stop;
        v[k][e] = real ? problem.capped(to_acc(pack.v[e])) : lowest<Acc>();
        top = Max()(top, v[k][e]);
      }
    }
    top = team_reduce<TEAM>(top, Max());

    Acc exponentials = 0, below = 0;
#pragma unroll
    for (int k = 0; k < K; ++k)
#pragma unroll
      for (int e = 0; e < SIZE; ++e) {
        const long long i = (pack0 + k * TEAM) * SIZE + e;
        if (i < start || i >= stop) continue;
        exponentials += exp(v[k][e] - top);
        if (smoothing > 0) below += problem.weight_of((int)(i - start)) * (top - v[k][e]);
      }
    exponentials = team_reduce<TEAM>(exponentials, Sum());
    if (smoothing > 0) below = team_reduce<TEAM>(below, Sum());
    if (!inside) continue;

    const Acc log_sum = log(exponentials);
    if (member == 0) {
      const Acc of_target = problem.in_range(target) ? problem.capped(to_acc(logits[start + target])) : Acc(0);
      const Acc value = loss_of_row(problem, target, top, log_sum, below, of_target, row, first_bad_row);
      losses += value;
      if (loss) loss[row] = value;
      if (log_sum_exp) log_sum_exp[row] = top + log_sum;
    }
    if (!gradient) continue;
    const RowGradient<Acc> of_row(problem, target, top + log_sum, share_of_row(total));
    const Acc scale = 1 / exponentials;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const long long i = (pack0 + k * TEAM) * SIZE;
      if (i >= stop) continue;
      Pack<T> pack;
#pragma unroll
      for (int e = 0; e < SIZE; ++e) {
        const int c = (int)(i + e - start);
        const bool real = c >= 0 && c < classes;
        pack.v[e] = from_acc<T>(real ? of_row.at(problem, c, v[k][e], exp(v[k][e] - top) * scale) : Acc(0));
      }
      store_within(gradient, pack, i, start, stop);
    }
  }
  finish<THREADS>(losses, partials, arrived, total, result);
}

// A block a row of any length: one walk for the largest logit and the sum relative to it, which is brought up to date
// whenever a larger one comes (Milakov and Gimelshein 2018), and one for the gradient.
template <typename T, typename Acc>
__global__ void __launch_bounds__(THREADS)
softmax_cross_entropy_online(const T* __restrict__ logits, const long long* __restrict__ targets,
                             const Acc* __restrict__ weight, const Acc* __restrict__ weight_sum,
                             const Acc* __restrict__ total, T* __restrict__ gradient, Acc* __restrict__ loss,
                             Acc* __restrict__ log_sum_exp, Acc* __restrict__ result, volatile Acc* partials,
                             unsigned* arrived, unsigned long long* __restrict__ first_bad_row, long long rows,
                             int classes, long long ignore_index, Acc smoothing, Acc z_loss, Acc soft_cap) {
  constexpr int SIZE = Pack<T>::SIZE;
  const Problem<Acc> problem = {weight, weight_sum, classes, ignore_index, smoothing, z_loss, soft_cap};
  Acc losses = 0;
  for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
    const long long start = row * classes, stop = start + classes, first = start / SIZE + threadIdx.x;
    const long long target = targets[row];
    const Acc origin = problem.capped(to_acc(logits[start]));  // what `below` is taken relative to, as logits may be large
    Acc top = lowest<Acc>(), exponentials = 0, below = 0;
    for (long long k = first; k * SIZE < stop; k += THREADS) {
      const Pack<T> pack = load_within(logits, k * SIZE, start, stop);
      Acc v[SIZE], largest = top;
#pragma unroll
      for (int e = 0; e < SIZE; ++e) {
        const long long i = k * SIZE + e;
        const bool real = i >= start && i < stop;
        v[e] = real ? problem.capped(to_acc(pack.v[e])) : lowest<Acc>();
        largest = Max()(largest, v[e]);
        if (smoothing > 0 && real) below += problem.weight_of((int)(i - start)) * (origin - v[e]);
      }
      exponentials *= exp(top - largest);
#pragma unroll
      for (int e = 0; e < SIZE; ++e)
        if (k * SIZE + e >= start && k * SIZE + e < stop) exponentials += exp(v[e] - largest);
      top = largest;
    }
    const Acc own = top;
    top = team_reduce<THREADS>(own, Max());
    exponentials = team_reduce<THREADS>(exponentials * exp(own - top), Sum());
    if (smoothing > 0) below = team_reduce<THREADS>(below, Sum()) + problem.all_weights() * (top - origin);

    const Acc log_sum = log(exponentials);
    if (threadIdx.x == 0) {
      const Acc of_target = problem.in_range(target) ? problem.capped(to_acc(logits[start + target])) : Acc(0);
      const Acc value = loss_of_row(problem, target, top, log_sum, below, of_target, row, first_bad_row);
      losses += value;
      if (loss) loss[row] = value;
      if (log_sum_exp) log_sum_exp[row] = top + log_sum;
    }
    const RowGradient<Acc> of_row(problem, target, top + log_sum, share_of_row(total));
    const Acc scale = 1 / exponentials;
    for (long long k = first; gradient && k * SIZE < stop; k += THREADS) {
      Pack<T> pack = load_within(logits, k * SIZE, start, stop);
#pragma unroll
      for (int e = 0; e < SIZE; ++e) {
        const int c = (int)(k * SIZE + e - start);
        if (c < 0 || c >= classes) continue;
        const Acc v = problem.capped(to_acc(pack.v[e]));
        pack.v[e] = from_acc<T>(of_row.at(problem, c, v, exp(v - top) * scale));
      }
      store_within(gradient, pack, k * SIZE, start, stop);
    }
  }
  finish<THREADS>(losses, partials, arrived, total, result);
}
