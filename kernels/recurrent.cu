// One time step of a GRU and of an LSTM, forward and backward, but for the product with the recurrent weights. README.md
// derives the equations.
//
// A thread a number of the state (batch, size). `gates` holds W_ih x of this time, one gate after another in a row, and becomes
// the gates; backward makes their gradients of them. mask (batch, length) is true at real tokens and may be null: at padding the
// state passes unchanged, y is 0 and dy counts nothing. y and dy are (batch, length, size).
#include "recurrent.cuh"

constexpr int THREADS = 256;

// Where the number i of the state is: its row, its column, and its place in y.
struct Place {
  long long row;
  int column;
  long long token, output;
};
__device__ inline Place place_of(long long i, int size, int length, int t) {
  const long long row = quotient(i, size);
  const int column = (int)(i - row * size);
  return {row, column, row * length + t, (row * length + t) * size + column};
}

// gates become r, q, n, with q = 0 at padding; products is W_hh h; s goes to `reset`.
template <typename T, typename Acc>
__global__ void __launch_bounds__(THREADS)
gru_forward(T* __restrict__ gates, const T* __restrict__ products, const T* __restrict__ bias_ih,
            const T* __restrict__ bias_hh, const T* __restrict__ before, T* __restrict__ after, T* __restrict__ reset,
            T* __restrict__ y, const bool* __restrict__ mask, long long states, int size, int length, int t) {
  for (long long i = grid_thread(); i < states; i += grid_threads()) {
    const Place at = place_of(i, size, length, t);
    const int c = at.column;
    T* gate = gates + at.row * 3 * size + c;
    const T* product = products + at.row * 3 * size + c;
    const bool real = !mask || mask[at.token];
    Acc x[3], e[3];
    for (int j = 0; j < 3; ++j) {
      x[j] = to_acc(gate[j * size]) + to_acc(bias_ih[j * size + c]);
      e[j] = to_acc(product[j * size]) + to_acc(bias_hh[j * size + c]);
    }
    const GruStep<Acc> step = gru_step(x, e, to_acc(before[i]), real);
    gate[0] = from_acc<T>(step.r);
    gate[size] = from_acc<T>(step.q);
    gate[2 * size] = from_acc<T>(step.n);
    reset[i] = from_acc<T>(e[2]);
    after[i] = from_acc<T>(step.next);
    y[at.output] = from_acc<T>(real ? step.next : Acc(0));
  }
}

// carry holds what came to h' past its gates, product what came through W_hh (null at the last time); afterwards carry is what
// goes on to h past the gates. gates become the gradients of W_ih x + b_ih, `inner` those of W_hh h + b_hh.
template <typename T, typename Acc>
__global__ void __launch_bounds__(THREADS)
gru_backward(T* __restrict__ gates, const T* __restrict__ reset, const T* __restrict__ before, const T* __restrict__ dy,
             const bool* __restrict__ mask, T* __restrict__ carry, const T* __restrict__ product, T* __restrict__ inner,
             long long states, int size, int length, int t) {
  for (long long i = grid_thread(); i < states; i += grid_threads()) {
    const Place at = place_of(i, size, length, t);
    T* gate = gates + at.row * 3 * size + at.column;
    T* into = inner + at.row * 3 * size + at.column;
    Acc d = to_acc(carry[i]) + (product ? to_acc(product[i]) : Acc(0));
    if (dy && (!mask || mask[at.token])) d += to_acc(dy[at.output]);
    const GruGradient<Acc> found = gru_gradient(
        to_acc(gate[0]), to_acc(gate[size]), to_acc(gate[2 * size]), to_acc(reset[i]), to_acc(before[i]), d);
    gate[0] = into[0] = from_acc<T>(found.dr);
    gate[size] = into[size] = from_acc<T>(found.dz);
    gate[2 * size] = from_acc<T>(found.dn);
    into[2 * size] = from_acc<T>(found.inner);
    carry[i] = from_acc<T>(found.carry);
  }
}

// gates become i, f, g, o, with i = 0, f = 1 at padding
template <typename T, typename Acc>
__global__ void __launch_bounds__(THREADS)
lstm_forward(T* __restrict__ gates, const T* __restrict__ products, const T* __restrict__ bias_ih,
             const T* __restrict__ bias_hh, const T* __restrict__ h_before, const T* __restrict__ c_before,
             T* __restrict__ h_after, T* __restrict__ c_after, T* __restrict__ tanh_c, T* __restrict__ y,
             const bool* __restrict__ mask, long long states, int size, int length, int t) {
  for (long long k = grid_thread(); k < states; k += grid_threads()) {
    const Place at = place_of(k, size, length, t);
    T* gate = gates + at.row * 4 * size + at.column;
    const T* product = products + at.row * 4 * size + at.column;
    const bool real = !mask || mask[at.token];
    Acc x[4];
    for (int j = 0; j < 4; ++j) {
      const int c = j * size + at.column;
      x[j] = to_acc(gate[j * size]) + to_acc(product[j * size]) + to_acc(bias_ih[c]) + to_acc(bias_hh[c]);
    }
    const LstmStep<Acc> step = lstm_step(x, to_acc(c_before[k]), real);
    for (int j = 0; j < 4; ++j) gate[j * size] = from_acc<T>(step.gates[j]);
    c_after[k] = from_acc<T>(step.c);
    tanh_c[k] = from_acc<T>(step.tanh_c);
    h_after[k] = real ? from_acc<T>(step.h) : h_before[k];
    y[at.output] = from_acc<T>(real ? step.h : Acc(0));
  }
}

// As gru_backward; `cell` holds dc', then dc. All of dh' goes through the gates, but at padding, where all of it passes.
template <typename T, typename Acc>
__global__ void __launch_bounds__(THREADS)
lstm_backward(T* __restrict__ gates, const T* __restrict__ tanh_c, const T* __restrict__ c_before,
              const T* __restrict__ dy, const bool* __restrict__ mask, T* __restrict__ carry, T* __restrict__ cell,
              const T* __restrict__ product, long long states, int size, int length, int t) {
  for (long long k = grid_thread(); k < states; k += grid_threads()) {
    const Place at = place_of(k, size, length, t);
    T* gate = gates + at.row * 4 * size + at.column;
    const bool real = !mask || mask[at.token];
    Acc d = to_acc(carry[k]) + (product ? to_acc(product[k]) : Acc(0));
    carry[k] = from_acc<T>(real ? Acc(0) : d);
    if (!real) d = 0;
    if (dy && real) d += to_acc(dy[at.output]);
    Acc of[4];
    for (int j = 0; j < 4; ++j) of[j] = to_acc(gate[j * size]);
    const LstmGradient<Acc> found = lstm_gradient(of, to_acc(tanh_c[k]), to_acc(c_before[k]), d, to_acc(cell[k]));
    for (int j = 0; j < 4; ++j) gate[j * size] = from_acc<T>(found.gates[j]);
    cell[k] = from_acc<T>(found.carry);
  }
}
