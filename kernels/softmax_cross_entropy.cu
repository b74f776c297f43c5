// Softmax cross-entropy over the last axis and its gradient. README.md derives the equations.
//
//   v = z, or soft_cap * tanh(z / soft_cap)        lse[i] = log sum over c of exp v[i,c]
//   loss[i] = (1 - smoothing) * w[t] * (lse[i] - v[i,t]) + smoothing / classes * sum over c of w[c] * (lse[i] - v[i,c])
//             + z_loss * lse[i]^2
//
//   z = logits (rows, classes)   t = targets[i]   w = class weights, all 1 where `weight` is null
//
// A row whose target is ignore_index has loss 0 and gradient 0. A target that is neither that nor in 0..classes-1 is
// an error that no kernel can raise: its row gets loss NaN and gradient 0, and first_bad_row keeps the smallest such
// row, to be read with the loss. These are the simple kernels, for rows that begin anywhere;
// softmax_cross_entropy_fused.cu has those that make loss and gradient in one walk over the logits.
#include "softmax_cross_entropy.cuh"

constexpr int THREADS = 256;

// Loss and log-sum-exp of each row. TEAM threads share a row: a warp, or the whole block where there are many classes.
// Two sweeps: the maximum first, so that no exponential overflows; then the sums, taken relative to it.
// first_bad_row starts as the largest value. weight_sum is the sum of the class weights, null with weight.
template <typename T, typename Acc, int TEAM>
__global__ void __launch_bounds__(THREADS)
softmax_cross_entropy_forward(const T* __restrict__ logits, const long long* __restrict__ targets,
                              const Acc* __restrict__ weight, const Acc* __restrict__ weight_sum,
                              Acc* __restrict__ loss, Acc* __restrict__ log_sum_exp,
                              unsigned long long* __restrict__ first_bad_row, long long rows, int classes,
                              long long ignore_index, Acc smoothing, Acc z_loss, Acc soft_cap) {
  const Problem<Acc> problem = {weight, weight_sum, classes, ignore_index, smoothing, z_loss, soft_cap};
  const int teams = THREADS / TEAM, team = threadIdx.x / TEAM, member = threadIdx.x % TEAM;
  for (long long row0 = (long long)blockIdx.x * teams; row0 < rows; row0 += (long long)gridDim.x * teams) {
    const long long row = row0 + team;
    const int width = row < rows ? classes : 0;  // a team past the last row takes part in the reductions with nothing
    const T* z = logits + row * classes;

    Acc top = lowest<Acc>();
    for (int c = member; c < width; c += TEAM) top = Max()(top, to_acc(z[c]));
    top = problem.capped(team_reduce<TEAM>(top, Max()));

    Acc exponentials = 0, below = 0;  // sum of exp(v - top); sum of w * (top - v), wanted for smoothing only
    for (int c = member; c < width; c += TEAM) {
      const Acc v = problem.capped(to_acc(z[c]));
      exponentials += exp(v - top);
      if (smoothing > 0) below += problem.weight_of(c) * (top - v);
    }
    exponentials = team_reduce<TEAM>(exponentials, Sum());
    if (smoothing > 0) below = team_reduce<TEAM>(below, Sum());

    if (member != 0 || row >= rows) continue;
    const long long target = targets[row];
    const Acc log_sum = log(exponentials);
    const Acc of_target = problem.in_range(target) ? problem.capped(to_acc(z[target])) : Acc(0);
    log_sum_exp[row] = top + log_sum;
    loss[row] = loss_of_row(problem, target, top, log_sum, below, of_target, row, first_bad_row);
  }
}

// dz[i,c] = g * ((1 - smoothing) * w[t] * (p[c] - [c = t]) + smoothing / classes * (W * p[c] - w[c]) + 2 z_loss lse[i] p[c])
// p[c] = exp(v[i,c] - lse[i]), W = sum of the weights, g = the gradient of loss[i]: gradient[i * gradient_step] (a step
// of 0 for one gradient of all rows), over *total where that is not null (the mean), and 0 where *total is 0.
// made: dlogits are right already if that gradient is *expected, or 1 where `expected` is null; then nothing is read.
// A thread an element.
template <typename T, typename Acc>
__global__ void __launch_bounds__(THREADS)
softmax_cross_entropy_backward(const T* __restrict__ logits, const long long* __restrict__ targets,
                               const Acc* __restrict__ weight, const Acc* __restrict__ weight_sum,
                               const Acc* __restrict__ log_sum_exp, const Acc* __restrict__ gradient,
                               int gradient_step, const Acc* __restrict__ total, T* __restrict__ dlogits,
                               long long rows, int classes, long long ignore_index, Acc smoothing, Acc z_loss,
                               Acc soft_cap, const Acc* __restrict__ expected, int made) {
  if (made && *gradient == (expected ? *expected : Acc(1))) return;
  const Problem<Acc> problem = {weight, weight_sum, classes, ignore_index, smoothing, z_loss, soft_cap};
  for (long long i = grid_thread(); i < rows * classes; i += grid_threads()) {
    const long long row = quotient(i, classes);
    Acc g = gradient[row * gradient_step];
    if (total) g = *total == 0 ? Acc(0) : g / *total;
    const RowGradient<Acc> of_row(problem, targets[row], log_sum_exp[row], g);
    const Acc v = problem.capped(to_acc(logits[i]));
    dlogits[i] = from_acc<T>(of_row.at(problem, (int)(i - row * classes), v, exp(v - log_sum_exp[row])));
  }
}

// result = sum of loss[i], over *total if `mean`; *total = sum of w[target] over the rows that count. Where it is 0, so
// is the mean.
// One block of THREADS threads: thread j adds rows j, j + THREADS, ... in order, so that the bits never vary.
template <typename Acc>
__global__ void __launch_bounds__(THREADS)
softmax_cross_entropy_reduce(const Acc* __restrict__ loss, const long long* __restrict__ targets,
                             const Acc* __restrict__ weight, Acc* __restrict__ result, Acc* __restrict__ total,
                             long long rows, int classes, long long ignore_index, int mean) {
  Acc losses = 0, weights = 0;
  for (long long row = threadIdx.x; row < rows; row += THREADS) {
    const long long target = targets[row];
    losses += loss[row];
    if (target != ignore_index && target >= 0 && target < classes) weights += weight ? weight[target] : Acc(1);
  }
  losses = team_reduce<THREADS>(losses, Sum());
  weights = team_reduce<THREADS>(weights, Sum());
  if (threadIdx.x != 0) return;
  *total = weights;
  *result = !mean ? losses : weights == 0 ? losses * 0 : losses / weights;  // a NaN stays one
}
