// The two matrices of each expert for the rows of a few tokens (rows.cuh), packed or dense. A block takes some outputs of one group of
// rows of one expert; groups without rows return at once. Slot t K + j is choice j of token t.
#include "rows.cuh"
#include "swiglu.cuh"

// Gate and up of h[slot, i] are outputs 2 i and 2 i + 1.
struct GateUp {
    bf16* h;
    const bf16* bias;
    const float* low;
    int outputs;
    float limit;

    static __device__ __forceinline__ int low_row(int tile, int r) { return 2 * (8 * tile + r); }
    static __device__ __forceinline__ int high_row(int tile, int r) { return 2 * (8 * tile + r) + 1; }

    __device__ __forceinline__ float2 before(i64 low, i64 high) const { return bias ? make_float2(to_float(bias[low]), to_float(bias[high])) : float2(); }

    __device__ __forceinline__ void operator()(float2 added, i64 slot, int tile, int r, float gate, float up) const {
        const int output = low_row(tile, r);
        if (output >= outputs) return;
        gate += added.x, up += added.y;
        if (low) gate += low[slot * outputs + output], up += low[slot * outputs + output + 1];
        h[slot * (outputs / 2) + output / 2] = from_float<bf16>(swiglu(gate, up, limit));
    }
};

struct Down {
    float* y;
    const bf16* bias;
    const float* low;
    int outputs;

    static __device__ __forceinline__ int low_row(int tile, int r) { return 16 * tile + r; }
    static __device__ __forceinline__ int high_row(int tile, int r) { return 16 * tile + r + 8; }

    __device__ __forceinline__ float2 before(i64 low, i64 high) const { return bias ? make_float2(to_float(bias[low]), to_float(bias[high])) : float2(); }

    __device__ __forceinline__ void put(i64 at, int output, float value) const {
        if (output < outputs) y[at + output] = value + (low ? low[at + output] : 0.f);
    }

    __device__ __forceinline__ void operator()(float2 added, i64 slot, int tile, int r, float a, float b) const {
        put(slot * outputs, low_row(tile, r), a + added.x);
        put(slot * outputs, high_row(tile, r), b + added.y);
    }
};

template <class Matrix, int MOST, int COLUMNS, int U, class Make, class Write>
__device__ __forceinline__ void experts(const bf16* x, int k, const Make& make, const Write& write, const u32* groups, const u32* slots, const Sizes& s) {
    extern __shared__ __align__(16) uint4 xs[];
    const u32* g = groups + 3 * blockIdx.y;
    const Group group = {(int)g[0], (int)g[1], (int)g[2]};
    if (group.count == 0) return;
    slots += group.first;
    const Place place = place_of(s.split);
    const i64 first = (i64)group.expert * s.outputs;
    const i64 low = first + min(Write::low_row(place.tile, place.r), s.outputs - 1), high = first + min(Write::high_row(place.tile, place.r), s.outputs - 1);
    const Matrix matrix = make(low, high);
    const float2 added = write.before(low, high);
    const float choices = 1.f / k; // of a token; the product is exact for slots below 2^22
    const auto row = [&](int column) { return x + (i64)(u32)((slots[column] + 0.5f) * choices) * s.inputs; };
    with_tiles<MOST>(group.count, [&](auto tiles) {
        constexpr int NT = decltype(tiles)::COUNT;
        float sum[NT][4];
        if (!product<Matrix, NT, COLUMNS, U>(sum, matrix, row, place, s, group.count, xs)) return;
        each_sum(sum, place.q, group.count, [&](int column, float a, float b) { write(added, slots[column], place.tile, place.r, a, b); });
    });
}

// MOST is in tiles of 8 rows, COLUMNS the rows of x that shared memory has room for, U the units that are read ahead.
#define ROWS_EXPERTS(n, MOST, COLUMNS, PACKED_U, DENSE_U, THREADS, BLOCKS)                                                                             \
    KERNEL __launch_bounds__(THREADS, BLOCKS)                                                                                                          \
        rows_gate_up_##n(bf16* __restrict__ h, const bf16* __restrict__ x, const uint8_t* __restrict__ blocks, const uint8_t* __restrict__ scales,     \
                         const bf16* __restrict__ bias, const float* __restrict__ low, const u32* __restrict__ groups, const u32* __restrict__ slots,  \
                         int inputs, int outputs, int k, float limit, int parts, int split, int chunk) {                                               \
        experts<PackedRows, MOST, COLUMNS, PACKED_U>(                                                                                                  \
            x, k, [&](i64 low, i64 high) { return PackedRows(blocks, scales, low, high, inputs); }, GateUp{h, bias, low, outputs, limit}, groups, slots,\
            Sizes{inputs, outputs, parts, split, chunk});                                                                                              \
    }                                                                                                                                                  \
    KERNEL __launch_bounds__(THREADS, BLOCKS)                                                                                                          \
        rows_down_##n(float* __restrict__ y, const bf16* __restrict__ h, const uint8_t* __restrict__ blocks, const uint8_t* __restrict__ scales,       \
                      const bf16* __restrict__ bias, const float* __restrict__ low, const u32* __restrict__ groups, const u32* __restrict__ slots,     \
                      int inputs, int outputs, int parts, int split, int chunk) {                                                                      \
        experts<PackedRows, MOST, COLUMNS, PACKED_U>(                                                                                                  \
            h, 1, [&](i64 low, i64 high) { return PackedRows(blocks, scales, low, high, inputs); }, Down{y, bias, low, outputs}, groups, slots,        \
            Sizes{inputs, outputs, parts, split, chunk});                                                                                              \
    }                                                                                                                                                  \
    KERNEL __launch_bounds__(THREADS, BLOCKS)                                                                                                          \
        rows_dense_gate_up_##n(bf16* __restrict__ h, const bf16* __restrict__ x, const bf16* __restrict__ w, const bf16* __restrict__ bias,            \
                               const float* __restrict__ low, const u32* __restrict__ groups, const u32* __restrict__ slots, int inputs,               \
                               int outputs, int k, float limit, int parts, int split, int chunk) {                                                     \
        experts<DenseRows, MOST, COLUMNS, DENSE_U>(                                                                                                    \
            x, k, [&](i64 low, i64 high) { return DenseRows(w, low, high, inputs); }, GateUp{h, bias, low, outputs, limit}, groups, slots,             \
            Sizes{inputs, outputs, parts, split, chunk});                                                                                              \
    }                                                                                                                                                  \
    KERNEL __launch_bounds__(THREADS, BLOCKS)                                                                                                          \
        rows_dense_down_##n(float* __restrict__ y, const bf16* __restrict__ h, const bf16* __restrict__ w, const bf16* __restrict__ bias,              \
                            const float* __restrict__ low, const u32* __restrict__ groups, const u32* __restrict__ slots, int inputs,                  \
                            int outputs, int parts, int split, int chunk) {                                                                            \
        experts<DenseRows, MOST, COLUMNS, DENSE_U>(                                                                                                    \
            h, 1, [&](i64 low, i64 high) { return DenseRows(w, low, high, inputs); }, Down{y, bias, low, outputs}, groups, slots,                      \
            Sizes{inputs, outputs, parts, split, chunk});                                                                                              \
    }

ROWS_EXPERTS(1, 1, 1, 2, 4, 256, 3)
ROWS_EXPERTS(8, 1, 8, 2, 4, 256, 3)
ROWS_EXPERTS(48, 6, 48, 2, 4, 512, 1)
