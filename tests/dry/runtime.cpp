// A CUDA runtime without a GPU: its memory is the host's, and a capture is a state in which it refuses what
// CUDA refuses then. Prototypes as in cuda_runtime_api.h, with some handles as plain pointers.
#include <driver_types.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "state.h"

Capture capture;

namespace {

constexpr size_t MEMORY = size_t(16) << 30;  // of which only what is written takes the host's
constexpr int VERSION = 13020;

std::map<void*, size_t> allocated;
size_t used = 0;

// Of a compute capability of 9.0; numbers of cudaDeviceAttr.
const std::map<int, int> ATTRIBUTES = {
    {cudaDevAttrMaxThreadsPerBlock, 1024}, {cudaDevAttrMaxSharedMemoryPerBlock, 48 << 10},
    {cudaDevAttrWarpSize, 32}, {cudaDevAttrMultiProcessorCount, 132},
    {cudaDevAttrMaxThreadsPerMultiProcessor, 2048}, {cudaDevAttrComputeCapabilityMajor, 9},
    {cudaDevAttrComputeCapabilityMinor, 0}, {cudaDevAttrMaxSharedMemoryPerBlockOptin, 227 << 10},
    {cudaDevAttrMaxSharedMemoryPerMultiprocessor, 228 << 10}, {cudaDevAttrMaxRegistersPerBlock, 65536},
};

template <class Handle> cudaError_t made(Handle* handle) {
    *handle = static_cast<Handle>(std::malloc(1));  // only its address means something
    return cudaSuccess;
}

cudaError_t unless_captured(bool captured) {
    return captured ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

// A capture in another mode than relaxed takes no call that might wait.
cudaError_t may_wait() {
    return unless_captured(capture.active() && capture.mode != cudaStreamCaptureModeRelaxed);
}

cudaError_t missing(const char* name) {
    std::fprintf(stderr, "dry run: %s is not there\n", name);
    return cudaErrorNotSupported;
}

}  // namespace

extern "C" {

const char* cudaGetErrorName(cudaError_t error) {
    switch (error) {
        case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
        case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
        case cudaErrorNotSupported: return "cudaErrorNotSupported";
        case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
        case cudaErrorStreamCaptureIsolation: return "cudaErrorStreamCaptureIsolation";
        case cudaErrorCapturedEvent: return "cudaErrorCapturedEvent";
        default: return "cudaErrorUnknown";
    }
}
const char* cudaGetErrorString(cudaError_t) { return "refused by the dry run"; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { *version = VERSION; return cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { *version = VERSION; return cudaSuccess; }

cudaError_t cudaGetDeviceCount(int* count) { *count = 1; return cudaSuccess; }
cudaError_t cudaGetDevice(int* device) { *device = 0; return cudaSuccess; }
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
cudaError_t cudaDeviceGetAttribute(int* value, int attribute, int) {
    auto found = ATTRIBUTES.find(attribute);
    *value = found == ATTRIBUTES.end() ? 1 : found->second;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetByPCIBusId(int* device, const char*) { *device = 0; return cudaSuccess; }
cudaError_t cudaDeviceGetPCIBusId(char* text, int size, int) {
    std::snprintf(text, size, "0000:01:00.0");
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
    std::memset(p, 0, sizeof *p);
    std::strcpy(p->name, "Dry GPU");
    std::memset(p->uuid.bytes, 0x80, sizeof p->uuid.bytes);  // bytes that are no text
    p->major = 9;
    p->totalGlobalMem = MEMORY;
    p->multiProcessorCount = 132;
    p->warpSize = 32;
    return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return unless_captured(capture.active()); }
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) { *can = 0; return cudaSuccess; }
cudaError_t cudaDeviceGetLimit(size_t* value, int) { *value = 0; return cudaSuccess; }
cudaError_t cudaDeviceSetLimit(int, size_t) { return cudaSuccess; }
cudaError_t cudaProfilerStart() { return cudaSuccess; }
cudaError_t cudaProfilerStop() { return cudaSuccess; }

cudaError_t cudaMalloc(void** address, size_t size) {
    if (auto error = may_wait()) return error;
    if (used + size > MEMORY) return cudaErrorMemoryAllocation;
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    *address = mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (*address == MAP_FAILED) return cudaErrorMemoryAllocation;
    allocated[*address] = size;
    used += size;
    return cudaSuccess;
}
cudaError_t cudaFree(void* address) {
    if (auto error = may_wait()) return error;
    auto found = allocated.find(address);
    if (found == allocated.end()) return address ? cudaErrorInvalidValue : cudaSuccess;
    munmap(address, found->second);
    used -= found->second;
    allocated.erase(found);
    return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** address, size_t size, unsigned) {
    if (auto error = may_wait()) return error;
    *address = std::aligned_alloc(4096, (size + 4095) / 4096 * 4096);
    return cudaSuccess;
}
cudaError_t cudaFreeHost(void* address) { std::free(address); return cudaSuccess; }
cudaError_t cudaMemGetInfo(size_t* left, size_t* total) {
    *left = MEMORY - used;
    *total = MEMORY;
    return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* found, const void*) {
    std::memset(found, 0, sizeof *found);
    found->type = cudaMemoryTypeDevice;
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t size, int) {
    if (capture.active()) return cudaErrorStreamCaptureUnsupported;
    std::memmove(to, from, size);
    return cudaSuccess;
}
cudaError_t cudaMemset(void* to, int value, size_t size) {
    if (capture.active()) return cudaErrorStreamCaptureUnsupported;
    std::memset(to, value, size);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, int, const void* stream) {
    ++capture.nodes;
    if (!capture.streams.count(stream)) std::memmove(to, from, size);
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t size, const void* stream) {
    ++capture.nodes;
    if (!capture.streams.count(stream)) std::memset(to, value, size);
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(void** stream) { return made(stream); }
cudaError_t cudaStreamCreateWithFlags(void** stream, unsigned) { return made(stream); }
cudaError_t cudaStreamCreateWithPriority(void** stream, unsigned, int) { return made(stream); }
cudaError_t cudaStreamGetFlags(const void*, unsigned* flags) { *flags = 1; return cudaSuccess; }
cudaError_t cudaStreamGetPriority(const void*, int* priority) { *priority = 0; return cudaSuccess; }
cudaError_t cudaStreamDestroy(void*) { return cudaSuccess; }
cudaError_t cudaStreamQuery(const void* stream) { return unless_captured(capture.streams.count(stream)); }
cudaError_t cudaStreamSynchronize(const void* stream) { return cudaStreamQuery(stream); }
cudaError_t cudaStreamWaitEvent(const void* stream, const void* event, unsigned) {
    if (capture.events.count(event)) capture.streams.insert(stream);  // joins the capture
    else if (capture.streams.count(stream)) return cudaErrorStreamCaptureIsolation;
    return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(const void* stream, int mode) {
    capture = Capture();
    capture.streams.insert(stream);
    capture.mode = mode;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(const void*, Graph** graph) {
    *graph = new Graph{capture.nodes};
    capture = Capture();
    return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(const void* stream, int* status) {
    *status = capture.streams.count(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

cudaError_t cudaEventCreate(void** event) { return made(event); }
cudaError_t cudaEventCreateWithFlags(void** event, unsigned) { return made(event); }
cudaError_t cudaEventDestroy(void* event) {
    capture.events.erase(event);
    std::free(event);
    return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* ms, const void*, const void*) { *ms = 1; return cudaSuccess; }
cudaError_t cudaEventRecord(const void* event, const void* stream) {
    if (capture.streams.count(stream)) capture.events.insert(event);
    else capture.events.erase(event);
    return cudaSuccess;
}
cudaError_t cudaEventQuery(const void* event) {
    return capture.events.count(event) ? cudaErrorCapturedEvent : cudaSuccess;
}
cudaError_t cudaEventSynchronize(const void* event) { return cudaEventQuery(event); }

cudaError_t cudaGraphDestroy(Graph* graph) { delete graph; return cudaSuccess; }
cudaError_t cudaGraphInstantiate(void** made_of_it, Graph*, unsigned long long) { return made(made_of_it); }
cudaError_t cudaGraphExecDestroy(void* graph) { std::free(graph); return cudaSuccess; }
cudaError_t cudaGraphLaunch(void*, const void*) { return cudaSuccess; }
cudaError_t cudaGraphUpload(void*, const void*) { return cudaSuccess; }
cudaError_t cudaGraphDebugDotPrint(Graph*, const char*, unsigned) { return cudaSuccess; }

// What CuPy's module is linked with and gpuprop never comes to.
#define MISSING(name) cudaError_t name() { return missing(#name); }
MISSING(cudaCreateSurfaceObject) MISSING(cudaCreateTextureObject) MISSING(cudaDestroySurfaceObject)
MISSING(cudaDestroyTextureObject) MISSING(cudaDeviceDisablePeerAccess) MISSING(cudaDeviceEnablePeerAccess)
MISSING(cudaDeviceGetDefaultMemPool) MISSING(cudaDeviceGetMemPool) MISSING(cudaDeviceSetMemPool)
MISSING(cudaFreeArray) MISSING(cudaFreeAsync) MISSING(cudaGetChannelDesc)
MISSING(cudaGetTextureObjectResourceDesc) MISSING(cudaGetTextureObjectTextureDesc) MISSING(cudaHostRegister)
MISSING(cudaHostUnregister) MISSING(cudaIpcCloseMemHandle) MISSING(cudaIpcGetEventHandle)
MISSING(cudaIpcGetMemHandle) MISSING(cudaIpcOpenEventHandle) MISSING(cudaIpcOpenMemHandle)
MISSING(cudaLaunchHostFunc) MISSING(cudaMalloc3DArray) MISSING(cudaMallocArray) MISSING(cudaMallocAsync)
MISSING(cudaMallocFromPoolAsync) MISSING(cudaMallocManaged) MISSING(cudaMemAdvise) MISSING(cudaMemPoolCreate)
MISSING(cudaMemPoolDestroy) MISSING(cudaMemPoolGetAttribute) MISSING(cudaMemPoolSetAttribute)
MISSING(cudaMemPoolTrimTo) MISSING(cudaMemPrefetchAsync) MISSING(cudaMemcpy2D) MISSING(cudaMemcpy2DAsync)
MISSING(cudaMemcpy2DFromArray) MISSING(cudaMemcpy2DFromArrayAsync) MISSING(cudaMemcpy2DToArray)
MISSING(cudaMemcpy2DToArrayAsync) MISSING(cudaMemcpy3D) MISSING(cudaMemcpy3DAsync) MISSING(cudaMemcpyPeer)
MISSING(cudaMemcpyPeerAsync) MISSING(cudaStreamAddCallback)

}  // extern "C"
