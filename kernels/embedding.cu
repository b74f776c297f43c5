// Rows of a table by their ids, and the gradient of the table. See README.md.
//
//   y[n, :] = table[ids[n], :]        dtable[v, :] += sum over the places n with ids[n] == v of dy[n, :]
//
// For the gradient the places are sorted by id, equal ids staying in order: then the rows of one id are neighbours, each row
// of the table has one owner, and the order of adding never changes: no atomics but in the last kernel, and nothing that waits for the host.
#include "common.cuh"

constexpr int THREADS = 256;

// N columns a thread: 16 bytes, or one where rows are not whole packs. An id outside the table gives a row of NaN, the id
// `blank` a row of zeros.
template <typename T, typename Id, int N>
__global__ void __launch_bounds__(THREADS)
embedding_forward(const T* __restrict__ table, const Id* __restrict__ ids, T* __restrict__ y, long long n, int rows,
                  int columns, long long blank) {
  const int packs = columns / N;
  for (long long i = grid_thread(); i < n * packs; i += grid_threads()) {
    const long long place = quotient(i, packs), id = ids[place];
    const int c = (int)(i - place * packs) * N;
    Pack<T, N> pack = {};
    if (id >= 0 && id < rows) {
      if (id != blank) pack = load_pack<T, N>(table + id * columns + c);
    } else {
      using Acc = decltype(to_acc(pack.v[0]));
      for (int e = 0; e < N; ++e) pack.v[e] = from_acc<T>(Acc(nan("")));
    }
    store_pack(y + place * columns + c, pack);
  }
}

// What an id is sorted by: `rows` where it is outside the table, or `skip`, so that it comes last.
template <typename Id> __device__ inline int key_of(Id given, int rows, long long skip) {
  const long long id = given;
  return id < 0 || id >= rows || id == skip ? rows : (int)id;
}

// Stable sort of some thousand ids: keys and order (n,) get each id and its place at its rank, which is how many go before
// it. A lane a place, 32 a block; every id is compared with every other, warp w of THREADS / 32 taking the 32 ids from 32 w on
// and every THREADS-th after them. n² comparisons, which a whole GPU has done before one block has walked through n.
template <typename Id>
__global__ void __launch_bounds__(THREADS)
rank_ids(const Id* __restrict__ ids, int* __restrict__ keys, int* __restrict__ order, int n, int rows, long long skip) {
  __shared__ __align__(16) int others[THREADS / 32][32];
  __shared__ int counts[THREADS / 32][32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = blockIdx.x * 32, mine = first + lane;
  const int key = mine < n ? key_of(ids[mine], rows, skip) : 0;
  int before = 0;
  for (int base = warp * 32; base < n; base += THREADS) {
    others[warp][lane] = base + lane < n ? key_of(ids[base + lane], rows, skip) : 0x7fffffff;
    __syncwarp();
    const int bound = base < first ? key + 1 : key;  // equal ids stay in order
    for (int k = 0; k < 32; k += 4) {
      const Pack<int, 4> four = load_pack<int, 4>(others[warp] + k);
      for (int e = 0; e < 4; ++e) before += four.v[e] < bound;
    }
    if (base == first)
      for (int k = 0; k < lane; ++k) before += others[warp][k] == key;
    __syncwarp();
  }
  counts[warp][lane] = before;
  __syncthreads();
  if (warp > 0 || mine >= n) return;
  for (int w = 1; w < THREADS / 32; ++w) before += counts[w][lane];
  keys[before] = key;
  order[before] = mine;
}

constexpr int SORT_THREADS = 1024, SORT_WARPS = SORT_THREADS / 32, DIGITS = 256;
constexpr unsigned ALL = 0xffffffffu;

// starts[d] = sum of totals[0..d-1], by the first warp.
__device__ inline void scan_digits(const int* totals, int* starts) {
  if (threadIdx.x >= 32) return;
  constexpr int EACH = DIGITS / 32;
  int own = 0;
  for (int k = 0; k < EACH; ++k) own += totals[threadIdx.x * EACH + k];
  int before = own;
  for (int offset = 1; offset < 32; offset *= 2) {
    const int other = __shfl_up_sync(ALL, before, offset);
    if (threadIdx.x >= offset) before += other;
  }
  before -= own;
  for (int k = 0; k < EACH; ++k) {
    starts[threadIdx.x * EACH + k] = before;
    before += totals[threadIdx.x * EACH + k];
  }
}

// Stable sort of n places by id, one block, eight bits of the id a pass: keys and order (2, n) each take turns, and pass p
// leaves its result in half p % 2. Ids outside 0..rows-1, and `skip`, count as `rows` and so come last.
// Each warp owns a run of places; it counts its digits, then knows where each of them begins, and walks its run again.
template <typename Id>
__global__ void __launch_bounds__(SORT_THREADS)
sort_ids(const Id* __restrict__ ids, int* keys, int* order, int n, int rows, long long skip, int passes) {
  __shared__ int offsets[SORT_WARPS][DIGITS], totals[DIGITS], starts[DIGITS];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int run = (n + SORT_THREADS - 1) / SORT_THREADS * 32, first = warp * run < n ? warp * run : n;
  const int last = first + run < n ? first + run : n;
  for (int pass = 0; pass < passes; ++pass) {
    const int *keys_from = keys + (pass + 1) % 2 * (long long)n, *order_from = order + (pass + 1) % 2 * (long long)n;
    int *keys_to = keys + pass % 2 * (long long)n, *order_to = order + pass % 2 * (long long)n;
    for (int d = lane; d < DIGITS; d += 32) offsets[warp][d] = 0;
    __syncwarp();
    for (int scatter = 0; scatter < 2; ++scatter) {
      for (int base = first; base < last; base += 32) {
        const int i = base + lane;
        int key = 0, digit = -1, place = i;
        if (i < last) {
          if (pass == 0) {
            key = key_of(ids[i], rows, skip);
          } else {
            key = keys_from[i];
            place = order_from[i];
          }
          digit = key >> (8 * pass) & (DIGITS - 1);
        }
        const unsigned peers = __match_any_sync(ALL, digit), before = peers & ((1u << lane) - 1);
        const int at = digit < 0 ? 0 : offsets[warp][digit];
        __syncwarp();
        if (digit >= 0 && before == 0) offsets[warp][digit] = at + __popc(peers);
        __syncwarp();
        if (scatter && digit >= 0) {
          keys_to[at + __popc(before)] = key;
          order_to[at + __popc(before)] = place;
        }
      }
      __syncthreads();
      if (scatter) continue;
      if (threadIdx.x < DIGITS) {
        int sum = 0;
        for (int w = 0; w < SORT_WARPS; ++w) sum += offsets[w][threadIdx.x];
        totals[threadIdx.x] = sum;
      }
      __syncthreads();
      scan_digits(totals, starts);
      __syncthreads();
      if (threadIdx.x < DIGITS) {
        int next = starts[threadIdx.x];
        for (int w = 0; w < SORT_WARPS; ++w) {
          const int count = offsets[w][threadIdx.x];
          offsets[w][threadIdx.x] = next;
          next += count;
        }
      }
      __syncthreads();
    }
  }
}

// The simple version: the block at the first place of an id adds all its rows.
template <typename T>
__global__ void add_sorted_rows(const int* __restrict__ keys, const int* __restrict__ order, const T* __restrict__ values,
                                T* __restrict__ table, int n, int rows, int columns) {
  const int first = blockIdx.x, id = keys[first];
  if (id >= rows || (first > 0 && keys[first - 1] == id)) return;  // another block owns this run
  for (int c = threadIdx.x; c < columns; c += blockDim.x) {
    auto sum = to_acc(table[(long long)id * columns + c]);
    for (int i = first; i < n && keys[i] == id; ++i) sum += to_acc(values[(long long)order[i] * columns + c]);
    table[(long long)id * columns + c] = from_acc<T>(sum);
  }
}

constexpr int CHUNK = 32;  // places: an id that fills many chunks is added up by many warps

template <typename T, typename Acc, int N>
__device__ inline void add_pack(T* to, const Acc (&sums)[N]) {
  Pack<T, N> pack = load_pack<T, N>(to);
#pragma unroll
  for (int e = 0; e < N; ++e) pack.v[e] = from_acc<T>(to_acc(pack.v[e]) + sums[e]);
  store_pack(to, pack);
}

// A warp a chunk of places and 32 N columns. A run of equal ids inside the chunk is added to its row; of one that began
// in a chunk before, the sum goes to partial[chunk, 0], of one that begins here and goes on, to partial[chunk, 1].
template <typename T, typename Acc, int N>
__global__ void __launch_bounds__(THREADS)
embedding_backward(const int* __restrict__ keys, const int* __restrict__ order, const T* __restrict__ values,
                   T* __restrict__ table, Acc* __restrict__ partial, int n, int rows, int columns) {
  const int tiles = (columns + 32 * N - 1) / (32 * N);
  const long long chunk = grid_thread() / 32 / tiles, begin = chunk * CHUNK;
  const int c = ((int)(grid_thread() / 32 % tiles) * 32 + threadIdx.x % 32) * N;
  if (begin >= n || c >= columns) return;
  const long long end = begin + CHUNK < n ? begin + CHUNK : n;
  bool joins = begin > 0 && keys[begin - 1] == keys[begin];
  Acc sums[N] = {};
  for (long long i = begin; i < end; ++i) {
    const int id = keys[i];
    if (id >= rows) return;  // so are all behind it
    const Pack<T, N> pack = load_pack<T, N>(values + (long long)order[i] * columns + c);
#pragma unroll
    for (int e = 0; e < N; ++e) sums[e] += to_acc(pack.v[e]);
    const bool ends = i + 1 == n || keys[i + 1] != id;
    if (!ends && i + 1 < end) continue;
    if (ends && !joins) {
      add_pack(table + (long long)id * columns + c, sums);
    } else {
#pragma unroll
      for (int e = 0; e < N; ++e) partial[(2 * chunk + (joins ? 0 : 1)) * columns + c + e] = sums[e];
    }
#pragma unroll
    for (int e = 0; e < N; ++e) sums[e] = 0;
    joins = false;
  }
}

// The runs that embedding_backward left open: the chunk where one begins adds the sums of the chunks in order.
template <typename T, typename Acc, int N>
__global__ void __launch_bounds__(THREADS)
embedding_backward_finish(const int* __restrict__ keys, const Acc* __restrict__ partial, T* __restrict__ table, int n,
                          int rows, int columns) {
  const int tiles = (columns + 32 * N - 1) / (32 * N);
  const long long chunk = grid_thread() / 32 / tiles, begin = chunk * CHUNK, end = begin + CHUNK;
  const int c = ((int)(grid_thread() / 32 % tiles) * 32 + threadIdx.x % 32) * N;
  if (end >= n || c >= columns) return;
  const int id = keys[end - 1];
  if (id >= rows || keys[end] != id) return;
  if (begin > 0 && keys[begin - 1] == id) return;  // it began before
  Acc sums[N];
#pragma unroll
  for (int e = 0; e < N; ++e) sums[e] = partial[(2 * chunk + 1) * columns + c + e];
  for (long long next = chunk + 1; next * CHUNK < n && keys[next * CHUNK] == id; ++next)
#pragma unroll
    for (int e = 0; e < N; ++e) sums[e] += partial[2 * next * columns + c + e];
  add_pack(table + (long long)id * columns + c, sums);
}

// The gradient without a sort, for where deterministic algorithms are switched off: a thread adds one element at a time to
// its row, in whatever order threads come, so that the last bits differ from run to run.
template <typename T, typename Id>
__global__ void __launch_bounds__(THREADS)
embedding_backward_atomic(const Id* __restrict__ ids, const T* __restrict__ values, T* __restrict__ table, long long n,
                          int rows, int columns, long long skip) {
  for (long long i = grid_thread(); i < n * columns; i += grid_threads()) {
    const long long place = quotient(i, columns), id = ids[place];
    if (id >= 0 && id < rows && id != skip) atomicAdd(table + id * columns + (i - place * columns), values[i]);
  }
}
