// nvcuda::wmma. Products are summed in float (or int), one after another, not as tensor cores round.
// Element e of a fragment lives in lane e % 32, slot e / 32: CUDA leaves the order open, and no kernel may rely on it.
#pragma once

namespace nvcuda {
namespace wmma {
struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
namespace precision {
struct tf32 {};
}  // namespace precision
enum layout_t { mem_row_major, mem_col_major };

template <class T>
struct Storage {
  using type = T;
};
template <>
struct Storage<precision::tf32> {
  using type = float;
};
template <class Use, int M, int N, int K>
struct Extent;
template <int M, int N, int K>
struct Extent<matrix_a, M, N, K> {
  static constexpr int rows = M, columns = K;
};
template <int M, int N, int K>
struct Extent<matrix_b, M, N, K> {
  static constexpr int rows = K, columns = N;
};
template <int M, int N, int K>
struct Extent<accumulator, M, N, K> {
  static constexpr int rows = M, columns = N;
};

template <class Use, int M, int N, int K, class T, class Layout = void>
struct fragment {
  static_assert((M == 16 && N == 16 && (K == 16 || K == 8)) || (M == 32 && N == 8 && K == 16) ||
                    (M == 8 && N == 32 && K == 16) || (M == 8 && N == 8 && K == 4),
                "wmma has no fragments of this shape");
  using element_type = typename Storage<T>::type;
  using storage_element_type = element_type;
  static constexpr int rows = Extent<Use, M, N, K>::rows, columns = Extent<Use, M, N, K>::columns;
  static constexpr int num_elements = rows * columns / 32, num_storage_elements = num_elements;
  element_type x[num_elements];
};

namespace detail {
template <class T>
using Sum =
    typename std::conditional<std::is_integral<T>::value, int,
                              typename std::conditional<std::is_same<T, double>::value, double, float>::type>::type;

GPE_UNCHECKED inline void converge(int kind, const char* file, int line) {
  unsigned present;
  gpe_collective(0xffffffffu, nullptr, 0, kind, &present, file, line);
}
// Where element `i` of this lane's part lies in memory.
template <class F>
GPE_UNCHECKED inline size_t offset(int i, unsigned leading, bool by_rows) {
  const int e = i * 32 + static_cast<int>(gpe::lane()), row = e / F::columns, column = e % F::columns;
  return by_rows ? static_cast<size_t>(row) * leading + column : static_cast<size_t>(column) * leading + row;
}
// Element `e` of a matrix whose fragment each lane keeps in its own variables, which only a wmma operation may read.
template <class F>
GPE_UNCHECKED inline typename F::element_type element(const void* const (*lanes)[2], int which, int e) {
  typename F::element_type result;
  memcpy(static_cast<void*>(&result), &static_cast<const F*>(lanes[e % 32][which])->x[e / 32], sizeof result);
  return result;
}
template <class F, class P>
GPE_UNCHECKED inline void load(F& f, const P* from, unsigned leading, bool by_rows, const char* file, int line) {
  converge(gpe::MATRIX_LOAD, file, line);
  for (int i = 0; i < F::num_elements; i++) {
    const P* at = from + offset<F>(i, leading, by_rows);
    gpe_touch(at, sizeof(P), 0, file, line);
    f.x[i] = *at;
  }
}
}  // namespace detail

template <class F, class V>
GPE_UNCHECKED inline void fill_fragment(F& f, const V& v) {
  for (auto& element : f.x) element = static_cast<typename F::element_type>(v);
}
GPE_UNCHECKED inline float __float_to_tf32(float x) {
  return __uint_as_float((__float_as_uint(x) + 0x1000u) & ~0x1fffu);
}

template <class Use, int M, int N, int K, class T, class P>
inline void load_matrix_sync(fragment<Use, M, N, K, T, row_major>& f, const P* from, unsigned leading, GPE_PLACE) {
  detail::load(f, from, leading, true, file, line);
}
template <class Use, int M, int N, int K, class T, class P>
inline void load_matrix_sync(fragment<Use, M, N, K, T, col_major>& f, const P* from, unsigned leading, GPE_PLACE) {
  detail::load(f, from, leading, false, file, line);
}
template <int M, int N, int K, class T, class P>
inline void load_matrix_sync(fragment<accumulator, M, N, K, T>& f, const P* from, unsigned leading, layout_t layout,
                             GPE_PLACE) {
  detail::load(f, from, leading, layout == mem_row_major, file, line);
}
template <int M, int N, int K, class T, class P>
GPE_UNCHECKED inline void store_matrix_sync(P* to, const fragment<accumulator, M, N, K, T>& f, unsigned leading,
                                            layout_t layout, GPE_PLACE) {
  using F = fragment<accumulator, M, N, K, T>;
  for (int i = 0; i < F::num_elements; i++) {
    P* at = to + detail::offset<F>(i, leading, layout == mem_row_major);
    gpe_touch(at, sizeof(P), 1, file, line);
    *at = f.x[i];
  }
  detail::converge(gpe::MATRIX_STORE, file, line);
}

// d = a b + c
template <int M, int N, int K, class D, class C, class A, class LayoutA, class B, class LayoutB>
GPE_UNCHECKED inline void mma_sync(fragment<accumulator, M, N, K, D>& d,
                                   const fragment<matrix_a, M, N, K, A, LayoutA>& a,
                                   const fragment<matrix_b, M, N, K, B, LayoutB>& b,
                                   const fragment<accumulator, M, N, K, C>& c, GPE_PLACE) {
  using FragmentA = fragment<matrix_a, M, N, K, A, LayoutA>;
  using FragmentB = fragment<matrix_b, M, N, K, B, LayoutB>;
  using Sum = detail::Sum<C>;
  const void* mine[2] = {&a, &b};
  const void* lanes[32][2];
  unsigned present;
  const char* slots = gpe_collective(0xffffffffu, mine, sizeof mine, gpe::MATRIX_MULTIPLY, &present, file, line);
  for (int i = 0; i < 32; i++) memcpy(lanes[i], slots + gpe::SLOT * i, sizeof mine);
  constexpr int count = M * N / 32;
  D result[count];
  for (int i = 0; i < count; i++) {
    const int e = i * 32 + static_cast<int>(gpe::lane()), row = e / N, column = e % N;
    Sum sum = static_cast<Sum>(c.x[i]);
    for (int k = 0; k < K; k++) {
      const auto left = detail::element<FragmentA>(lanes, 0, row * K + k);
      const auto right = detail::element<FragmentB>(lanes, 1, k * N + column);
      sum += static_cast<Sum>(left) * static_cast<Sum>(right);
    }
    result[i] = static_cast<D>(sum);
  }
  detail::converge(gpe::MATRIX_MULTIPLY, file, -line);  // nobody may change a or b before all have read them
  for (int i = 0; i < count; i++) d.x[i] = result[i];
}
}  // namespace wmma
}  // namespace nvcuda
