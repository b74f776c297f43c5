// All time steps of a GRU and of an LSTM in one launch each way, for one direction of a layer or for both. README.md derives
// the equations and says which sizes come here.
//
// A block owns ROWS rows of the batch in one direction (blockIdx.y) and walks over all times; no block waits for another. A
// thread a column of the state, which stays in its registers. What the recurrent weights are multiplied with is in shared
// memory, and so are the first `held` rows of the weights, as many as fit; the others come from the L2 cache each time.
//
// gates (batch, length, directions, gates * size) holds W_ih x and becomes the gates; backward makes their gradients of them.
// before, reset, cells, tanh_c (batch, length, directions, size) are kept for backward. y and dy (batch, length, directions *
// size). first: the initial state (batch, size) of a direction, or null for 0; last, dlast, dfirst (directions, batch, size).
// weight (size, gates * size) is W_hh, transposed. mask (batch, length) is true at real tokens and may be null: at padding the
// state passes unchanged, y is 0 and dy counts nothing. The second direction, and a single one with `reverse`, runs from the
// last time to the first. padded: the size in whole packs; where it is more than the size, all of the weights are held.
#include "recurrent_sequence.cuh"

template <typename T, typename Acc, int ROWS>
__global__ void __launch_bounds__(THREADS, 1)
gru_sequence_forward(T* __restrict__ gates, const T* __restrict__ weight, const T* __restrict__ weight_reverse,
                     const T* __restrict__ bias_ih, const T* __restrict__ bias_hh,
                     const T* __restrict__ bias_ih_reverse, const T* __restrict__ bias_hh_reverse,
                     const T* __restrict__ first, const T* __restrict__ first_reverse, T* __restrict__ before,
                     T* __restrict__ reset, T* __restrict__ y, T* __restrict__ last, const bool* __restrict__ mask,
                     int batch, int length, int size, int padded, int held, int slices, int reverse) {
  extern __shared__ __align__(16) unsigned char memory[];
  const Walk<ROWS> walk(batch, length, size, reverse);
  if (walk.direction == 1) {
    weight = weight_reverse;
    bias_ih = bias_ih_reverse;
    bias_hh = bias_hh_reverse;
    first = first_reverse;
  }
  Product<T, Acc, ROWS> product(memory, padded, 3 * padded, held, slices);
  hold_forward<3>(product, weight, size, padded);
  __syncthreads();

  const int c = threadIdx.x;
  Acc h[ROWS] = {}, b_ih[3] = {}, b_hh[3] = {};
  if (walk.owner()) {
#pragma unroll
    for (int j = 0; j < 3; ++j) b_ih[j] = to_acc(bias_ih[j * size + c]), b_hh[j] = to_acc(bias_hh[j * size + c]);
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
      if (first && r < walk.rows) product.vectors[r * padded + c] = h[r] = to_acc(first[walk.alone(r)]);
  }
  __syncthreads();

  for (int step = 0; step < length; ++step) {
    const int t = walk.time(step);
    T x[ROWS][3];
    bool real[ROWS];
    read_step(walk, gates, mask, t, x, real);
    product.multiply(weight);
    __syncthreads();
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
      if (walk.owner() && r < walk.rows) {
        Acc into[3], e[3];
#pragma unroll
        for (int j = 0; j < 3; ++j) {
          into[j] = to_acc(x[r][j]) + b_ih[j];
          e[j] = product.result(r, j * padded + c) + b_hh[j];
        }
        const GruStep<Acc> found = gru_step(into, e, h[r], real[r]);
        const long long place = walk.place(r, t);
        T* gate = gates + place * 3 * size + c;
        gate[0] = from_acc<T>(found.r);
        gate[size] = from_acc<T>(found.q);
        gate[2 * size] = from_acc<T>(found.n);
        reset[place * size + c] = from_acc<T>(e[2]);
        before[place * size + c] = from_acc<T>(h[r]);
        y[place * size + c] = from_acc<T>(real[r] ? found.next : Acc(0));
        product.vectors[r * padded + c] = h[r] = found.next;
      }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < ROWS; ++r)
    if (walk.owner() && r < walk.rows) last[walk.state(r)] = from_acc<T>(h[r]);
}

// gates become the gradients of W_ih x + b_ih, `inner` those of W_hh h + b_hh. dy, dlast and dfirst may be null.
template <typename T, typename Acc, int ROWS>
__global__ void __launch_bounds__(THREADS, 1)
gru_sequence_backward(T* __restrict__ gates, const T* __restrict__ reset, const T* __restrict__ before,
                      const T* __restrict__ weight, const T* __restrict__ weight_reverse,
                      const T* __restrict__ by_gate, const T* __restrict__ by_gate_reverse,
                      const T* __restrict__ dy, const T* __restrict__ dlast, const bool* __restrict__ mask,
                      T* __restrict__ inner, T* __restrict__ dfirst, int batch, int length, int size, int padded,
                      int held, int slices, int reverse) {
  extern __shared__ __align__(16) unsigned char memory[];
  const Walk<ROWS> walk(batch, length, size, reverse);
  if (walk.direction == 1) weight = weight_reverse, by_gate = by_gate_reverse;
  Product<T, Acc, ROWS> product(memory, 3 * padded, padded, held, slices);
  hold_backward<3>(product, weight, by_gate, size, padded);

  const int c = threadIdx.x;
  Acc carry[ROWS] = {};
#pragma unroll
  for (int r = 0; r < ROWS; ++r)
    if (dlast && walk.owner() && r < walk.rows) carry[r] = to_acc(dlast[walk.state(r)]);
  __syncthreads();

  for (int step = 0; step < length; ++step) {
    const int t = walk.time(length - 1 - step);
    T kept[ROWS][6];
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
      if (walk.owner() && r < walk.rows) {
        const long long place = walk.place(r, t), i = place * size + c;
#pragma unroll
        for (int j = 0; j < 3; ++j) kept[r][j] = gates[(place * 3 + j) * size + c];
        kept[r][3] = reset[i];
        kept[r][4] = before[i];
        kept[r][5] = dy && (!mask || mask[walk.token(r, t)]) ? dy[i] : from_acc<T>(Acc(0));
      }
    if (step) product.multiply(by_gate);
    __syncthreads();
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
      if (walk.owner() && r < walk.rows) {
        const Acc d = carry[r] + (step ? product.result(r, c) : Acc(0)) + to_acc(kept[r][5]);
        const GruGradient<Acc> found = gru_gradient(to_acc(kept[r][0]), to_acc(kept[r][1]), to_acc(kept[r][2]),
                                                    to_acc(kept[r][3]), to_acc(kept[r][4]), d);
        const long long i = walk.place(r, t) * 3 * size + c;
        Acc* vector = product.vectors + r * product.inner + c;
        gates[i] = inner[i] = from_acc<T>(vector[0] = found.dr);
        gates[i + size] = inner[i + size] = from_acc<T>(vector[padded] = found.dz);
        gates[i + 2 * size] = from_acc<T>(found.dn);
        inner[i + 2 * size] = from_acc<T>(vector[2 * padded] = found.inner);
        carry[r] = found.carry;
      }
    __syncthreads();
  }
  if (!dfirst) return;
  product.multiply(by_gate);
  __syncthreads();
#pragma unroll
  for (int r = 0; r < ROWS; ++r)
    if (walk.owner() && r < walk.rows) dfirst[walk.state(r)] = from_acc<T>(carry[r] + product.result(r, c));
}

template <typename T, typename Acc, int ROWS>
__global__ void __launch_bounds__(THREADS, 1)
lstm_sequence_forward(T* __restrict__ gates, const T* __restrict__ weight, const T* __restrict__ weight_reverse,
                      const T* __restrict__ bias_ih, const T* __restrict__ bias_hh,
                      const T* __restrict__ bias_ih_reverse, const T* __restrict__ bias_hh_reverse,
                      const T* __restrict__ first, const T* __restrict__ first_reverse,
                      const T* __restrict__ first_cell, const T* __restrict__ first_cell_reverse,
                      T* __restrict__ before, T* __restrict__ cells, T* __restrict__ tanh_c, T* __restrict__ y,
                      T* __restrict__ last, T* __restrict__ last_cell, const bool* __restrict__ mask, int batch,
                      int length, int size, int padded, int held, int slices, int reverse) {
  extern __shared__ __align__(16) unsigned char memory[];
  const Walk<ROWS> walk(batch, length, size, reverse);
  if (walk.direction == 1) {
    weight = weight_reverse;
    bias_ih = bias_ih_reverse;
    bias_hh = bias_hh_reverse;
    first = first_reverse;
    first_cell = first_cell_reverse;
  }
  Product<T, Acc, ROWS> product(memory, padded, 4 * padded, held, slices);
  hold_forward<4>(product, weight, size, padded);
  __syncthreads();

  const int c = threadIdx.x;
  Acc h[ROWS] = {}, cell[ROWS] = {}, bias[4] = {};
  if (walk.owner()) {
#pragma unroll
    for (int j = 0; j < 4; ++j) bias[j] = to_acc(bias_ih[j * size + c]) + to_acc(bias_hh[j * size + c]);
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      if (r >= walk.rows) break;
      if (first) product.vectors[r * padded + c] = h[r] = to_acc(first[walk.alone(r)]);
      if (first_cell) cell[r] = to_acc(first_cell[walk.alone(r)]);
    }
  }
  __syncthreads();

  for (int step = 0; step < length; ++step) {
    const int t = walk.time(step);
    T x[ROWS][4];
    bool real[ROWS];
    read_step(walk, gates, mask, t, x, real);
    product.multiply(weight);
    __syncthreads();
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
      if (walk.owner() && r < walk.rows) {
        Acc into[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) into[j] = to_acc(x[r][j]) + product.result(r, j * padded + c) + bias[j];
        const LstmStep<Acc> found = lstm_step(into, cell[r], real[r]);
        const long long place = walk.place(r, t), i = place * size + c;
        T* gate = gates + place * 4 * size + c;
#pragma unroll
        for (int j = 0; j < 4; ++j) gate[j * size] = from_acc<T>(found.gates[j]);
        before[i] = from_acc<T>(h[r]);
        cells[i] = from_acc<T>(cell[r]);
        tanh_c[i] = from_acc<T>(found.tanh_c);
        y[i] = from_acc<T>(real[r] ? found.h : Acc(0));
        cell[r] = found.c;
        if (real[r]) product.vectors[r * padded + c] = h[r] = found.h;
      }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < ROWS; ++r)
    if (walk.owner() && r < walk.rows) {
      last[walk.state(r)] = from_acc<T>(h[r]);
      last_cell[walk.state(r)] = from_acc<T>(cell[r]);
    }
}

// As gru_sequence_backward; the gradients of W_ih x + b_ih are those of W_hh h + b_hh too.
template <typename T, typename Acc, int ROWS>
__global__ void __launch_bounds__(THREADS, 1)
lstm_sequence_backward(T* __restrict__ gates, const T* __restrict__ tanh_c, const T* __restrict__ cells,
                       const T* __restrict__ weight, const T* __restrict__ weight_reverse,
                       const T* __restrict__ by_gate, const T* __restrict__ by_gate_reverse,
                       const T* __restrict__ dy, const T* __restrict__ dlast, const T* __restrict__ dlast_cell,
                       const bool* __restrict__ mask, T* __restrict__ dfirst, T* __restrict__ dfirst_cell, int batch,
                       int length, int size, int padded, int held, int slices, int reverse) {
  extern __shared__ __align__(16) unsigned char memory[];
  const Walk<ROWS> walk(batch, length, size, reverse);
  if (walk.direction == 1) weight = weight_reverse, by_gate = by_gate_reverse;
  Product<T, Acc, ROWS> product(memory, 4 * padded, padded, held, slices);
  hold_backward<4>(product, weight, by_gate, size, padded);

  const int c = threadIdx.x;
  Acc carry[ROWS] = {}, cell[ROWS] = {};
#pragma unroll
  for (int r = 0; r < ROWS; ++r)
    if (walk.owner() && r < walk.rows) {
      if (dlast) carry[r] = to_acc(dlast[walk.state(r)]);
      if (dlast_cell) cell[r] = to_acc(dlast_cell[walk.state(r)]);
    }
  __syncthreads();

  for (int step = 0; step < length; ++step) {
    const int t = walk.time(length - 1 - step);
    T kept[ROWS][7];
    bool real[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
      if (walk.owner() && r < walk.rows) {
        const long long place = walk.place(r, t), i = place * size + c;
#pragma unroll
        for (int j = 0; j < 4; ++j) kept[r][j] = gates[(place * 4 + j) * size + c];
        kept[r][4] = tanh_c[i];
        kept[r][5] = cells[i];
        real[r] = !mask || mask[walk.token(r, t)];
        kept[r][6] = dy && real[r] ? dy[i] : from_acc<T>(Acc(0));
      }
    if (step) product.multiply(by_gate);
    __syncthreads();
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
      if (walk.owner() && r < walk.rows) {
        const Acc d = carry[r] + (step ? product.result(r, c) : Acc(0)) + to_acc(kept[r][6]);
        Acc gate[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) gate[j] = to_acc(kept[r][j]);
        const LstmGradient<Acc> found =
            lstm_gradient(gate, to_acc(kept[r][4]), to_acc(kept[r][5]), real[r] ? d : Acc(0), cell[r]);
        T* into = gates + walk.place(r, t) * 4 * size + c;
        Acc* vector = product.vectors + r * product.inner + c;
#pragma unroll
        for (int j = 0; j < 4; ++j) into[j * size] = from_acc<T>(vector[j * padded] = found.gates[j]);
        carry[r] = real[r] ? Acc(0) : d;
        cell[r] = found.carry;
      }
    __syncthreads();
  }
  if (!dfirst) return;
  product.multiply(by_gate);
  __syncthreads();
#pragma unroll
  for (int r = 0; r < ROWS; ++r)
    if (walk.owner() && r < walk.rows) {
      dfirst[walk.state(r)] = from_acc<T>(carry[r] + product.result(r, c));
      dfirst_cell[walk.state(r)] = from_acc<T>(cell[r]);
    }
}
