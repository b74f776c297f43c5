// Lines of "arch threads registers shared" in, blocks a multiprocessor out, by NVIDIA's cuda_occupancy.h.
#include <cstdio>
#include <cstdlib>

#include "cuda_occupancy.h"

int main() {
  int arch, threads, registers, shared;
  while (std::scanf("%d %d %d %d", &arch, &threads, &registers, &shared) == 4) {
    const bool small = arch == 86 || arch == 89 || arch == 120;
    const int kib = arch == 75 ? 64 : arch == 80 ? 164 : small ? 100 : 228, reserved = arch == 75 ? 0 : 1024;
    cudaOccDeviceProp device;
    device.computeMajor = arch / 10;
    device.computeMinor = arch % 10;
    device.maxThreadsPerBlock = 1024;
    device.maxThreadsPerMultiprocessor = arch == 75 ? 1024 : small ? 1536 : 2048;
    device.regsPerBlock = device.regsPerMultiprocessor = 65536;
    device.warpSize = 32;
    device.sharedMemPerBlock = 48 * 1024;
    device.sharedMemPerMultiprocessor = kib * 1024;
    device.sharedMemPerBlockOptin = kib * 1024 - reserved;
    device.reservedSharedMemPerBlock = reserved;
    device.numSms = 1;
    cudaOccFuncAttributes kernel;
    kernel.maxThreadsPerBlock = 1024;
    kernel.numRegs = registers;
    kernel.sharedSizeBytes = shared < 48 * 1024 ? shared : 48 * 1024;
    kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
    kernel.maxDynamicSharedSizeBytes = kib * 1024;
    kernel.numBlockBarriers = 1;
    cudaOccDeviceState state;
    state.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
    cudaOccResult result;
    const auto error = cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &kernel, &state, threads,
                                                               shared - kernel.sharedSizeBytes);
    std::printf("%d\n", error ? -1 : result.activeBlocksPerMultiprocessor);
  }
}
