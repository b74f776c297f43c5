// What the CUDA compiler defines in device code. No include guard: host_macros.h takes it back around other people's
// headers, which would emit PTX, or trip over the names.
#define __CUDA_ARCH__ GPUPROP_EMULATOR_ARCH
#define __noinline__ __attribute__((noinline))
#define printf(...) gpe_printf(__VA_ARGS__)

// What is not emulated fails to build, here, at the user's line.
// clang-format off
#define asm \
  GPE_UNSUPPORTED("GCC error \"inline PTX is not emulated: put it behind #ifndef GPUPROP_EMULATOR with a C++ twin in the #else\"")
#define __cluster_dims__(...) \
  GPE_UNSUPPORTED("GCC error \"__cluster_dims__ is read where a kernel is written out once, not of a macro: launch with cluster=(...), or keep it behind #ifndef GPUPROP_EMULATOR\"")
#define __managed__ \
  GPE_UNSUPPORTED("GCC error \"__managed__ variables are not emulated: pass the array as an argument\"")
// clang-format on
