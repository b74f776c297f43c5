// Undoes device_macros.h.
#undef __CUDA_ARCH__
#undef __noinline__
#undef printf
#undef asm
#undef __cluster_dims__
#undef __managed__
