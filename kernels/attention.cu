// Scaled dot-product attention and its gradients. README.md derives the equations.
//
//   e[t,s] = scale * sum over d of q[t,d] * k[s,d]          a[t,s] = exp(e[t,s] - lse[t]), 0 where t does not see s
//   y[t,c] = sum over s of u[t,s] * v[s,c]                   u[t,s] = keep_scale * a[t,s] where kept, else 0
//
//   q (matrices, queries, size)   k (matrices, keys, size)   v (matrices, keys, value_size)
//   y (matrices, queries, value_size)   lse[t] = log sum over the keys s that t sees of exp e[t,s]
//
// matrices = batch * heads. A block computes TILE rows of a result and COLUMNS of its columns, and walks what is summed
// over a tile at a time: e and a are made on the chip, TILE x TILE, in forward and again in backward, and never stored.
// (One block a multiprocessor: the larger tile takes up to 250 registers a thread and would spill with two.)
// The number of a weight in the dropout stream is its place in a (matrices, queries, keys).
#include "attention.cuh"

// y and lse. Rows t, columns c. The keys are walked once: `top` is a row's largest energy so far, and what was summed
// relative to an older one is scaled down to it (Milakov and Gimelshein 2018).
template <typename T, typename Acc, int TILE>
__global__ void __launch_bounds__(THREADS, 1)
attention_forward(const T* __restrict__ query, const T* __restrict__ key, const T* __restrict__ value,
                  const bool* __restrict__ mask, T* __restrict__ context, Acc* __restrict__ log_sum_exp,
                  long long matrices, int heads, int queries, int keys, int size, int value_size,
                  long long batch_step, long long head_step, long long query_step, int key_step, int causal, Acc scale,
                  int keep, Acc keep_scale, long long first, unsigned long long seed, unsigned long long stream,
                  unsigned long long call, const unsigned long long* __restrict__ step) {
  constexpr int N = TILE / SIDE;
  __shared__ Acc used[TILE][TILE + 1];
  __shared__ KeptBits<TILE> kept;
  const int row = row_of_thread(), column = column_of_thread();
  for (long long block = blockIdx.x; block < Job::count<TILE>(matrices, queries, value_size); block += gridDim.x) {
    const Job job = Job::of<TILE>(block, queries, value_size);
    const long long m = job.matrix;
    const T *q = query + m * queries * size, *k = key + m * keys * size, *v = value + m * keys * value_size;
    const Sight sees = {mask_of(mask, m, heads, batch_step, head_step), query_step, key_step, queries, keys, causal};
    const Dropout drop = {keep, first + m * queries * keys, seed, stream, call, step ? *step : 0};
    Acc top[N], total[N], sums[N][WIDE] = {};
#pragma unroll
    for (int i = 0; i < N; ++i) top[i] = lowest<Acc>(), total[i] = 0;

    for (int key0 = 0; key0 < keys && !(causal && key0 >= job.row0 + TILE); key0 += TILE) {
      if (!drop.off()) kept.draw(drop, job.row0, queries, key0, keys);
      Acc e[N][N];
      rows_by_rows(q, job.row0, queries, k, key0, keys, size, e);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const int at = row + i * SIDE;
        Acc most = top[i], added = 0;
#pragma unroll
        for (int j = 0; j < N; ++j) {
          e[i][j] = sees(job.row0 + at, key0 + column + j * SIDE) ? e[i][j] * scale : lowest<Acc>();
          most = Max()(most, e[i][j]);
        }
        most = team_reduce<SIDE>(most, Max());
#pragma unroll
        for (int j = 0; j < N; ++j) {
          const int of_key = column + j * SIDE;
          const bool seen = e[i][j] != lowest<Acc>();
          const Acc a = seen ? exp(e[i][j] - most) : Acc(0);
          added += a;
          used[at][of_key] = seen && (drop.off() || kept(at, of_key)) ? a : Acc(0);
        }
        const Acc shrink = exp(top[i] - most);
        total[i] = total[i] * shrink + team_reduce<SIDE>(added, Sum());
        top[i] = most;
#pragma unroll
        for (int j = 0; j < WIDE; ++j) sums[i][j] *= shrink;
      }
      add_tile_by_rows(used, v, key0, keys, job.column0, value_size, sums);
    }

    Acc factor[N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int t = job.row0 + row + i * SIDE;
      factor[i] = total[i] == 0 ? Acc(0) : keep_scale / total[i];  // 0: a query without any key
      if (column == 0 && job.column0 == 0 && t < queries)
        log_sum_exp[m * queries + t] = total[i] == 0 ? Acc(0) : top[i] + log(total[i]);
    }
    store(context + m * queries * value_size, job.row0, queries, job.column0, value_size, sums, factor);
  }
}

// dq[t,d] = scale * sum over s of de[t,s] * k[s,d]          de[t,s] = a[t,s] * (da[t,s] - delta[t])
// da[t,s] = keep_scale * sum over c of dy[t,c] * v[s,c] where kept, else 0
// delta[t] = sum over c of dy[t,c] * y[t,c], stored for attention_backward_key too.          Rows t, columns d.
template <typename T, typename Acc, int TILE>
__global__ void __launch_bounds__(THREADS, 1)
attention_backward_query(const T* __restrict__ query, const T* __restrict__ key, const T* __restrict__ value,
                         const bool* __restrict__ mask, const T* __restrict__ context,
                         const Acc* __restrict__ log_sum_exp, const T* __restrict__ dcontext,
                         Acc* __restrict__ delta, T* __restrict__ dquery,
                         long long matrices, int heads, int queries, int keys, int size, int value_size,
                         long long batch_step, long long head_step, long long query_step, int key_step, int causal,
                         Acc scale, int keep, Acc keep_scale, long long first, unsigned long long seed,
                         unsigned long long stream, unsigned long long call,
                         const unsigned long long* __restrict__ step) {
  constexpr int N = TILE / SIDE;
  __shared__ Acc tile[TILE][TILE + 1];
  __shared__ KeptBits<TILE> kept;
  const int row = row_of_thread(), column = column_of_thread();
  for (long long block = blockIdx.x; block < Job::count<TILE>(matrices, queries, size); block += gridDim.x) {
    const Job job = Job::of<TILE>(block, queries, size);
    const long long m = job.matrix;
    const T *q = query + m * queries * size, *k = key + m * keys * size, *v = value + m * keys * value_size;
    const T *y = context + m * queries * value_size, *dy = dcontext + m * queries * value_size;
    const Sight sees = {mask_of(mask, m, heads, batch_step, head_step), query_step, key_step, queries, keys, causal};
    const Dropout drop = {keep, first + m * queries * keys, seed, stream, call, step ? *step : 0};
    Acc lse[N], along[N], factor[N], sums[N][WIDE] = {};
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int t = job.row0 + row + i * SIDE;
      lse[i] = t < queries ? log_sum_exp[m * queries + t] : Acc(0);
      factor[i] = scale;
      along[i] = 0;
      for (int c = t < queries ? column : value_size; c < value_size; c += SIDE)
        along[i] += to_acc(dy[(long long)t * value_size + c]) * to_acc(y[(long long)t * value_size + c]);
      along[i] = team_reduce<SIDE>(along[i], Sum());
      if (column == 0 && job.column0 == 0 && t < queries) delta[m * queries + t] = along[i];
    }

    for (int key0 = 0; key0 < keys && !(causal && key0 >= job.row0 + TILE); key0 += TILE) {
      if (!drop.off()) kept.draw(drop, job.row0, queries, key0, keys);
      Acc e[N][N], da[N][N];
      rows_by_rows(q, job.row0, queries, k, key0, keys, size, e);
      rows_by_rows(dy, job.row0, queries, v, key0, keys, value_size, da);
#pragma unroll
      for (int i = 0; i < N; ++i)
#pragma unroll
        for (int j = 0; j < N; ++j) {
          const int at = row + i * SIDE, of_key = column + j * SIDE;
          const bool seen = sees(job.row0 + at, key0 + of_key);
          const bool used = seen && (drop.off() || kept(at, of_key));
          const Acc a = seen ? exp(e[i][j] * scale - lse[i]) : Acc(0);
          tile[at][of_key] = seen ? a * ((used ? keep_scale * da[i][j] : Acc(0)) - along[i]) : Acc(0);
        }
      add_tile_by_rows(tile, k, key0, keys, job.column0, size, sums);
    }
    store(dquery + m * queries * size, job.row0, queries, job.column0, size, sums, factor);
  }
}

// dk[s,d] = scale * sum over t of de[t,s] * q[t,d]          dv[s,c] = sum over t of u[t,s] * dy[t,c]
// Rows s, columns d and c: a block computes the same columns of both. de and delta as above.
template <typename T, typename Acc, int TILE>
__global__ void __launch_bounds__(THREADS, 1)
attention_backward_key(const T* __restrict__ query, const T* __restrict__ key, const T* __restrict__ value,
                       const bool* __restrict__ mask, const Acc* __restrict__ log_sum_exp,
                       const T* __restrict__ dcontext, const Acc* __restrict__ delta, T* __restrict__ dkey,
                       T* __restrict__ dvalue,
                       long long matrices, int heads, int queries, int keys, int size, int value_size,
                       long long batch_step, long long head_step, long long query_step, int key_step, int causal,
                       Acc scale, int keep, Acc keep_scale, long long first, unsigned long long seed,
                       unsigned long long stream, unsigned long long call,
                       const unsigned long long* __restrict__ step) {
  constexpr int N = TILE / SIDE;
  __shared__ Acc tile[TILE][TILE + 1];
  __shared__ KeptBits<TILE> kept;
  const int row = row_of_thread(), column = column_of_thread(), columns = size < value_size ? value_size : size;
  for (long long block = blockIdx.x; block < Job::count<TILE>(matrices, keys, columns); block += gridDim.x) {
    const Job job = Job::of<TILE>(block, keys, columns);
    const long long m = job.matrix;
    const T *q = query + m * queries * size, *k = key + m * keys * size, *v = value + m * keys * value_size;
    const T* dy = dcontext + m * queries * value_size;
    const Sight sees = {mask_of(mask, m, heads, batch_step, head_step), query_step, key_step, queries, keys, causal};
    const Dropout drop = {keep, first + m * queries * keys, seed, stream, call, step ? *step : 0};
    Acc scales[N], ones[N], dkeys[N][WIDE] = {}, dvalues[N][WIDE] = {};
#pragma unroll
    for (int i = 0; i < N; ++i) scales[i] = scale, ones[i] = 1;

    for (int query0 = causal ? job.row0 : 0; query0 < queries; query0 += TILE) {
      if (!drop.off()) kept.draw(drop, query0, queries, job.row0, keys);
      Acc e[N][N], da[N][N];  // a row a key, a column a query
      rows_by_rows(k, job.row0, keys, q, query0, queries, size, e);
      rows_by_rows(v, job.row0, keys, dy, query0, queries, value_size, da);
#pragma unroll
      for (int i = 0; i < N; ++i)
#pragma unroll
        for (int j = 0; j < N; ++j) {
          const int at = row + i * SIDE, of_query = column + j * SIDE, t = query0 + of_query;
          const bool seen = sees(t, job.row0 + at);
          const bool used = seen && (drop.off() || kept(of_query, at));
          const Acc a = seen ? exp(e[i][j] * scale - log_sum_exp[m * queries + t]) : Acc(0);
          tile[at][of_query] = used ? keep_scale * a : Acc(0);
          da[i][j] = seen ? a * ((used ? keep_scale * da[i][j] : Acc(0)) - delta[m * queries + t]) : Acc(0);
        }
      add_tile_by_rows(tile, dy, query0, queries, job.column0, value_size, dvalues);
#pragma unroll
      for (int i = 0; i < N; ++i)
#pragma unroll
        for (int j = 0; j < N; ++j) tile[row + i * SIDE][column + j * SIDE] = da[i][j];
      add_tile_by_rows(tile, q, query0, queries, job.column0, size, dkeys);
    }
    store(dkey + m * keys * size, job.row0, keys, job.column0, size, dkeys, scales);
    store(dvalue + m * keys * value_size, job.row0, keys, job.column0, value_size, dvalues, ones);
  }
}
