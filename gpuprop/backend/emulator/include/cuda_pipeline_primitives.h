// cp.async. The copy is made at the wait, so that a missing wait shows as stale data in every mode.
#pragma once

namespace {
inline void __pipeline_memcpy_async(void* to, const void* from, size_t bytes, size_t zero_fill = 0, GPE_PLACE) {
  gpe_copy_async(to, from, static_cast<unsigned>(bytes), static_cast<unsigned>(zero_fill), file, line);
}
inline void __pipeline_commit() { gpe_copy_commit(); }
inline void __pipeline_wait_prior(unsigned newest_in_flight) { gpe_copy_wait(newest_in_flight); }
}  // namespace
