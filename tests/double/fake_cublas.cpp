// Products as cuBLAS documents them, on the host's memory: what tests of argument passing run against.
// Prototypes as in cublas_api.h and cublasLt.h; a wrong argument comes back as CUBLAS_STATUS_INVALID_VALUE.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace {

enum { OK = 0, INVALID = 7, NOT_SUPPORTED = 15 };
enum { F32 = 0, F64 = 1, F16 = 2, BF16 = 14 };

float from_half(uint16_t bits) {
    const int exponent = (bits >> 10) & 31, fraction = bits & 1023;
    float value = exponent == 0    ? std::ldexp(float(fraction), -24)
                  : exponent == 31 ? (fraction ? NAN : INFINITY)
                                   : std::ldexp(float(1024 + fraction), exponent - 25);
    return bits & 0x8000 ? -value : value;
}

uint16_t to_half(float value) {
    const _Float16 half = _Float16(value);
    uint16_t bits;
    std::memcpy(&bits, &half, 2);
    return bits;
}

float from_bfloat(uint16_t bits) {
    const uint32_t wide = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
}

uint16_t to_bfloat(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

double load(const void* memory, int type, int64_t i) {
    switch (type) {
        case F32: return static_cast<const float*>(memory)[i];
        case F64: return static_cast<const double*>(memory)[i];
        case F16: return from_half(static_cast<const uint16_t*>(memory)[i]);
        default: return from_bfloat(static_cast<const uint16_t*>(memory)[i]);
    }
}

void store(void* memory, int type, int64_t i, double value) {
    switch (type) {
        case F32: static_cast<float*>(memory)[i] = float(value); break;
        case F64: static_cast<double*>(memory)[i] = value; break;
        case F16: static_cast<uint16_t*>(memory)[i] = to_half(float(value)); break;
        default: static_cast<uint16_t*>(memory)[i] = to_bfloat(float(value));
    }
}

// TF32 keeps 10 bits of a float's fraction, rounded to nearest.
double tf32(double value) {
    const float single = float(value);
    uint32_t bits;
    std::memcpy(&bits, &single, 4);
    bits = (bits + 0x1000) & ~0x1fffu;
    float cut;
    std::memcpy(&cut, &bits, 4);
    return cut;
}

struct Matrix {
    const void* memory;
    int type;
    int64_t ld;
    bool transposed;
    double at(int64_t i, int64_t j, bool cut) const {
        const double value = load(memory, type, transposed ? j + i * ld : i + j * ld);
        return cut ? tf32(value) : value;
    }
};

bool size_of(int type, int64_t& bytes) {
    bytes = type == F32 ? 4 : type == F64 ? 8 : 2;
    return type == F32 || type == F64 || type == F16 || type == BF16;
}

bool types_fit(int a, int b, int c, int compute) {
    if (a != b) return false;
    if (compute == 70) return a == F64 && c == F64;
    if (compute == 77) return a == F32 && c == F32;
    if (compute != 68) return false;
    return a == F64 ? false : a == F32 ? c == F32 : (c == a || c == F32);
}

bool lds_fit(bool ta, bool tb, int64_t m, int64_t n, int64_t k, int64_t lda, int64_t ldb, int64_t ldc) {
    const auto least = [](int64_t rows) { return rows > 1 ? rows : 1; };
    return lda >= least(ta ? k : m) && ldb >= least(tb ? n : k) && ldc >= least(m);
}

double sum(const Matrix& a, const Matrix& b, int64_t i, int64_t j, int64_t k, bool cut) {
    double total = 0;
    for (int64_t l = 0; l < k; ++l) total += a.at(i, l, cut) * b.at(l, j, cut);
    return total;
}

double scalar(const void* pointer, int compute) {
    return compute == 70 ? *static_cast<const double*>(pointer) : *static_cast<const float*>(pointer);
}

struct Handle {
    void* stream = nullptr;
    void* workspace = nullptr;
    size_t bytes = 0;
};

struct Description {
    int compute, scale;
    int32_t transpose[2] = {0, 0};
    int32_t epilogue = 1;
    void* bias = nullptr;
    void* aux = nullptr;
    int64_t aux_ld = 0;
    bool has_aux() const { return epilogue & 128; }
    bool is_relu() const { return epilogue & (2 | 8); }  // else GELU, where there is an activation
    bool is_gradient() const { return epilogue & (8 | 64); }
};

// cublasLtEpilogue_t, all of it.
bool known(int epilogue) {
    for (int one : {1, 2, 130, 4, 6, 134, 136, 152, 32, 160, 36, 164, 192, 208, 256, 512})
        if (epilogue == one) return true;
    return false;
}

struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t ld;
    int32_t batch = 1;
    int64_t step = 0;
    // Matrix i of the batch.
    char* at(const void* memory, int64_t i) const {
        const int64_t bytes = type == F32 ? 4 : type == F64 ? 8 : 2;
        return static_cast<char*>(const_cast<void*>(memory)) + i * step * bytes;
    }
};

struct Preference {
    uint64_t workspace = 0;
    uint32_t alignment[4] = {256, 256, 256, 256};
};

struct Algorithm {
    uint64_t data[8];
};

struct Heuristic {
    Algorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

const uint64_t CHOSEN = 0x6770;
void* last_stream = nullptr;

// The tanh form, which is the one that cublasLt has, and its derivative.
double gelu(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }

double gelu_slope(double x) {
    const double s = std::sqrt(2 / M_PI), t = std::tanh(s * (x + 0.044715 * x * x * x));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * s * (1 + 3 * 0.044715 * x * x);
}

// What the auxiliary matrix of D (rows, columns) has to be: there, in whole steps, and as long as D.
bool aux_fits(const Description& of, int64_t rows) {
    return !of.has_aux() || (of.aux && of.aux_ld >= rows && of.aux_ld % (of.is_relu() ? 128 : 8) == 0);
}

// z after the epilogue; the auxiliary matrix is written or read at (row, column).
double finished(const Description& of, double z, int type, int64_t row, int64_t column) {
    if (of.epilogue & 4) z += load(of.bias, type, row);
    const int64_t at = row + column * of.aux_ld;
    unsigned char* byte = static_cast<unsigned char*>(of.aux) + at / 8;  // the lowest bit is the first
    const int bit = 1 << at % 8;
    if (of.is_gradient() && of.is_relu()) return *byte & bit ? z : 0;
    if (of.is_gradient()) return z * gelu_slope(load(of.aux, type, at));
    if (of.has_aux() && of.is_relu()) *byte = z > 0 ? *byte | bit : *byte & ~bit;
    if (of.has_aux() && !of.is_relu()) store(of.aux, type, at, z);
    if (of.epilogue & 2) return z < 0 ? 0 : z;  // NVIDIA does not say what NaN becomes: a test asks a GPU
    return of.epilogue & 32 ? gelu(z) : z;
}

uint32_t alignment_of(const void* pointer) {
    const auto address = reinterpret_cast<uintptr_t>(pointer), lowest = address & -address;
    return uint32_t(lowest < 256 ? lowest : 256) * (address != 0);
}

bool aligned(const void* pointer, uint32_t bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

}  // namespace

extern "C" {

int cublasCreate_v2(void** handle) {
    *handle = new Handle;
    return OK;
}

int cublasSetStream_v2(void* handle, void* stream) {
    auto* of = static_cast<Handle*>(handle);
    *of = {stream, nullptr, 0};  // which takes the workspace away
    last_stream = stream;
    return OK;
}

int cublasSetWorkspace_v2(void* handle, void* memory, size_t bytes) {
    if (!memory || !aligned(memory, 256)) return INVALID;
    static_cast<Handle*>(handle)->workspace = memory;
    static_cast<Handle*>(handle)->bytes = bytes;
    return OK;
}

int cublasGemmStridedBatchedEx_64(void* handle, int ta, int tb, int64_t m, int64_t n, int64_t k,
                                  const void* alpha, const void* a, int a_type, int64_t lda,
                                  long long a_step, const void* b, int b_type, int64_t ldb,
                                  long long b_step, const void* beta, void* c, int c_type, int64_t ldc,
                                  long long c_step, int64_t batch, int compute, int algorithm) {
    const auto* of = static_cast<Handle*>(handle);
    int64_t sizes[3];
    if (!of->workspace || of->bytes < (1u << 22)) return INVALID;  // it would have to allocate
    if (!size_of(a_type, sizes[0]) || !size_of(b_type, sizes[1]) || !size_of(c_type, sizes[2])) return INVALID;
    if (m < 0 || n < 0 || k < 0 || batch < 0 || algorithm != -1 || a_step < 0 || b_step < 0) return INVALID;
    if (!types_fit(a_type, b_type, c_type, compute) || !lds_fit(ta, tb, m, n, k, lda, ldb, ldc)) return INVALID;
    if (batch > 1 && c_step < ldc * (n - 1) + m && ldc < c_step * (batch - 1) + m) return INVALID;
    const double one = scalar(alpha, compute), old = scalar(beta, compute);
    for (int64_t i = 0; i < batch; ++i) {
        const Matrix left{static_cast<const char*>(a) + i * a_step * sizes[0], a_type, lda, ta == 1};
        const Matrix right{static_cast<const char*>(b) + i * b_step * sizes[1], b_type, ldb, tb == 1};
        char* to = static_cast<char*>(c) + i * c_step * sizes[2];
        for (int64_t column = 0; column < n; ++column)
            for (int64_t row = 0; row < m; ++row) {
                const int64_t at = row + column * ldc;
                const double before = old == 0 ? 0 : old * load(to, c_type, at);
                store(to, c_type, at, one * sum(left, right, row, column, k, compute == 77) + before);
            }
    }
    return OK;
}

int cublasGemmEx_64(void* handle, int ta, int tb, int64_t m, int64_t n, int64_t k, const void* alpha,
                    const void* a, int a_type, int64_t lda, const void* b, int b_type, int64_t ldb,
                    const void* beta, void* c, int c_type, int64_t ldc, int compute, int algorithm) {
    return cublasGemmStridedBatchedEx_64(handle, ta, tb, m, n, k, alpha, a, a_type, lda, 0, b, b_type, ldb, 0,
                                         beta, c, c_type, ldc, 0, 1, compute, algorithm);
}

int cublasLtCreate(void** handle) {
    *handle = new int(0);
    return OK;
}

int cublasLtMatmulDescCreate(void** made, int compute, int scale) {
    *made = new Description{compute, scale};
    return OK;
}

int cublasLtMatmulDescSetAttribute(void* description, int attribute, const void* value, size_t bytes) {
    auto* of = static_cast<Description*>(description);
    const auto take = [&](void* field, size_t size) {
        if (bytes != size) return int(INVALID);
        std::memcpy(field, value, size);
        return int(OK);
    };
    switch (attribute) {
        case 3: return take(&of->transpose[0], 4);
        case 4: return take(&of->transpose[1], 4);
        case 7: return take(&of->epilogue, 4);
        case 8: return take(&of->bias, sizeof(void*));
        case 11: return take(&of->aux, sizeof(void*));
        case 12: return take(&of->aux_ld, 8);
        default: return INVALID;
    }
}

int cublasLtMatmulDescDestroy(void* description) {
    delete static_cast<Description*>(description);
    return OK;
}

int cublasLtMatrixLayoutDestroy(void* layout) {
    delete static_cast<Layout*>(layout);
    return OK;
}

int cublasLtMatrixLayoutCreate(void** made, int type, uint64_t rows, uint64_t columns, int64_t ld) {
    if (ld < int64_t(rows)) return INVALID;
    *made = new Layout{type, rows, columns, ld};
    return OK;
}

int cublasLtMatrixLayoutSetAttribute(void* layout, int attribute, const void* value, size_t bytes) {
    auto* of = static_cast<Layout*>(layout);
    if (attribute == 5 && bytes == 4) return std::memcpy(&of->batch, value, 4), OK;
    if (attribute == 6 && bytes == 8) return std::memcpy(&of->step, value, 8), OK;
    return INVALID;
}

int cublasLtMatmulPreferenceCreate(void** made) {
    *made = new Preference;
    return OK;
}

int cublasLtMatmulPreferenceDestroy(void* preference) {
    delete static_cast<Preference*>(preference);
    return OK;
}

int cublasLtMatmulPreferenceSetAttribute(void* preference, int attribute, const void* value, size_t bytes) {
    auto* of = static_cast<Preference*>(preference);
    if (attribute == 1 && bytes == 8) return std::memcpy(&of->workspace, value, 8), OK;
    if (attribute >= 5 && attribute <= 8 && bytes == 4) {
        return std::memcpy(&of->alignment[attribute - 5], value, 4), OK;
    }
    return INVALID;
}

int cublasLtMatmulAlgoGetHeuristic(void*, void* description, void* a, void* b, void* c, void* d,
                                   void* preference, int wanted, Heuristic* results, int* count) {
    const auto* of = static_cast<Description*>(description);
    const auto* wish = static_cast<Preference*>(preference);
    const auto *left = static_cast<Layout*>(a), *right = static_cast<Layout*>(b), *to = static_cast<Layout*>(d);
    if (wanted < 1 || c != d || !b || left->batch != to->batch || right->batch != to->batch) return INVALID;
    if (!known(of->epilogue) || !aux_fits(*of, to->rows)) return INVALID;
    *count = 0;
    if (left->type == F64 || (to->batch > 1 && of->epilogue != 4)) return NOT_SUPPORTED;
    if (of->is_gradient() && (of->transpose[0] ? left->rows : left->columns) == 1) return NOT_SUPPORTED;
    *count = 1;
    results[0] = Heuristic{};
    results[0].algorithm.data[0] = CHOSEN;
    for (int i = 0; i < 4; ++i) results[0].algorithm.data[1 + i] = wish->alignment[i];
    results[0].algorithm.data[5] = alignment_of(of->bias);  // which the value of the pointer tells
    results[0].algorithm.data[6] = alignment_of(of->aux);
    return OK;
}

int cublasLtMatmul(void*, void* description, const void* alpha, const void* a, void* a_layout, const void* b,
                   void* b_layout, const void* beta, const void* c, void*, void* d, void* d_layout,
                   const Algorithm* algorithm, void* workspace, size_t, void* stream) {
    const auto* of = static_cast<Description*>(description);
    const auto *la = static_cast<Layout*>(a_layout), *lb = static_cast<Layout*>(b_layout),
               *ld = static_cast<Layout*>(d_layout);
    const bool ta = of->transpose[0] == 1, tb = of->transpose[1] == 1;
    const int64_t m = ld->rows, n = ld->columns, k = ta ? la->rows : la->columns;
    if (algorithm->data[0] != CHOSEN || !workspace || c != d) return INVALID;
    if (int64_t(ta ? la->columns : la->rows) != m || int64_t(tb ? lb->rows : lb->columns) != n) return INVALID;
    if (int64_t(tb ? lb->columns : lb->rows) != k) return INVALID;
    for (int64_t i = 0; i < ld->batch; ++i) {
        const void* pointers[4] = {la->at(a, i), lb->at(b, i), ld->at(c, i), ld->at(d, i)};
        for (int j = 0; j < 4; ++j)
            if (!aligned(pointers[j], uint32_t(algorithm->data[1 + j]))) return INVALID;
    }
    if (!types_fit(la->type, lb->type, ld->type, of->compute)) return INVALID;
    if (scalar(beta, of->compute) != 0 || !aux_fits(*of, m)) return INVALID;
    const void* beside[2] = {of->bias, of->has_aux() ? of->aux : nullptr};
    for (int i = 0; i < 2; ++i) {
        const auto wanted = uint32_t(algorithm->data[5 + i]);
        if (beside[i] && wanted && !aligned(beside[i], wanted)) return INVALID;
    }
    const double times = scalar(alpha, of->compute);
    last_stream = stream;
    if (ld->batch > 1) {  // of the epilogues, only the bias has been made for batches
        for (int64_t i = 0; i < ld->batch; ++i)
            for (int64_t j = 0; j < n; ++j)
                for (int64_t row = 0; row < m; ++row) {
                    const Matrix left{la->at(a, i), la->type, la->ld, ta}, right{lb->at(b, i), lb->type, lb->ld, tb};
                    const double z = times * sum(left, right, row, j, k, of->compute == 77);
                    store(ld->at(d, i), ld->type, row + j * ld->ld, z + load(of->bias, ld->type, row));
                }
        return OK;
    }
    const Matrix left{a, la->type, la->ld, ta}, right{b, lb->type, lb->ld, tb};
    const int epilogue = of->epilogue;
    for (int64_t i = 0; i < m; ++i) {
        double total = 0;
        for (int64_t j = 0; j < n; ++j) {
            const double z = times * sum(left, right, i, j, k, of->compute == 77);
            const double y = finished(*of, z, ld->type, i, j);
            store(d, ld->type, i + j * ld->ld, y);
            total += y;
        }
        if (epilogue & 16) store(of->bias, ld->type, i, total);
    }
    const bool of_left = epilogue == 256;
    for (int64_t i = 0; epilogue >= 256 && i < (of_left ? m : n); ++i) {
        double total = 0;
        for (int64_t l = 0; l < k; ++l) total += of_left ? left.at(i, l, false) : right.at(l, i, false);
        store(of->bias, ld->type, i, total);
    }
    return OK;
}

void* fake_last_stream() { return last_stream; }

// A captured product keeps what its description was at the call.
void* fake_copy_description(void* description) { return new Description(*static_cast<Description*>(description)); }

// m, n, k, the bytes of an element, how many P, Q and D there are, the elements of the bias or of the sums, and the
// bytes of the auxiliary matrix, of a product with an epilogue.
void fake_sizes(void* description, void* a_layout, void* b_layout, void* d_layout, int64_t* found) {
    const auto *la = static_cast<Layout*>(a_layout), *lb = static_cast<Layout*>(b_layout),
               *ld = static_cast<Layout*>(d_layout);
    found[0] = ld->rows;
    found[1] = ld->columns;
    found[2] = static_cast<Description*>(description)->transpose[0] == 1 ? la->rows : la->columns;
    size_of(la->type, found[3]);
    found[4] = la->step ? la->batch : 1;  // a stride of 0 repeats
    found[5] = lb->step ? lb->batch : 1;
    found[6] = ld->batch;
    const auto* of = static_cast<Description*>(description);
    found[7] = !of->bias ? 0 : of->epilogue == 512 ? ld->columns : ld->rows;
    const int64_t numbers = of->aux_ld * ld->columns;
    found[8] = !of->has_aux() ? 0 : of->is_relu() ? numbers / 8 : numbers * found[3];
}

// Whether a product on this handle would not have to allocate.
int fake_can_multiply(void* handle) { return static_cast<Handle*>(handle)->workspace != nullptr; }
}
