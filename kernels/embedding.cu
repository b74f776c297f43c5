// Gradient of an embedding table: rows of one id are summed in order. See kernels/README.md.
//
//   dtable[v, :] += Σ over the places n with ids[n] == v of dy[n, :]
//
// The ids come sorted, with the permutation that sorted them. The block at the first place of a run of equal
// ids sums the run, so each row of the table is written by one block: no atomics, the same bits every time.
#include "common.cuh"

template <typename T>
__global__ void add_sorted_rows(const long long* __restrict__ sorted_ids, const long long* __restrict__ order,
                                const T* __restrict__ values, T* __restrict__ table, long long n, int columns) {
  const long long first = blockIdx.x;
  const long long id = sorted_ids[first];
  if (first > 0 && sorted_ids[first - 1] == id) return;   // another block owns this run
  for (int c = threadIdx.x; c < columns; c += blockDim.x) {
    auto sum = to_acc(table[id * columns + c]);
    for (long long i = first; i < n && sorted_ids[i] == id; i++) sum += to_acc(values[order[i] * columns + c]);
    table[id * columns + c] = from_acc<T>(sum);
  }
}
