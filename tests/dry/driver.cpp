// A CUDA driver without a GPU: it takes modules and launches, refuses what a compute capability of 9.0 would
// refuse, and runs nothing. Prototypes as in cuda.h, with its handles as plain pointers.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "cubin.h"
#include "state.h"

namespace {

// CUresult
enum { OK = 0, BAD_VALUE = 1, NO_DEVICE = 100, BAD_IMAGE = 200, NOT_FOUND = 500, BAD_CLUSTER = 912 };
// CUfunction_attribute
enum { MOST_THREADS = 0, SHARED_SIZE = 1, MOST_DYNAMIC_SHARED = 8, LARGE_CLUSTERS = 14 };
constexpr int MOST_SHARED = 227 << 10;

struct Function : Kernel {
    std::string name;
    bool large_clusters = false;
};

struct Module {
    std::string image;  // CuPy frees its copy
    std::map<std::string, Function> functions;
};

std::string copy_of(const void* image) {
    auto* file = static_cast<const Elf64_Ehdr*>(image);
    const uint64_t sections = file->e_shoff + uint64_t(file->e_shentsize) * file->e_shnum;
    const uint64_t segments = file->e_phoff + uint64_t(file->e_phentsize) * file->e_phnum;
    return {static_cast<const char*>(image), sections > segments ? sections : segments};
}

int refused(const Function& f, const char* why, long found, long most, int error) {
    std::fprintf(stderr, "dry run: %s refused: %s %ld, at most %ld\n", f.name.c_str(), why, found, most);
    return error;
}

int check_clusters(const Function& f, const unsigned (&grid)[3]) {
    if (!f.cluster[0]) return OK;
    const unsigned blocks = f.cluster[0] * f.cluster[1] * f.cluster[2], most = f.large_clusters ? 16 : 8;
    if (blocks > most) return refused(f, "blocks of a cluster", blocks, most, BAD_CLUSTER);
    for (int i = 0; i < 3; ++i)
        if (unsigned left = grid[i] % f.cluster[i])
            return refused(f, "blocks left over", left, 0, BAD_CLUSTER);
    return OK;
}

}  // namespace

extern "C" {

// CUB and Thrust, which CuPy links with a runtime of their own, ask here and find nothing.
int cuInit(unsigned) { return NO_DEVICE; }
int cuGetExportTable(const void** table, const void*) { *table = nullptr; return NOT_FOUND; }

int cuDriverGetVersion(int* version) { *version = 13020; return OK; }
int cuGetErrorName(int error, const char** name) {
    *name = error == BAD_VALUE     ? "CUDA_ERROR_INVALID_VALUE"
            : error == BAD_CLUSTER ? "CUDA_ERROR_INVALID_CLUSTER_SIZE"
            : error == NOT_FOUND   ? "CUDA_ERROR_NOT_FOUND"
                                   : "CUDA_ERROR_UNKNOWN";
    return OK;
}
int cuGetErrorString(int, const char** text) { *text = "refused by the dry run"; return OK; }

int cuCtxGetCurrent(void** context) { static int only; *context = &only; return OK; }
int cuCtxSetCurrent(void*) { return OK; }
int cuCtxGetDevice(int* device) { *device = 0; return OK; }
int cuStreamGetCtx(void*, void** context) { return cuCtxGetCurrent(context); }
int cuDevicePrimaryCtxRelease_v2(int) { return OK; }

int cuModuleLoadData(void** module, const void* image) {
    if (!Cubin(image).valid()) return BAD_IMAGE;
    *module = new Module{copy_of(image), {}};
    return OK;
}
int cuModuleUnload(void*) { return OK; }  // a function may outlive its module here, which harms nothing
int cuModuleGetFunction(void** function, void* module, const char* name) {
    auto* from = static_cast<Module*>(module);
    Kernel found;
    if (!Cubin(from->image.data()).kernel(name, &found)) return NOT_FOUND;
    Function& made = from->functions[name];
    static_cast<Kernel&>(made) = found;
    made.name = name;
    *function = &made;
    return OK;
}
int cuModuleGetGlobal_v2(uint64_t* address, size_t* size, void*, const char*) {
    *size = 1 << 16;
    *address = reinterpret_cast<uint64_t>(std::calloc(1, *size));
    return OK;
}

int cuFuncGetAttribute(int* value, int attribute, void* function) {
    auto* f = static_cast<Function*>(function);
    *value = attribute == MOST_DYNAMIC_SHARED ? f->dynamic_shared
             : attribute == SHARED_SIZE       ? f->fixed_shared
             : attribute == MOST_THREADS      ? int(f->most_threads)
                                              : 0;
    return OK;
}
int cuFuncSetAttribute(void* function, int attribute, int value) {
    auto* f = static_cast<Function*>(function);
    if (attribute == LARGE_CLUSTERS) f->large_clusters = value;
    if (attribute != MOST_DYNAMIC_SHARED) return OK;
    if (value + f->fixed_shared > MOST_SHARED)
        return refused(*f, "shared memory", value + f->fixed_shared, MOST_SHARED, BAD_VALUE);
    f->dynamic_shared = value;
    return OK;
}

int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, void*, void**, void**) {
    auto& f = *static_cast<Function*>(function);
    const long threads = long(bx) * by * bz, most = f.most_threads, along = gy > gz ? gy : gz;
    ++capture.nodes;
    if (!gx || !gy || !gz || !threads) return refused(f, "nothing: threads", threads, most, BAD_VALUE);
    if (along > 65535) return refused(f, "blocks along y or z", along, 65535, BAD_VALUE);
    if (threads > most || bz > 64) return refused(f, "threads of a block", threads, most, BAD_VALUE);
    if (int(shared) > f.dynamic_shared)
        return refused(f, "shared memory", shared, f.dynamic_shared, BAD_VALUE);
    return check_clusters(f, {gx, gy, gz});
}
int cuLaunchCooperativeKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                              unsigned bz, unsigned shared, void* stream, void** params) {
    return cuLaunchKernel(function, gx, gy, gz, bx, by, bz, shared, stream, params, nullptr);
}

int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void*, int, size_t) {
    *blocks = 2;
    return OK;
}
int cuOccupancyMaxPotentialBlockSize(int* grid, int* block, void*, void*, size_t, int) {
    *grid = 132;
    *block = 256;
    return OK;
}
int cuGraphGetNodes(void* graph, void**, size_t* count) {
    *count = static_cast<Graph*>(graph)->nodes;
    return OK;
}

}  // extern "C"
