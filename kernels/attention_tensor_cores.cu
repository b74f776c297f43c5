// Scaled dot-product attention and its gradients on tensor cores, for half types: attention.cu says what is computed, with
// the same parameters, and README.md derives it. `packs`: all arrays begin at, and rows have, whole packs of 16 bytes.
//
// A warp owns 16 queries. e and da come from tensor cores as floats in registers; u and de are rounded to the half type
// there, and are the left operand of the next product without leaving the registers. Rows of q, k, v and dy lie in shared
// memory, k and v a tile at a time, the next one on its way; sizes are filled up with zeros to a multiple of 16.
#include "attention_tensor_cores.cuh"

// y and lse, as attention_forward: a block has 16 queries a warp, and value_size <= WIDTH. Exponents are of 2.
template <typename T, int WIDTH>
__global__ void __launch_bounds__(256, WIDTH > 64 ? 1 : 2)
attention_tensor_cores_forward(const T* __restrict__ query, const T* __restrict__ key, const T* __restrict__ value,
                               const bool* __restrict__ mask, T* __restrict__ context, float* __restrict__ log_sum_exp,
                               long long matrices, int heads, int queries, int keys, int size, int value_size,
                               long long batch_step, long long head_step, long long query_step, int key_step, int causal,
                               float scale, int keep, float keep_scale, long long first, unsigned long long seed,
                               unsigned long long stream, unsigned long long call,
                               const unsigned long long* __restrict__ step, int y_heads, int packs) {
  constexpr int KEYS = 32, N = KEYS / 8;
  extern __shared__ __align__(16) unsigned char memory[];
  const int rows = blockDim.x / 32 * ROWS, tiles = (queries + rows - 1) / rows, wide = size < value_size ? value_size : size;
  const OnChip<T> own = {reinterpret_cast<T*>(memory), OnChip<T>::width_of(wide)};
  const OnChip<T> k = {own.end(rows), OnChip<T>::width_of(size)}, v = {k.end(2 * KEYS), OnChip<T>::width_of(value_size)};
  unsigned* const bits = reinterpret_cast<unsigned*>(v.end(2 * KEYS)) + warp() * ROWS * Queries<N>::WORDS;
  const OnChip<T> mine = own.rows(warp() * ROWS);
  if constexpr (!TENSOR_CORES) __trap();
  else for (long long block = blockIdx.x; block < matrices * tiles; block += gridDim.x) {
    const long long m = quotient(block, tiles);
    const int first_row = (int)(block - m * tiles) * rows, row0 = first_row + warp() * ROWS;
    const Rows<const T> from_k = {key + m * keys * size, size}, from_v = {value + m * keys * value_size, value_size};
    const Sight sees = {mask_of(mask, m, heads, batch_step, head_step), query_step, key_step, queries, keys, causal};
    const Dropout drop = {keep, first + m * queries * keys, seed, stream, call, step ? *step : 0};
    Queries<N> of(sees, row0, bits);
    const int last = causal ? min(keys, first_row + rows) : keys;
    float top[2] = {lowest<float>(), lowest<float>()}, total[2] = {}, sums[WIDTH / 8][4] = {};
    __syncthreads();
    own.load({query + m * queries * size, size}, first_row, rows, queries, size, packs);
    k.load(from_k, 0, KEYS, keys, size, packs);
    v.load(from_v, 0, KEYS, keys, value_size, packs);
    copies_commit();

    for (int key0 = 0, now = 0; key0 < last; key0 += KEYS, now ^= KEYS) {
      copies_arrived<0>();
      __syncthreads();
      if (key0 + KEYS < last) {
        k.rows(now ^ KEYS).load(from_k, key0 + KEYS, KEYS, keys, size, packs);
        v.rows(now ^ KEYS).load(from_v, key0 + KEYS, KEYS, keys, value_size, packs);
      }
      copies_commit();
      if (row0 >= queries || (causal && key0 >= row0 + ROWS)) continue;
      if (!drop.off()) of.draw(drop, row0, key0, keys);
      float e[N][4];
      product_of_rows(mine, k.rows(now), size, e);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float most = top[i], added = 0;
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            float& energy = e[n][2 * i + c];
            energy = of.see(i, key0 + of.column(n, c)) ? energy * (scale * LOG2_E) : lowest<float>();
            most = Max()(most, energy);
          }
        most = team_reduce<PAIRS>(most, Max());
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            float& weight = e[n][2 * i + c];
            weight = weight != lowest<float>() ? exp2f(weight - most) : 0.0f;
            added += weight;
            if (!drop.off() && !of.kept(i, of.column(n, c))) weight = 0;
          }
        const float shrink = exp2f(top[i] - most);
        total[i] = total[i] * shrink + added;
        top[i] = most;
#pragma unroll
        for (int n = 0; n < WIDTH / 8; ++n) sums[n][2 * i] *= shrink, sums[n][2 * i + 1] *= shrink;
      }
#pragma unroll
      for (int j = 0; j < KEYS / 16; ++j) {
        unsigned weights[4];
        as_left<T>(e, j, weights);
        add_product(weights, v.rows(now), 16 * j, 0, sums);
      }
    }

    float factor[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      total[i] = team_reduce<PAIRS>(total[i], Sum());
      factor[i] = total[i] == 0 ? 0.0f : keep_scale / total[i];  // 0: a query without any key
      if (lane() % PAIRS == 0 && of.row(i) < queries)
        log_sum_exp[m * queries + of.row(i)] = total[i] == 0 ? 0.0f : top[i] / LOG2_E + log(total[i]);
    }
    __syncwarp();
    const OnChip<T> y = {mine.at, v.width};
    y.put(sums, 0, factor[0], factor[1]);
    __syncwarp();
    const Rows<T> to = rows_of(context, m, queries, value_size, y_heads);
    y.store(to, row0, queries, 0, v.width - 8, value_size, packs);
  }
}

// sum over c of a[c] * b[c] for two rows of `size` elements, shared by PAIRS lanes, each of which gets it.
template <typename T>
__device__ inline float row_product(const T* __restrict__ a, const T* __restrict__ b, int size, bool packs) {
  constexpr int SIZE = Pack<T>::SIZE;
  float sum = 0;
  for (int c = lane() % PAIRS * SIZE; c < size; c += PAIRS * SIZE) {
    if (packs) {
      const Pack<T> x = load_pack(a + c), y = load_pack(b + c);
#pragma unroll
      for (int e = 0; e < SIZE; ++e) sum += to_acc(x.v[e]) * to_acc(y.v[e]);
    } else {
      for (int e = c; e < size && e < c + SIZE; ++e) sum += to_acc(a[e]) * to_acc(b[e]);
    }
  }
  return team_reduce<PAIRS>(sum, Sum());
}

// dq, dk and dv, as attention_backward, of matrices of at most SHORT queries and any number of keys, size <= WIDTH: a block a
// matrix, a warp for each 16 queries. A warp makes u and de of its queries and a tile of keys and adds to its dq; then u and
// de of all queries lie in shared memory, and the warps share dk and dv of the tile: 16 keys and 32 columns are a task.
template <typename T, int WIDTH>
__global__ void __launch_bounds__(256, WIDTH > 64 ? 1 : 2)
attention_tensor_cores_backward(const T* __restrict__ query, const T* __restrict__ key, const T* __restrict__ value,
                                const bool* __restrict__ mask, const T* __restrict__ context,
                                const float* __restrict__ log_sum_exp, const T* __restrict__ dcontext,
                                T* __restrict__ dquery, T* __restrict__ dkey, T* __restrict__ dvalue,
                                long long matrices, int heads, int queries, int keys, int size, int value_size,
                                long long batch_step, long long head_step, long long query_step, int key_step, int causal,
                                float scale, int keep, float keep_scale, long long first, unsigned long long seed,
                                unsigned long long stream, unsigned long long call,
                                const unsigned long long* __restrict__ step, int y_heads, int dy_heads,
                                int packs) {
  constexpr int KEYS = 32, N = KEYS / 8, TASK = 32;
  extern __shared__ __align__(16) unsigned char memory[];
  const int rows = blockDim.x / 32 * ROWS, row0 = warp() * ROWS;
  const OnChip<T> q = {reinterpret_cast<T*>(memory), OnChip<T>::width_of(size)};
  const OnChip<T> dy = {q.end(rows), OnChip<T>::width_of(value_size)};
  const OnChip<T> k = {dy.end(rows), q.width}, v = {k.end(2 * KEYS), dy.width};
  const OnChip<T> used = {v.end(2 * KEYS), KEYS + 8}, gradient = {used.end(rows), KEYS + 8};
  unsigned* const bits = reinterpret_cast<unsigned*>(gradient.end(rows)) + warp() * ROWS * Queries<N>::WORDS;
  const int tasks_of_k = (size + TASK - 1) / TASK, tasks = tasks_of_k + (value_size + TASK - 1) / TASK;
  if constexpr (!TENSOR_CORES) __trap();
  else for (long long m = blockIdx.x; m < matrices; m += gridDim.x) {
    const Rows<const T> from_k = {key + m * keys * size, size}, from_v = {value + m * keys * value_size, value_size};
    const Rows<const T> y = rows_of(context, m, queries, value_size, y_heads);
    const Rows<const T> from_dy = rows_of(dcontext, m, queries, value_size, dy_heads);
    const Sight sees = {mask_of(mask, m, heads, batch_step, head_step), query_step, key_step, queries, keys, causal};
    Queries<N> of(sees, row0, bits);
    float lse[2], delta[2], dq[WIDTH / 8][4] = {};
    __syncthreads();
    q.load({query + m * queries * size, size}, 0, rows, queries, size, packs);
    dy.load(from_dy, 0, rows, queries, value_size, packs);
    k.load(from_k, 0, KEYS, keys, size, packs);
    v.load(from_v, 0, KEYS, keys, value_size, packs);
    copies_commit();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const bool there = of.row(i) < queries;
      const int t = there ? of.row(i) : 0;
      lse[i] = there ? log_sum_exp[m * queries + of.row(i)] * LOG2_E : 0.0f;
      delta[i] = row_product(y.row(t), from_dy.row(t), there ? value_size : 0, packs);
    }

    for (int key0 = 0, now = 0; key0 < keys; key0 += KEYS, now ^= KEYS) {
      copies_arrived<0>();
      __syncthreads();
      if (key0 + KEYS < keys) {
        k.rows(now ^ KEYS).load(from_k, key0 + KEYS, KEYS, keys, size, packs);
        v.rows(now ^ KEYS).load(from_v, key0 + KEYS, KEYS, keys, value_size, packs);
      }
      copies_commit();
      const Dropout drop = {keep, first + m * queries * keys, seed, stream, call, step ? *step : 0};
      if (!drop.off()) of.draw(drop, row0, key0, keys);
      float e[N][4], de[N][4];
      product_of_rows(q.rows(row0), k.rows(now), size, e);
      product_of_rows(dy.rows(row0), v.rows(now), value_size, de);
#pragma unroll
      for (int n = 0; n < N; ++n)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int i = j / 2, column = of.column(n, j % 2);
          const bool seen = of.see(i, key0 + column), kept = drop.off() || of.kept(i, column);
          const float a = seen ? exp2f(e[n][j] * (scale * LOG2_E) - lse[i]) : 0.0f;
          e[n][j] = kept ? keep_scale * a : 0.0f;
          de[n][j] = a * ((kept ? keep_scale * de[n][j] : 0.0f) - delta[i]);
        }
      used.rows(row0).put(e, 0, 1.0f, 1.0f);
      gradient.rows(row0).put(de, 0, 1.0f, 1.0f);
#pragma unroll
      for (int j = 0; j < KEYS / 16; ++j) {
        unsigned weights[4];
        as_left<T>(de, j, weights);
        add_product(weights, k.rows(now), 16 * j, 0, dq);
      }
      __syncthreads();

      for (int task = warp(); task < KEYS / ROWS * tasks; task += blockDim.x / 32) {
        const int half = task % (KEYS / ROWS) * ROWS, number = task / (KEYS / ROWS);
        if (key0 + half >= keys) continue;
        const bool of_k = number < tasks_of_k;
        const int column0 = (of_k ? number : number - tasks_of_k) * TASK;
        const OnChip<T> left = {of_k ? gradient.at : used.at, used.width};
        const OnChip<T> right = {of_k ? q.at : dy.at, of_k ? q.width : dy.width};
        const OnChip<T> stage = OnChip<T>{of_k ? k.at : v.at, right.width}.rows(now + half);
        float sums[TASK / 8][4] = {};
        for (int t = causal ? key0 + half : 0; t < rows; t += 16) {
          unsigned weights[4];
          left.left_turned(weights, t, half);
          add_product(weights, right, t, column0, sums);
        }
        const float factor = of_k ? scale : 1.0f;
        stage.put(sums, column0, factor, factor);
        __syncwarp();
        const int columns = of_k ? size : value_size;
        const Rows<T> result = {(of_k ? dkey : dvalue) + m * keys * columns, columns};
        stage.store(result, key0 + half, keys, column0, TASK, columns, packs);
      }
    }
    __syncthreads();
    q.rows(row0).put(dq, 0, scale, scale);
    __syncwarp();
    q.rows(row0).store({dquery + m * queries * size, size}, row0, queries, 0, q.width - 8, size, packs);
  }
}
