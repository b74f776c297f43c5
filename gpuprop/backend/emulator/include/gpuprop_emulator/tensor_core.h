// What kernels/tensor_core.cuh has PTX for: mma.sync, ldmatrix and cp.async, whose layouts stand there. A product of two
// half types or of two TF32 is exact in float; the sum is made in float by ascending k, not as tensor cores round.
#pragma once

namespace gpe {
// What a lane deposits for a product: its elements of a and b.
struct Operands {
  float a[8], b[4];
};
static_assert(sizeof(Operands) <= SLOT, "a slot holds the operands");

GPE_UNCHECKED inline void widen_register(unsigned bits, float* to, float) {
  bits &= 0xffffe000u;  // tensor cores do not read the rest
  memcpy(to, &bits, 4);
}
template <class T>
GPE_UNCHECKED inline void widen_register(unsigned bits, float* to, T) {
  T pair[2];
  memcpy(static_cast<void*>(pair), &bits, 4);
  for (int e = 0; e < 2; e++) to[e] = widen(pair[e]);
}

// Waits for the whole warp, with what each lane deposited.
GPE_UNCHECKED inline const char* whole_warp(const void* value, unsigned bytes, int kind, const char* file, int line) {
  unsigned present;
  const char* slots = gpe_collective(0xffffffffu, value, bytes, kind, &present, file, line);
  if (present != 0xffffffffu)
    gpe_stop("missing lane", "operations on matrices need a warp of 32 lanes: make blocks of a multiple of 32 threads",
             file, line);
  return slots;
}

// The rows of `count` matrices, lane by lane.
struct Rows {
  const char* of[32];
};
GPE_UNCHECKED inline Rows matrix_rows(const void* row, int count, const char* file, int line) {
  if (static_cast<int>(lane()) < 8 * count) gpe_read_matrix_row(row, file, line);
  const char* slots = whole_warp(&row, sizeof row, MATRIX_ROWS, file, line);
  Rows rows;
  for (int i = 0; i < 8 * count; i++) memcpy(&rows.of[i], slots + SLOT * i, sizeof row);
  return rows;
}
}  // namespace gpe

namespace {
template <class T>
GPE_UNCHECKED inline void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], GPE_PLACE) {
  constexpr int P = 4 / sizeof(T);
  gpe::Operands mine;
  for (int i = 0; i < 4; i++) gpe::widen_register(a[i], mine.a + P * i, T());
  for (int i = 0; i < 2; i++) gpe::widen_register(b[i], mine.b + P * i, T());
  const char* slots = gpe::whole_warp(&mine, sizeof mine, gpe::MATRIX_MULTIPLY, file, line);
  const int group = static_cast<int>(gpe::lane()) / 4, pair = static_cast<int>(gpe::lane()) % 4;
  const auto lane_of = [slots](int l) GPE_UNCHECKED {
    return reinterpret_cast<const gpe::Operands*>(slots + gpe::SLOT * l);
  };
  for (int i = 0; i < 4; i++) {
    float sum = d[i];
    for (int p = 0; p < 8; p++) {
      const float* left = lane_of(4 * group + p % 4)->a + P * (p / 4 * 2 + i / 2);
      const float* right = lane_of(4 * (2 * pair + i % 2) + p % 4)->b + P * (p / 4);
      for (int e = 0; e < P; e++) sum += left[e] * right[e];
    }
    d[i] = sum;
  }
}

GPE_UNCHECKED inline unsigned to_tf32(float x) {
  unsigned bits;
  memcpy(&bits, &x, 4);
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
}

template <int N>
GPE_UNCHECKED inline void load_matrices(unsigned (&r)[N], const void* row, GPE_PLACE) {
  const gpe::Rows rows = gpe::matrix_rows(row, N, file, line);
  const int lane = static_cast<int>(gpe::lane());
  for (int i = 0; i < N; i++) {
    const char* from = rows.of[8 * i + lane / 4];
    gpe_touch(from, 16, 0, file, line);  // a row belongs to its lane and to those that receive it
    memcpy(&r[i], from + lane % 4 * 4, 4);
  }
}
template <int N>
GPE_UNCHECKED inline void load_matrices_turned(unsigned (&r)[N], const void* row, GPE_PLACE) {
  const gpe::Rows rows = gpe::matrix_rows(row, N, file, line);
  const int lane = static_cast<int>(gpe::lane());
  for (int i = 0; i < N; i++) {
    unsigned short pair[2];
    for (int e = 0; e < 2; e++) {
      const char* from = rows.of[8 * i + lane % 4 * 2 + e];
      gpe_touch(from, 16, 0, file, line);
      memcpy(&pair[e], from + lane / 4 * 2, 2);
    }
    memcpy(&r[i], pair, 4);
  }
}

inline void copy_async(void* to, const void* from, bool inside, GPE_PLACE) {
  gpe_copy_async(to, from, 16, inside ? 0 : 16, file, line);
}
inline void copies_commit() { gpe_copy_commit(); }
template <int NEWEST>
inline void copies_arrived() {
  gpe_copy_wait(NEWEST);
}
}  // namespace
