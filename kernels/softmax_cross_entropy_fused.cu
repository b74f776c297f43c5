// Softmax cross-entropy and its gradient in one walk over the logits: they are read once, the gradient is written once.
// README.md derives the equations; softmax_cross_entropy.cu has the simple version and says what a loss is.
//
// By the number of classes: up to 64 a slab of rows in shared memory, a thread a row (_slab); above, a row in shared memory, a
// warp or a block a row (_row). expected: the gradient of the result that backward will start from, null for 1.
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
    Pack<T> pack = load_within(gradient, i, 0LL, size);
    for (int e = 0; e < Pack<T>::SIZE; ++e) pack.v[e] = from_acc<T>(to_acc(pack.v[e]) * factor);
    store_within(gradient, pack, i, 0LL, size);
  }
}

// The gradient of a row's loss where that of the result is as expected.
template <typename Acc> __device__ inline Acc share_of_row(const Acc* total, const Acc* expected) {
  const Acc share = total ? (*total == 0 ? Acc(0) : 1 / *total) : Acc(1);
  return expected ? share * *expected : share;
}

// At the end of a kernel: result = the sum of what each thread added up of the losses, over *total if that is not null.
template <int SIZE, typename Acc>
__device__ inline void finish(Acc losses, volatile Acc* partials, unsigned* arrived, const Acc* total, Acc* result) {
  if (!result || !sum_over_grid<SIZE>(losses, partials, arrived)) return;
  *result = !total ? losses : *total == 0 ? losses * 0 : losses / *total;  // a NaN stays one
}

// A pack in one store: left to itself, the compiler makes one an element where elements are chosen one by one.
template <typename T> __device__ inline void store_at_once(T* to, const Pack<T>& pack) {
  uint4 bits;
  memcpy(&bits, &pack, sizeof(bits));
  __stwb(reinterpret_cast<uint4*>(to), bits);
}

// Rows of SLAB_THREADS neighbours are moved to and from shared memory in packs; there a thread walks along its own. An odd
// stride spreads the threads over all banks. Dynamic shared memory: SLAB_THREADS * (classes | 1) sums.
template <typename T, typename Acc>
__global__ void __launch_bounds__(SLAB_THREADS)
softmax_cross_entropy_slab(const T* __restrict__ logits, const long long* __restrict__ targets,
                           const Acc* __restrict__ weight, const Acc* __restrict__ weight_sum,
                           const Acc* __restrict__ total, const Acc* __restrict__ expected, T* __restrict__ gradient,
                           Acc* __restrict__ loss, Acc* __restrict__ log_sum_exp, Acc* __restrict__ result,
                           volatile Acc* partials, unsigned* arrived, unsigned long long* __restrict__ first_bad_row, long long rows,
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
      const RowGradient<Acc> of_row(problem, target, top + log_sum, share_of_row(total, expected));
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
      if (i + SIZE <= size) {
        store_at_once(to + i, pack);
      } else {
        for (int e = 0; i + e < size; ++e) to[i + e] = from_acc<T>(slab[(i + e) / classes * stride + (i + e) % classes]);
      }
    }
    __syncthreads();  // before the slab is filled again
  }
  finish<SLAB_THREADS>(losses, partials, arrived, total, result);
}

template <int TEAM> constexpr int BLOCK = TEAM < THREADS ? THREADS : TEAM;

// The sum of e^v over what a thread has seen of a row, relative to the largest so far: it is brought up to date whenever a
// larger one comes (Milakov and Gimelshein 2018). below: the sum of w (origin - v), wanted for smoothing only.
template <typename Acc> struct Seen {
  Acc top = lowest<Acc>(), exponentials = 0, below = 0;

  // Elements c .. of the row; those outside 0 .. classes - 1 do not count.
  template <typename T> __device__ void add(const Problem<Acc>& problem, const Pack<T>& pack, int c, Acc origin) {
    Acc v[Pack<T>::SIZE], largest = top;
#pragma unroll
    for (int e = 0; e < Pack<T>::SIZE; ++e) {
      const bool real = problem.in_range(c + e);
      v[e] = real ? problem.capped(to_acc(pack.v[e])) : lowest<Acc>();
      largest = Max()(largest, v[e]);
      if (problem.smoothing > 0 && real) below += problem.weight_of(c + e) * (origin - v[e]);
    }
    exponentials *= exp(top - largest);
#pragma unroll
    for (int e = 0; e < Pack<T>::SIZE; ++e)
      if (problem.in_range(c + e)) exponentials += exp(v[e] - largest);
    top = largest;
  }
};

// A row a team of TEAM threads, of any length. It is read once, into shared memory, which holds its first `held` packs of 16
// bytes; what lies beyond is read again for the gradient, first what was read last, which the cache still has. A thread
// works on packs of its own alone, so none waits for another. Dynamic shared memory: `held` packs a team.
template <typename T, typename Acc, int TEAM>
__global__ void __launch_bounds__(BLOCK<TEAM>, sizeof(Acc) == 4 && TEAM != 1024 ? 4 : 1)  // 64 registers
softmax_cross_entropy_row(const T* __restrict__ logits, const long long* __restrict__ targets,
                          const Acc* __restrict__ weight, const Acc* __restrict__ weight_sum, const Acc* __restrict__ total,
                          const Acc* __restrict__ expected, T* __restrict__ gradient, Acc* __restrict__ loss,
                          Acc* __restrict__ log_sum_exp, Acc* __restrict__ result, volatile Acc* partials,
                          unsigned* arrived, unsigned long long* __restrict__ first_bad_row, long long rows, int classes,
                          long long ignore_index, Acc smoothing, Acc z_loss, Acc soft_cap, int held) {
  constexpr int SIZE = Pack<T>::SIZE, TEAMS = BLOCK<TEAM> / TEAM;
  extern __shared__ __align__(16) unsigned char raw[];
  const Problem<Acc> problem = {weight, weight_sum, classes, ignore_index, smoothing, z_loss, soft_cap};
  const int team = threadIdx.x / TEAM, member = threadIdx.x % TEAM;
  Pack<T>* kept = reinterpret_cast<Pack<T>*>(raw) + team * held;
  Acc losses = 0;
  for (long long row0 = (long long)blockIdx.x * TEAMS; row0 < rows; row0 += (long long)gridDim.x * TEAMS) {
    // Pack j is elements j * SIZE - skip .. of the row: packs are those of the whole array.
    const long long row = row0 + team, start = row * classes;
    const bool inside = row < rows;
    const int skip = (int)(start % SIZE), stop = inside ? skip + classes : 0, packs = (stop + SIZE - 1) / SIZE;
    const int here = packs < held ? packs : held, whole = stop / SIZE;
    const T* z = logits + (start - skip);
#pragma unroll 4
    for (int j = member; j < here; j += TEAM)
      if (j < whole && (j > 0 || skip == 0)) kept[j] = load_pack(z + j * SIZE);
    if (member == 0 && skip > 0 && here > 0) kept[0] = load_within(z, 0, skip, stop);
    if (whole < here && (whole > 0 || skip == 0) && whole % TEAM == member)
      kept[whole] = load_within(z, whole * SIZE, skip, stop);

    const long long target = inside ? targets[row] : ignore_index;
    const Acc leading = inside ? problem.capped(to_acc(logits[start])) : Acc(0);
    const Acc origin = isfinite(leading) ? leading : Acc(0);  // of `below`, as logits may be large
    Seen<Acc> seen;
    for (int j = member; j < packs; j += TEAM)
      seen.add(problem, j < held ? kept[j] : load_within(z, j * SIZE, skip, stop), j * SIZE - skip, origin);
    const Acc top = team_reduce<TEAM>(seen.top, Max());
    const Acc exponentials = team_reduce<TEAM>(seen.exponentials * exp(seen.top - top), Sum());
    Acc below = 0;
    if (smoothing > 0) below = team_reduce<TEAM>(seen.below, Sum()) + problem.all_weights() * (top - origin);
    if (!inside) continue;

    const Acc log_sum = log(exponentials);
    if (member == 0) {
      const Acc of_target = problem.in_range(target) ? problem.capped(to_acc(logits[start + target])) : Acc(0);
      const Acc value = loss_of_row(problem, target, top, log_sum, below, of_target, row, first_bad_row);
      losses += value;
      if (loss) loss[row] = value;
      if (log_sum_exp) log_sum_exp[row] = top + log_sum;
    }
    if (!gradient || member >= packs) continue;
    const RowGradient<Acc> of_row(problem, target, top + log_sum, share_of_row(total, expected));
    const Acc scale = 1 / exponentials;
    for (int j = member + (packs - 1 - member) / TEAM * TEAM; j >= 0; j -= TEAM) {
      Pack<T> pack = j < held ? kept[j] : load_within(z, j * SIZE, skip, stop);
#pragma unroll
      for (int e = 0; e < SIZE; ++e) {
        const int c = j * SIZE - skip + e;
        if (!problem.in_range(c)) continue;
        const Acc v = problem.capped(to_acc(pack.v[e]));
        pack.v[e] = from_acc<T>(of_row.at(problem, c, v, exp(v - top) * scale));
      }
      T* to = gradient + (start - skip) + j * SIZE;
      if (j < whole && (j > 0 || skip == 0)) {
        store_at_once(to, pack);
      } else {
        for (int e = 0; e < SIZE; ++e)
          if (problem.in_range(j * SIZE - skip + e)) to[e] = pack.v[e];
      }
    }
  }
  finish<BLOCK<TEAM>>(losses, partials, arrived, total, result);
}
