// What a GRU and an LSTM compute at one number of their state, forward and backward. README.md derives the equations.
#pragma once
#include "common.cuh"

template <typename Acc> __device__ inline Acc logistic(Acc x) { return Acc(0.5) * tanh(Acc(0.5) * x) + Acc(0.5); }

// r = σ(.)   q = 1 - z = σ(-.)   n = tanh(x_n + r s)   h' = h + q (n - h)        at padding q = 0
// x: W_ih x + b_ih, e: W_hh h + b_hh, one a gate; s = e_n.
template <typename Acc> struct GruStep { Acc r, q, n, next; };
template <typename Acc> __device__ inline GruStep<Acc> gru_step(const Acc (&x)[3], const Acc (&e)[3], Acc h, bool real) {
  const Acc r = logistic(x[0] + e[0]), q = real ? logistic(-(x[1] + e[1])) : Acc(0), n = tanh(x[2] + r * e[2]);
  return {r, q, n, h + q * (n - h)};
}

// d: what arrived at h'. dr and dz are gradients of x and of e, dn of x, inner of e; carry goes on to h past the gates.
template <typename Acc> struct GruGradient { Acc dr, dz, dn, inner, carry; };
template <typename Acc> __device__ inline GruGradient<Acc> gru_gradient(Acc r, Acc q, Acc n, Acc s, Acc h, Acc d) {
  const Acc u = q * d, dn = u * (1 - n * n);
  return {dn * s * r * (1 - r), u * (h - n) * (1 - q), dn, r * dn, d - u};
}

// i, f, o = σ(.)   g = tanh(.)   c' = f c + i g   h' = o tanh c'        at padding i = 0, f = 1
template <typename Acc> struct LstmStep { Acc gates[4], c, tanh_c, h; };
template <typename Acc> __device__ inline LstmStep<Acc> lstm_step(const Acc (&x)[4], Acc c, bool real) {
  const Acc i = real ? logistic(x[0]) : Acc(0), f = real ? logistic(x[1]) : Acc(1), g = tanh(x[2]), o = logistic(x[3]);
  const Acc next = f * c + i * g, tanh_c = tanh(next);
  return {{i, f, g, o}, next, tanh_c, o * tanh_c};
}

// d: what arrived at h', dc: at c'. `gates` are the gradients before the gates' functions, carry goes on to c.
template <typename Acc> struct LstmGradient { Acc gates[4], carry; };
template <typename Acc>
__device__ inline LstmGradient<Acc> lstm_gradient(const Acc (&gate)[4], Acc tanh_c, Acc c, Acc d, Acc dc) {
  const Acc i = gate[0], f = gate[1], g = gate[2], o = gate[3];
  dc += d * o * (1 - tanh_c * tanh_c);
  return {{dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g * g), d * tanh_c * o * (1 - o)}, dc * f};
}

constexpr int TOGETHER = 4;  // rows of a matrix that a thread multiplies with at a time

// sum[r] += rows k to k + TOGETHER - 1 of a pack of columns, the first row at `from` and the next `stride` on, times those
// elements of vector r; the vectors lie `inner` apart.
template <typename T, typename Acc, int ROWS>
__device__ inline void add_rows(const T* __restrict__ from, int stride, const Acc* vectors, int inner, int k,
                                Acc (&sum)[ROWS][Pack<T>::SIZE]) {
  Pack<T> w[TOGETHER];
#pragma unroll
  for (int j = 0; j < TOGETHER; ++j) w[j] = load_pack(from + (long long)(k + j) * stride);
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    const Pack<Acc, TOGETHER> v = load_pack<Acc, TOGETHER>(vectors + r * inner + k);
#pragma unroll
    for (int j = 0; j < TOGETHER; ++j)
#pragma unroll
      for (int e = 0; e < Pack<T>::SIZE; ++e) sum[r][e] += v.v[j] * to_acc(w[j].v[e]);
  }
}
