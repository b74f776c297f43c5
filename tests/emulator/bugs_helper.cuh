#pragma once
// A function of a header: the report names this line, and the line that called it.
__device__ inline float load_at(const float* x, int i) {
  return x[i];  // BUG in_a_header
}
