// Scaled dot-product attention and its gradients. README.md derives the equations.
//
//   e[t,s] = scale * sum over d of q[t,d] * k[s,d]          a[t,s] = exp(e[t,s] - lse[t]), 0 where t does not see s
//   y[t,c] = sum over s of u[t,s] * v[s,c]                   u[t,s] = keep_scale * a[t,s] where kept, else 0
//
//   q (matrices, queries, size)   k (matrices, keys, size)   v (matrices, keys, value_size)
//   y (matrices, queries, value_size)   lse[t] = log sum over the keys s that t sees of exp e[t,s]
//   With y_heads = heads instead of 1, y is (batch, queries, heads, value_size); so is dy with dy_heads.
//
// matrices = batch * heads. A block computes TILE rows of a result and COLUMNS of its columns, and walks what is summed
// over a tile at a time: e and a are made on the chip, TILE x TILE, in forward and again in backward, and never stored.
// (Two blocks a multiprocessor leave a thread 128 registers, at which gradients of the larger tile would spill.)
// The number of a weight in the dropout stream is its place in a (matrices, queries, keys).
#include "attention.cuh"

// y and lse. Rows t, columns c. The keys are walked once: `top` is a row's largest energy so far, and what was summed
// relative to an older one is scaled down to it (Milakov and Gimelshein 2018).
template <typename T, typename Acc, int TILE>
__global__ void __launch_bounds__(THREADS, 2)
attention_forward(const T* __restrict__ query, const T* __restrict__ key, const T* __restrict__ value,
                  const bool* __restrict__ mask, T* __restrict__ context, Acc* __restrict__ log_sum_exp,
                  long long matrices, int heads, int queries, int keys, int size, int value_size,
                  long long batch_step, long long head_step, long long query_step, int key_step, int causal, Acc scale,
                  int keep, Acc keep_scale, long long first, unsigned long long seed, unsigned long long stream,
                  unsigned long long call, const unsigned long long* __restrict__ step, int y_heads) {
  constexpr int N = TILE / SIDE;
  __shared__ Acc used[TILE][TILE + 1];
  __shared__ KeptBits<TILE> kept;
  const int row = row_of_thread(), column = column_of_thread();
  for (long long block = blockIdx.x; block < Job::count<TILE>(matrices, queries, value_size); block += gridDim.x) {
    const Job job = Job::of<TILE>(block, queries, value_size);
    const long long m = job.matrix;
    const Rows<const T> q = {query + m * queries * size, size}, k = {key + m * keys * size, size};
    const Rows<const T> v = {value + m * keys * value_size, value_size};
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
    const Rows<T> y = rows_of(context, m, queries, value_size, y_heads);
    store(y, job.row0, queries, job.column0, value_size, sums, factor);
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
                         const unsigned long long* __restrict__ step, int y_heads, int dy_heads) {
  constexpr int N = TILE / SIDE;
  __shared__ Acc tile[TILE][TILE + 1];
  __shared__ KeptBits<TILE> kept;
  const int row = row_of_thread(), column = column_of_thread();
  for (long long block = blockIdx.x; block < Job::count<TILE>(matrices, queries, size); block += gridDim.x) {
    const Job job = Job::of<TILE>(block, queries, size);
    const long long m = job.matrix;
    const Rows<const T> q = {query + m * queries * size, size}, k = {key + m * keys * size, size};
    const Rows<const T> v = {value + m * keys * value_size, value_size};
    const Rows<const T> y = rows_of(context, m, queries, value_size, y_heads);
    const Rows<const T> dy = rows_of(dcontext, m, queries, value_size, dy_heads);
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
        along[i] += to_acc(dy.row(t)[c]) * to_acc(y.row(t)[c]);
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
    store(Rows<T>{dquery + m * queries * size, size}, job.row0, queries, job.column0, size, sums, factor);
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
                       const unsigned long long* __restrict__ step, int dy_heads) {
  constexpr int N = TILE / SIDE;
  __shared__ Acc tile[TILE][TILE + 1];
  __shared__ KeptBits<TILE> kept;
  const int columns = size < value_size ? value_size : size;
  for (long long block = blockIdx.x; block < Job::count<TILE>(matrices, keys, columns); block += gridDim.x) {
    const Job job = Job::of<TILE>(block, keys, columns);
    const long long m = job.matrix;
    const Weights<T, Acc> weights = {
        {query + m * queries * size, size}, {key + m * keys * size, size}, {value + m * keys * value_size, value_size},
        rows_of(dcontext, m, queries, value_size, dy_heads), log_sum_exp + m * queries, delta + m * queries,
        {mask_of(mask, m, heads, batch_step, head_step), query_step, key_step, queries, keys, causal},
        scale, keep_scale, size, value_size};
    const Dropout drop = {keep, first + m * queries * keys, seed, stream, call, step ? *step : 0};
    Acc scales[N], ones[N], dkeys[N][WIDE] = {}, dvalues[N][WIDE] = {};
#pragma unroll
    for (int i = 0; i < N; ++i) scales[i] = scale, ones[i] = 1;

    for (int query0 = causal ? job.row0 : 0; query0 < queries; query0 += TILE) {
      Acc de[N][N];  // a row a key, a column a query
      weights.by_key(drop, kept, job.row0, query0, tile, de);
      add_tile_by_rows(tile, weights.dy, query0, queries, job.column0, value_size, dvalues);
      fill_tile(tile, de);
      add_tile_by_rows(tile, weights.q, query0, queries, job.column0, size, dkeys);
    }
    store(Rows<T>{dkey + m * keys * size, size}, job.row0, keys, job.column0, size, dkeys, scales);
    store(Rows<T>{dvalue + m * keys * value_size, value_size}, job.row0, keys, job.column0, value_size, dvalues, ones);
  }
}

// dq, dk and dv of matrices of at most SHORT queries and keys, and COLUMNS columns: a block a matrix makes each weight
// once. dk and dv of a tile of keys are summed in registers, dq of all queries in shared memory.
template <typename T, typename Acc, int TILE>
__global__ void __launch_bounds__(THREADS, 1)
attention_backward(const T* __restrict__ query, const T* __restrict__ key, const T* __restrict__ value,
                   const bool* __restrict__ mask, const T* __restrict__ context, const Acc* __restrict__ log_sum_exp,
                   const T* __restrict__ dcontext, T* __restrict__ dquery, T* __restrict__ dkey, T* __restrict__ dvalue,
                   long long matrices, int heads, int queries, int keys, int size, int value_size,
                   long long batch_step, long long head_step, long long query_step, int key_step, int causal, Acc scale,
                   int keep, Acc keep_scale, long long first, unsigned long long seed, unsigned long long stream,
                   unsigned long long call, const unsigned long long* __restrict__ step, int y_heads, int dy_heads) {
  extern __shared__ __align__(16) unsigned char memory[];
  constexpr int N = TILE / SIDE;
  __shared__ Acc tile[TILE][TILE + 1], delta[SHORT];
  __shared__ KeptBits<TILE> kept;
  const OwnSums<Acc, N> sums = {reinterpret_cast<Acc*>(memory), size};
  Acc scales[N], ones[N];
#pragma unroll
  for (int i = 0; i < N; ++i) scales[i] = scale, ones[i] = 1;
  for (long long m = blockIdx.x; m < matrices; m += gridDim.x) {
    const Weights<T, Acc> weights = {
        {query + m * queries * size, size}, {key + m * keys * size, size}, {value + m * keys * value_size, value_size},
        rows_of(dcontext, m, queries, value_size, dy_heads), log_sum_exp + m * queries, delta,
        {mask_of(mask, m, heads, batch_step, head_step), query_step, key_step, queries, keys, causal},
        scale, keep_scale, size, value_size};
    const Dropout drop = {keep, first + m * queries * keys, seed, stream, call, step ? *step : 0};
    const Rows<const T> y = rows_of(context, m, queries, value_size, y_heads);
    row_products(weights.dy, y, queries, value_size, delta);
    for (int key0 = 0; key0 < keys; key0 += TILE) {
      Acc dkeys[N][WIDE] = {}, dvalues[N][WIDE] = {};
      for (int query0 = causal ? key0 : 0; query0 < queries; query0 += TILE) {
        Acc de[N][N], dqueries[N][WIDE] = {};
        weights.by_key(drop, kept, key0, query0, tile, de);
        add_tile_by_rows(tile, weights.dy, query0, queries, 0, value_size, dvalues);
        fill_tile(tile, de);
        add_tile_by_rows(tile, weights.q, query0, queries, 0, size, dkeys);
        add_tile_by_rows<true>(tile, weights.k, key0, keys, 0, size, dqueries);
        sums.add(query0 / TILE, dqueries, key0 == 0);
      }
      store(Rows<T>{dkey + m * keys * size, size}, key0, keys, 0, size, dkeys, scales);
      store(Rows<T>{dvalue + m * keys * value_size, value_size}, key0, keys, 0, value_size, dvalues, ones);
    }
    for (int query0 = 0; query0 < queries; query0 += TILE) {
      Acc dqueries[N][WIDE];
      sums.take(query0 / TILE, dqueries);
      store(Rows<T>{dquery + m * queries * size, size}, query0, queries, 0, size, dqueries, scales);
    }
  }
}
