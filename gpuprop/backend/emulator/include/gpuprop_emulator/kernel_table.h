// The table through which the launcher finds a file's kernels and their parameters.
#pragma once

namespace gpe {
// A parameter's code: f4 float, f2 __half, B2 __nv_bfloat16, i4 int, u8 unsigned long long, b1 bool, V16 any other type
// of 16 bytes, v0 void; in front of it P for a pointer, c for a pointer to const.
template <class T>
struct Code {
  static char* put(char* at, char* end) {
    const char kind = std::is_same<T, bool>::value                                         ? 'b'
                      : std::is_same<T, __nv_bfloat16>::value                              ? 'B'
                      : std::is_same<T, __half>::value || std::is_floating_point<T>::value ? 'f'
                      : !std::is_integral<T>::value                                        ? 'V'
                      : std::is_signed<T>::value                                           ? 'i'
                                                                                           : 'u';
    return at + snprintf(at, end - at, "%c%zu", kind, sizeof(T));
  }
};
template <>
struct Code<void> {
  static char* put(char* at, char* end) { return at + snprintf(at, end - at, "v0"); }
};
template <class T>
struct Code<const T> : Code<T> {};
template <class T>
struct Code<volatile T> : Code<T> {};
template <class T>
struct Code<T*> {
  static char* put(char* at, char* end) {
    return Code<T>::put(at + snprintf(at, end - at, "%s", std::is_const<T>::value ? "c" : "P"), end);
  }
};

template <auto kernel>
struct Kernel {
  static_assert(sizeof(kernel) == 0, "a kernel returns void");
};
template <class... Parameters, void (*kernel)(Parameters...)>
struct Kernel<kernel> {
  template <size_t... I>
  GPE_UNCHECKED static void call(void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_reference_t<Parameters>*>(arguments[I])...);
  }
  GPE_UNCHECKED static void run(void** arguments) { call(arguments, std::index_sequence_for<Parameters...>{}); }
  static KernelEntry entry() {
    static char text[1024];
    static const unsigned sizes[] = {static_cast<unsigned>(sizeof(Parameters))..., 0};
    char *at = text, *end = text + sizeof text;
    *at = 0;
    ((at = Code<std::remove_cv_t<Parameters>>::put(at, end), at += snprintf(at, end - at, " ")), ...);
    return {&run, text, sizes, sizeof...(Parameters), 0, {}};
  }
};
inline KernelEntry bounded(KernelEntry entry, unsigned most_threads, ClusterDims cluster) {
  entry.most_threads = most_threads;
  entry.cluster = cluster;
  return entry;
}
}  // namespace gpe

// Inside the user's namespace, so that the name is looked up as the user would.
#define GPE_KERNEL(number, ...) \
  GPE_UNCHECKED gpe::KernelEntry gpe_entry_##number() { return gpe::Kernel<__VA_ARGS__>::entry(); }
#define GPE_BOUNDS(number, ...) \
  GPE_UNCHECKED unsigned gpe_bounds_##number() { return __VA_ARGS__; }
#define GPE_CLUSTER(number, ...) \
  GPE_UNCHECKED gpe::ClusterDims gpe_cluster_##number() { return __VA_ARGS__; }
