// What a step of Adam does to an element, for all parameters at once and for rows of a table. README.md derives it.
#pragma once
#include "common.cuh"

// What a step does to every element alike.
template <typename Acc> struct Step {
  Acc of_gradient, keep, decay;  // g is multiplied with the first, then gets decay * p; p is multiplied with `keep`
  Acc beta1, beta2, eps, size;
};
enum { LR, BETA1, BETA2, EPS, WEIGHT_DECAY };  // places in `options`

// of_rows: eps is added to the root of the second moment as it is, not as it is corrected for the first steps.
template <typename Acc>
__device__ inline Step<Acc> step_of(const double* __restrict__ options, int decoupled, bool of_rows,
                                    const Acc* __restrict__ norm, Acc max_norm, const float* __restrict__ scale,
                                    long long number) {
  const double lr = options[LR], decay = options[WEIGHT_DECAY];
  const double rest1 = 1 - options[BETA1], rest2 = 1 - options[BETA2];
  const double root = sqrt(rest2 / (1 - pow(options[BETA2], (double)number)));
  Acc factor = scale ? 1 / Acc(*scale) : Acc(1);
  if (norm) {
    const Acc clip = max_norm / (norm[1] + Acc(1e-6));
    if (!(clip > 1)) factor *= clip;  // a norm that is NaN shows in the parameters
  }
  return {factor, Acc(decoupled ? 1 - lr * decay : 1.0), Acc(decoupled ? 0.0 : decay),
          Acc(options[BETA1]), Acc(options[BETA2]), Acc(options[EPS] / (of_rows ? sqrt(rest2) : root)),
          Acc(lr * rest1 / (1 - pow(options[BETA1], (double)number)) / root)};
}

// By one thread of each block. `advance`: this is the last launch of the step, and *steps becomes the step's number.
template <typename Acc>
__device__ inline Step<Acc> take_step(const double* __restrict__ options, int decoupled, bool of_rows,
                                      const Acc* __restrict__ norm, Acc max_norm, const float* __restrict__ scale,
                                      long long* steps, unsigned* arrived, int advance) {
  const long long number = *steps + 1;
  if (advance && last_to_arrive(arrived)) *steps = number;  // every block has read it
  return step_of(options, decoupled, of_rows, norm, max_norm, scale, number);
}

template <typename T, typename Acc>
__device__ inline void update(const Step<Acc>& step, T& p, Acc g, T& m, T& v) {
  const Acc value = to_acc(p), gradient = g * step.of_gradient + step.decay * value;
  const Acc first = step.beta1 * to_acc(m) + gradient;
  const Acc second = step.beta2 * to_acc(v) + gradient * gradient;
  p = from_acc<T>(value * step.keep - step.size * first / (sqrt(second) + step.eps));
  m = from_acc<T>(first);
  v = from_acc<T>(second);
}
