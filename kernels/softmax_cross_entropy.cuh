// What the softmax cross-entropy kernels share: what a row needs beside its logits, its loss, and the gradient of a logit.
#pragma once
#include "common.cuh"

// What does not change from row to row. weight and weight_sum are null where all class weights are 1.
template <typename Acc> struct Problem {
  const Acc *weight, *weight_sum;
  int classes;
  long long ignore_index;
  Acc smoothing, z_loss, soft_cap;

  __device__ Acc weight_of(int c) const { return weight ? weight[c] : Acc(1); }
  __device__ Acc all_weights() const { return weight ? *weight_sum : Acc(classes); }
  __device__ bool in_range(long long target) const { return target >= 0 && target < classes; }
  __device__ bool counts(long long target) const { return target != ignore_index && in_range(target); }
  __device__ Acc capped(Acc z) const { return soft_cap > 0 ? soft_cap * tanh(z / soft_cap) : z; }
};

// A row's loss from its largest logit `top`, log_sum = log Σ e^(v - top), below = Σ w (top - v) and the target's logit.
// A target out of range gives NaN, and the smallest such row is kept: no kernel can raise.
template <typename Acc>
__device__ inline Acc loss_of_row(const Problem<Acc>& problem, long long target, Acc top, Acc log_sum, Acc below,
                                  Acc of_target, long long row, unsigned long long* first_bad_row) {
  if (target == problem.ignore_index) return 0;
  if (!problem.in_range(target)) {
    atomicMin(first_bad_row, (unsigned long long)row);
    return Acc(nan(""));
  }
  Acc loss = (1 - problem.smoothing) * problem.weight_of((int)target) * (top - of_target + log_sum);
  if (problem.smoothing > 0)
    loss += problem.smoothing / problem.classes * (problem.all_weights() * log_sum + below);
  const Acc log_sum_exp = top + log_sum;
  return problem.z_loss > 0 ? loss + problem.z_loss * log_sum_exp * log_sum_exp : loss;
}

// The gradient of one row: of_target (p[c] - [c = target]) + of_each (W p[c] - w[c]) + of_z p[c], times the slope of the cap.
template <typename Acc> struct RowGradient {
  Acc of_target, of_each, of_z, all_weights;
  int target;

  // g: the gradient of the row's loss. All are 0 for a row that does not count.
  __device__ RowGradient(const Problem<Acc>& problem, long long label, Acc log_sum_exp, Acc g) {
    const bool counts = problem.counts(label);
    target = counts ? (int)label : -1;
    of_target = counts ? g * (1 - problem.smoothing) * problem.weight_of(target) : Acc(0);
    of_each = counts ? g * problem.smoothing / problem.classes : Acc(0);
    of_z = counts && problem.z_loss > 0 ? 2 * g * problem.z_loss * log_sum_exp : Acc(0);
    all_weights = problem.smoothing > 0 ? problem.all_weights() : Acc(0);
  }

  // of class c with the capped logit v and the probability p
  __device__ Acc at(const Problem<Acc>& problem, int c, Acc v, Acc p) const {
    if (target < 0) return 0;  // also where p is NaN
    Acc d = of_target * (p - (c == target ? Acc(1) : Acc(0)));
    if (problem.smoothing > 0) d += of_each * (all_weights * p - problem.weight_of(c));
    if (problem.z_loss > 0) d += of_z * p;
    return problem.soft_cap > 0 ? d * (1 - v / problem.soft_cap * (v / problem.soft_cap)) : d;
  }
};
