// What decides whether a training step changes the weights: losses and gradients that are not finite, and the loss
// scale of float16. One thread each, as there is one number of each; README.md says what becomes of them.
#include "common.cuh"

// *so_far: whether anything was not finite before, then also in this step; *bad the same; *skip: *bad or *overflow.
// norm[0] is the sum of all squared gradients. loss, norm, lost and overflow may be null.
template <typename Loss, typename Acc>
__global__ void __launch_bounds__(1)
judge_step(const Loss* __restrict__ loss, const Acc* __restrict__ norm, const bool* __restrict__ lost,
           const bool* __restrict__ overflow, bool* so_far, bool* bad, bool* skip) {
  const bool now = *so_far || (loss && !isfinite(*loss)) || (norm && !isfinite(norm[0])) || (lost && *lost);
  *so_far = *bad = now;
  *skip = now || (overflow && *overflow);
}

// norm[0] is the sum of all squared gradients, which were multiplied with *scale; *used becomes that scale. Where the
// sum is not finite, *scale is halved, down to `least` (*lost where it is that already), and *skipped counts up; else
// it is doubled, up to `most`, after `grow_after` steps since it changed or there was an overflow (*since).
template <typename Acc>
__global__ void __launch_bounds__(1)
loss_scale(const Acc* __restrict__ norm, float least, float most, long long grow_after, float* scale, float* used,
           long long* since, long long* skipped, bool* lost, bool* overflow) {
  const bool over = !isfinite(norm[0]), grows = *since + 1 >= grow_after;
  const float before = *scale, after = before * (over ? 0.5f : grows ? 2.0f : 1.0f);
  *used = before;
  *overflow = over;
  *lost = *lost || (over && before <= least);
  *scale = fminf(fmaxf(after, least), most);
  *since = over || grows ? 0 : *since + 1;
  *skipped += over;
}
