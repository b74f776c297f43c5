// The 2-norm of all gradients, and a step of Adam or AdamW that clips by it, over flat blocks of parameters.
// README.md derives the update.
//
// What changes from step to step (learning rate, norm, loss scale, whether to skip, the number of the step) is read
// from device memory, so that a captured graph can be replayed. Both kernels work on elements start..stop of arrays that
// begin at a multiple of 16 bytes.
#include "adam.cuh"

constexpr int THREADS = 256;

// norm[0] = sum of g², of this launch and, unless `first`, of those before; norm[1] = its root over *scale.
// The grid must depend on the sizes alone: it decides which elements a block adds.
template <typename T, typename Acc>
__global__ void __launch_bounds__(THREADS)
gradient_norm(const T* __restrict__ g, long long start, long long stop, volatile Acc* partials, Acc* norm,
              unsigned* arrived, const float* __restrict__ scale, int first) {
  Acc sum = 0;
  for (long long k = start / Pack<T>::SIZE + grid_thread(); k * Pack<T>::SIZE < stop; k += grid_threads()) {
    const Pack<T> pack = load_within(g, k * Pack<T>::SIZE, start, stop);
    for (int e = 0; e < Pack<T>::SIZE; ++e) sum += to_acc(pack.v[e]) * to_acc(pack.v[e]);
  }
  if (!sum_over_grid<THREADS>(sum, partials, arrived)) return;
  if (!first) sum += norm[0];
  norm[0] = sum;
  norm[1] = sqrt(sum) / (scale ? Acc(*scale) : Acc(1));
}

// m ← β₁ m + g     v ← β₂ v + g²     p ← p - size · m / (√v + eps)     with clipped, unscaled and decayed g, decayed p
// 28 bytes a float parameter: p, m and v are read and written, g is read. Nothing happens where *skip. norm, scale and
// skip may be null. `advance` in the last launch of a step: *steps becomes the number of this one.
template <typename T, typename Acc>
__global__ void __launch_bounds__(THREADS)
adam(T* __restrict__ p, const T* __restrict__ g, T* __restrict__ m, T* __restrict__ v, long long start, long long stop,
     const double* __restrict__ options, int decoupled, const Acc* __restrict__ norm, Acc max_norm,
     const float* __restrict__ scale, const bool* __restrict__ skip, long long* steps, unsigned* arrived, int advance) {
  if (skip && *skip) return;
  __shared__ Step<Acc> shared;
  if (threadIdx.x == 0) shared = take_step(options, decoupled, false, norm, max_norm, scale, steps, arrived, advance);
  __syncthreads();
  const Step<Acc> step = shared;

  for (long long k = start / Pack<T>::SIZE + grid_thread(); k * Pack<T>::SIZE < stop; k += grid_threads()) {
    const long long i = k * Pack<T>::SIZE;
    Pack<T> ps = load_within(p, i, start, stop), ms = load_within(m, i, start, stop), vs = load_within(v, i, start, stop);
    const Pack<T> gs = load_within(g, i, start, stop);
    for (int e = 0; e < Pack<T>::SIZE; ++e) update(step, ps.v[e], to_acc(gs.v[e]), ms.v[e], vs.v[e]);
    store_within(p, ps, i, start, stop);
    store_within(m, ms, i, start, stop);
    store_within(v, vs, i, start, stop);
  }
}
