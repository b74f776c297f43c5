// All time steps of a GRU and of an LSTM in one launch each way by clusters of blocks (sm_90 and later), for states whose weights
// one block cannot hold. README.md derives the equations and says which sizes come here; recurrent_sequence.cu is the same in
// single blocks, and the meaning of the arguments is as there. The order of adding differs from there, so that bits do.
//
// A cluster owns ROWS rows of the batch in one direction (blockIdx.y) and walks over all times; no cluster waits for another. Each
// of its blocks owns `width` columns of the state, and of every gate those that belong to them: these columns of the weights stay
// in its shared memory, the first `held` rows of them, as many as fit; the others come from the L2 cache each time. A thread has a
// row and a column. What the weights are multiplied with, the state forward and the gradients of the gates backward, each block
// needs whole: who computes a number writes it to all blocks of the cluster, and one barrier of the cluster a time lets them read.
// by_gate (gates * size, size) is W_hh. The size is a whole number of packs of 16 bytes, and of TOGETHER.
#include "recurrent_cluster.cuh"

template <typename T, typename Acc>
__global__ void __cluster_dims__(BLOCKS, 1, 1) __launch_bounds__(THREADS, 1)
gru_cluster_forward(T* __restrict__ gates, const T* __restrict__ weight, const T* __restrict__ weight_reverse,
                    const T* __restrict__ bias_ih, const T* __restrict__ bias_hh,
                    const T* __restrict__ bias_ih_reverse, const T* __restrict__ bias_hh_reverse,
                    const T* __restrict__ first, const T* __restrict__ first_reverse, T* __restrict__ before,
                    T* __restrict__ reset, T* __restrict__ y, T* __restrict__ last, const bool* __restrict__ mask,
                    int batch, int length, int size, int width, int held, int slices, int reverse) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(16) unsigned char memory[];
  const Member me(batch, length, size, width, reverse);
  if (me.direction == 1) {
    weight = weight_reverse;
    bias_ih = bias_ih_reverse;
    bias_hh = bias_hh_reverse;
    first = first_reverse;
  }
  Share<T, Acc, 3> share(memory, me, size, held, slices);
  share.hold(weight);
  __syncthreads();

  Acc h = 0, b_ih[3] = {}, b_hh[3] = {};
  T x[3] = {};
  bool real = false;
  const auto read = [&](int t) {
    real = !mask || mask[me.token(t)];
#pragma unroll
    for (int j = 0; j < 3; ++j) x[j] = gates[(me.place(t) * 3 + j) * size + me.column];
  };
  if (me.owner) {
#pragma unroll
    for (int j = 0; j < 3; ++j) b_ih[j] = to_acc(bias_ih[j * size + me.column]), b_hh[j] = to_acc(bias_hh[j * size + me.column]);
    if (first) h = to_acc(first[me.alone()]);
    read(me.time(0));
  }
  cluster_sync();
  if (me.owner) share.give(0, me.column, h);
  cluster_sync();

  for (int step = 0; step < length; ++step) {
    const int t = me.time(step);
    share.multiply(step & 1, weight);
    __syncthreads();
    GruStep<Acc> found = {};
    Acc e[3] = {};
    if (me.owner) {
      Acc into[3];
#pragma unroll
      for (int j = 0; j < 3; ++j) into[j] = to_acc(x[j]) + b_ih[j], e[j] = share.result(j) + b_hh[j];
      found = gru_step(into, e, h, real);
      share.give((step + 1) & 1, me.column, found.next);
    }
    __cluster_barrier_arrive();
    if (me.owner) {
      const long long place = me.place(t);
      T* gate = gates + place * 3 * size + me.column;
      gate[0] = from_acc<T>(found.r);
      gate[size] = from_acc<T>(found.q);
      gate[2 * size] = from_acc<T>(found.n);
      reset[place * size + me.column] = from_acc<T>(e[2]);
      before[place * size + me.column] = from_acc<T>(h);
      y[place * size + me.column] = from_acc<T>(real ? found.next : Acc(0));
      h = found.next;
      if (step + 1 < length) read(me.time(step + 1));
    }
    __cluster_barrier_wait();
  }
  if (me.owner) last[me.state()] = from_acc<T>(h);
#else
  __trap();
#endif
}

// gates become the gradients of W_ih x + b_ih, `inner` those of W_hh h + b_hh. dy, dlast and dfirst may be null.
template <typename T, typename Acc>
__global__ void __cluster_dims__(BLOCKS, 1, 1) __launch_bounds__(THREADS, 1)
gru_cluster_backward(T* __restrict__ gates, const T* __restrict__ reset, const T* __restrict__ before,
                     const T* __restrict__ by_gate, const T* __restrict__ by_gate_reverse, const T* __restrict__ dy,
                     const T* __restrict__ dlast, const bool* __restrict__ mask, T* __restrict__ inner,
                     T* __restrict__ dfirst, int batch, int length, int size, int width, int held,
                     int slices, int reverse) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(16) unsigned char memory[];
  const Member me(batch, length, size, width, reverse);
  if (me.direction == 1) by_gate = by_gate_reverse;
  Share<T, Acc, 1> share(memory, me, 3 * size, held, slices);
  share.hold(by_gate);

  Acc carry = 0;
  T kept[6] = {};
  const auto read = [&](int t) {
    const long long place = me.place(t), i = place * size + me.column;
#pragma unroll
    for (int j = 0; j < 3; ++j) kept[j] = gates[(place * 3 + j) * size + me.column];
    kept[3] = reset[i];
    kept[4] = before[i];
    kept[5] = dy && (!mask || mask[me.token(t)]) ? dy[i] : from_acc<T>(Acc(0));
  };
  if (me.owner) {
    if (dlast) carry = to_acc(dlast[me.state()]);
    read(me.time(length - 1));
  }
  cluster_sync();

  for (int step = 0; step < length; ++step) {
    const int t = me.time(length - 1 - step), next = (step + 1) & 1;
    if (step) share.multiply(step & 1, by_gate);
    __syncthreads();
    GruGradient<Acc> found = {};
    if (me.owner) {
      const Acc d = carry + (step ? share.result(0) : Acc(0)) + to_acc(kept[5]);
      found = gru_gradient(to_acc(kept[0]), to_acc(kept[1]), to_acc(kept[2]), to_acc(kept[3]), to_acc(kept[4]), d);
      share.give(next, me.column, found.dr);
      share.give(next, size + me.column, found.dz);
      share.give(next, 2 * size + me.column, found.inner);
      carry = found.carry;
    }
    __cluster_barrier_arrive();
    if (me.owner) {
      const long long i = me.place(t) * 3 * size + me.column;
      gates[i] = inner[i] = from_acc<T>(found.dr);
      gates[i + size] = inner[i + size] = from_acc<T>(found.dz);
      gates[i + 2 * size] = from_acc<T>(found.dn);
      inner[i + 2 * size] = from_acc<T>(found.inner);
      if (step + 1 < length) read(me.time(length - 2 - step));
    }
    __cluster_barrier_wait();
  }
  if (!dfirst) return;
  share.multiply(length & 1, by_gate);
  __syncthreads();
  if (me.owner) dfirst[me.state()] = from_acc<T>(carry + share.result(0));
#else
  __trap();
#endif
}

template <typename T, typename Acc>
__global__ void __cluster_dims__(BLOCKS, 1, 1) __launch_bounds__(THREADS, 1)
lstm_cluster_forward(T* __restrict__ gates, const T* __restrict__ weight, const T* __restrict__ weight_reverse,
                     const T* __restrict__ bias_ih, const T* __restrict__ bias_hh,
                     const T* __restrict__ bias_ih_reverse, const T* __restrict__ bias_hh_reverse,
                     const T* __restrict__ first, const T* __restrict__ first_reverse,
                     const T* __restrict__ first_cell, const T* __restrict__ first_cell_reverse,
                     T* __restrict__ before, T* __restrict__ cells, T* __restrict__ tanh_c, T* __restrict__ y,
                     T* __restrict__ last, T* __restrict__ last_cell, const bool* __restrict__ mask, int batch,
                     int length, int size, int width, int held, int slices, int reverse) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(16) unsigned char memory[];
  const Member me(batch, length, size, width, reverse);
  if (me.direction == 1) {
    weight = weight_reverse;
    bias_ih = bias_ih_reverse;
    bias_hh = bias_hh_reverse;
    first = first_reverse;
    first_cell = first_cell_reverse;
  }
  Share<T, Acc, 4> share(memory, me, size, held, slices);
  share.hold(weight);
  __syncthreads();

  Acc h = 0, cell = 0, bias[4] = {};
  T x[4] = {};
  bool real = false;
  const auto read = [&](int t) {
    real = !mask || mask[me.token(t)];
#pragma unroll
    for (int j = 0; j < 4; ++j) x[j] = gates[(me.place(t) * 4 + j) * size + me.column];
  };
  if (me.owner) {
#pragma unroll
    for (int j = 0; j < 4; ++j) bias[j] = to_acc(bias_ih[j * size + me.column]) + to_acc(bias_hh[j * size + me.column]);
    if (first) h = to_acc(first[me.alone()]);
    if (first_cell) cell = to_acc(first_cell[me.alone()]);
    read(me.time(0));
  }
  cluster_sync();
  if (me.owner) share.give(0, me.column, h);
  cluster_sync();

  for (int step = 0; step < length; ++step) {
    const int t = me.time(step);
    share.multiply(step & 1, weight);
    __syncthreads();
    LstmStep<Acc> found = {};
    if (me.owner) {
      Acc into[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) into[j] = to_acc(x[j]) + share.result(j) + bias[j];
      found = lstm_step(into, cell, real);
      share.give((step + 1) & 1, me.column, real ? found.h : h);
    }
    __cluster_barrier_arrive();
    if (me.owner) {
      const long long place = me.place(t), i = place * size + me.column;
      T* gate = gates + place * 4 * size + me.column;
#pragma unroll
      for (int j = 0; j < 4; ++j) gate[j * size] = from_acc<T>(found.gates[j]);
      before[i] = from_acc<T>(h);
      cells[i] = from_acc<T>(cell);
      tanh_c[i] = from_acc<T>(found.tanh_c);
      y[i] = from_acc<T>(real ? found.h : Acc(0));
      cell = found.c;
      if (real) h = found.h;
      if (step + 1 < length) read(me.time(step + 1));
    }
    __cluster_barrier_wait();
  }
  if (!me.owner) return;
  last[me.state()] = from_acc<T>(h);
  last_cell[me.state()] = from_acc<T>(cell);
#else
  __trap();
#endif
}

// As gru_cluster_backward; the gradients of W_ih x + b_ih are those of W_hh h + b_hh too.
template <typename T, typename Acc>
__global__ void __cluster_dims__(BLOCKS, 1, 1) __launch_bounds__(THREADS, 1)
lstm_cluster_backward(T* __restrict__ gates, const T* __restrict__ tanh_c, const T* __restrict__ cells,
                      const T* __restrict__ by_gate, const T* __restrict__ by_gate_reverse, const T* __restrict__ dy,
                      const T* __restrict__ dlast, const T* __restrict__ dlast_cell, const bool* __restrict__ mask,
                      T* __restrict__ dfirst, T* __restrict__ dfirst_cell, int batch, int length, int size, int width, int held, int slices, int reverse) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(16) unsigned char memory[];
  const Member me(batch, length, size, width, reverse);
  if (me.direction == 1) by_gate = by_gate_reverse;
  Share<T, Acc, 1> share(memory, me, 4 * size, held, slices);
  share.hold(by_gate);

  Acc carry = 0, cell = 0;
  T kept[7] = {};
  bool real = false;
  const auto read = [&](int t) {
    const long long place = me.place(t), i = place * size + me.column;
#pragma unroll
    for (int j = 0; j < 4; ++j) kept[j] = gates[(place * 4 + j) * size + me.column];
    kept[4] = tanh_c[i];
    kept[5] = cells[i];
    real = !mask || mask[me.token(t)];
    kept[6] = dy && real ? dy[i] : from_acc<T>(Acc(0));
  };
  if (me.owner) {
    if (dlast) carry = to_acc(dlast[me.state()]);
    if (dlast_cell) cell = to_acc(dlast_cell[me.state()]);
    read(me.time(length - 1));
  }
  cluster_sync();

  for (int step = 0; step < length; ++step) {
    const int t = me.time(length - 1 - step);
    if (step) share.multiply(step & 1, by_gate);
    __syncthreads();
    LstmGradient<Acc> found = {};
    if (me.owner) {
      const Acc d = carry + (step ? share.result(0) : Acc(0)) + to_acc(kept[6]);
      Acc gate[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) gate[j] = to_acc(kept[j]);
      found = lstm_gradient(gate, to_acc(kept[4]), to_acc(kept[5]), real ? d : Acc(0), cell);
#pragma unroll
      for (int j = 0; j < 4; ++j) share.give((step + 1) & 1, j * size + me.column, found.gates[j]);
      carry = real ? Acc(0) : d;
      cell = found.carry;
    }
    __cluster_barrier_arrive();
    if (me.owner) {
      T* into = gates + me.place(t) * 4 * size + me.column;
#pragma unroll
      for (int j = 0; j < 4; ++j) into[j * size] = from_acc<T>(found.gates[j]);
      if (step + 1 < length) read(me.time(length - 2 - step));
    }
    __cluster_barrier_wait();
  }
  if (!dfirst) return;
  share.multiply(length & 1, by_gate);
  __syncthreads();
  if (!me.owner) return;
  dfirst[me.state()] = from_acc<T>(carry + share.result(0));
  dfirst_cell[me.state()] = from_acc<T>(cell);
#else
  __trap();
#endif
}
