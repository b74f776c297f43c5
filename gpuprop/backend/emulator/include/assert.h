// Replaces the C library's, which would end the process. No include guard, as in the C library: NDEBUG may change
// between uses.
#undef assert
#ifdef NDEBUG
#define assert(condition) ((void)0)
#else
#define assert(condition) \
  ((condition) ? (void)0 : gpe_stop("device assert", "assertion failed: " #condition, __FILE__, __LINE__))
#endif
