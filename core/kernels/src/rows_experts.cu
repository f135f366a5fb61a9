// The two matrices of each expert for the rows of a few tokens (rows.cuh), packed or dense. A block takes some outputs of one group of
// rows of one expert; groups without rows return at once. Slot t K + j is choice j of token t.
#include "rows.cuh"
#include "swiglu.cuh"

__device__ __forceinline__ Group group_of(const u32* groups) {
    const u32* g = groups + 3 * blockIdx.y;
    return {(int)g[0], (int)g[1], (int)g[2]};
}

// Gate and up of h[slot, i] are outputs 2 i and 2 i + 1.
template <class Matrix, int MOST, int COLUMNS, int U, class Make>
__device__ __forceinline__ void gate_up(bf16* __restrict__ h, const bf16* __restrict__ x, const Make& make, const bf16* __restrict__ bias, const float* __restrict__ low,
                                        const u32* __restrict__ groups, const u32* __restrict__ slots, int k, float limit, const Sizes& s) {
    extern __shared__ __align__(16) uint4 xs[];
    const Group group = group_of(groups);
    if (group.count == 0) return;
    slots += group.first;
    const Place place = place_of(s.split);
    const int output = 2 * (8 * place.tile + place.r), known = min(output, s.outputs - 2);
    const i64 row = (i64)group.expert * s.outputs + known;
    const Matrix matrix = make(row, row + 1);
    const float gate_bias = bias ? to_float(bias[row]) : 0.f, up_bias = bias ? to_float(bias[row + 1]) : 0.f;
    with_tiles<MOST>(group.count, [&](auto tiles) {
        constexpr int NT = decltype(tiles)::COUNT;
        float sum[NT][4];
        const auto source = [&](int column) { return x + (i64)(slots[column] / k) * s.inputs; };
        if (!product<Matrix, NT, COLUMNS, U>(sum, matrix, source, place, s, group.count, xs) || output >= s.outputs) return;
        each_sum(sum, place.q, group.count, [&](int column, float gate, float up) {
            const i64 slot = slots[column];
            gate += gate_bias, up += up_bias;
            if (low) gate += low[slot * s.outputs + output], up += low[slot * s.outputs + output + 1];
            h[slot * (s.outputs / 2) + output / 2] = from_float<bf16>(swiglu(gate, up, limit));
        });
    });
}

template <class Matrix, int MOST, int COLUMNS, int U, class Make>
__device__ __forceinline__ void down(float* __restrict__ y, const bf16* __restrict__ h, const Make& make, const bf16* __restrict__ bias, const float* __restrict__ low,
                                     const u32* __restrict__ groups, const u32* __restrict__ slots, const Sizes& s) {
    extern __shared__ __align__(16) uint4 xs[];
    const Group group = group_of(groups);
    if (group.count == 0) return;
    slots += group.first;
    const Place place = place_of(s.split);
    const int output[2] = {16 * place.tile + place.r, 16 * place.tile + place.r + 8};
    const i64 first = (i64)group.expert * s.outputs;
    const i64 row[2] = {first + min(output[0], s.outputs - 1), first + min(output[1], s.outputs - 1)};
    const Matrix matrix = make(row[0], row[1]);
    const float biases[2] = {bias ? to_float(bias[row[0]]) : 0.f, bias ? to_float(bias[row[1]]) : 0.f};
    with_tiles<MOST>(group.count, [&](auto tiles) {
        constexpr int NT = decltype(tiles)::COUNT;
        float sum[NT][4];
        const auto source = [&](int column) { return h + (i64)slots[column] * s.inputs; };
        if (!product<Matrix, NT, COLUMNS, U>(sum, matrix, source, place, s, group.count, xs)) return;
        each_sum(sum, place.q, group.count, [&](int column, float a, float b) {
            const i64 at = (i64)slots[column] * s.outputs;
            const float values[2] = {a + biases[0], b + biases[1]};
#pragma unroll
            for (int i = 0; i < 2; i++)
                if (output[i] < s.outputs) y[at + output[i]] = values[i] + (low ? low[at + output[i]] : 0.f);
        });
    });
}

// MOST is in tiles of 8 rows, COLUMNS the rows of x that shared memory has room for, U the units that are read ahead.
#define ROWS_EXPERTS(n, MOST, COLUMNS, PACKED_U, DENSE_U, BLOCKS)                                                                                          \
    KERNEL __launch_bounds__(256, BLOCKS)                                                                                                                  \
        rows_gate_up_##n(bf16* __restrict__ h, const bf16* __restrict__ x, const uint8_t* __restrict__ blocks, const uint8_t* __restrict__ scales,         \
                         const bf16* __restrict__ bias, const float* __restrict__ low, const u32* __restrict__ groups, const u32* __restrict__ slots,      \
                         int inputs, int outputs, int k, float limit, int parts, int split, int chunk) {                                                   \
        gate_up<PackedRows, MOST, COLUMNS, PACKED_U>(                                                                                                      \
            h, x, [&](i64 low, i64 high) { return PackedRows(blocks, scales, low, high, inputs); }, bias, low, groups, slots, k, limit,                    \
            Sizes{inputs, outputs, parts, split, chunk});                                                                                                  \
    }                                                                                                                                                      \
    KERNEL __launch_bounds__(256, BLOCKS)                                                                                                                  \
        rows_down_##n(float* __restrict__ y, const bf16* __restrict__ h, const uint8_t* __restrict__ blocks, const uint8_t* __restrict__ scales,           \
                      const bf16* __restrict__ bias, const float* __restrict__ low, const u32* __restrict__ groups, const u32* __restrict__ slots,         \
                      int inputs, int outputs, int parts, int split, int chunk) {                                                                          \
        down<PackedRows, MOST, COLUMNS, PACKED_U>(                                                                                                         \
            y, h, [&](i64 low, i64 high) { return PackedRows(blocks, scales, low, high, inputs); }, bias, low, groups, slots,                              \
            Sizes{inputs, outputs, parts, split, chunk});                                                                                                  \
    }                                                                                                                                                      \
    KERNEL __launch_bounds__(256, BLOCKS)                                                                                                                  \
        rows_dense_gate_up_##n(bf16* __restrict__ h, const bf16* __restrict__ x, const bf16* __restrict__ w, const bf16* __restrict__ bias,                \
                               const float* __restrict__ low, const u32* __restrict__ groups, const u32* __restrict__ slots, int inputs, int outputs,      \
                               int k, float limit, int parts, int split, int chunk) {                                                                      \
        gate_up<DenseRows, MOST, COLUMNS, DENSE_U>(                                                                                                        \
            h, x, [&](i64 low, i64 high) { return DenseRows(w, low, high, inputs); }, bias, low, groups, slots, k, limit,                                  \
            Sizes{inputs, outputs, parts, split, chunk});                                                                                                  \
    }                                                                                                                                                      \
    KERNEL __launch_bounds__(256, BLOCKS)                                                                                                                  \
        rows_dense_down_##n(float* __restrict__ y, const bf16* __restrict__ h, const bf16* __restrict__ w, const bf16* __restrict__ bias,                  \
                            const float* __restrict__ low, const u32* __restrict__ groups, const u32* __restrict__ slots, int inputs, int outputs,         \
                            int parts, int split, int chunk) {                                                                                             \
        down<DenseRows, MOST, COLUMNS, DENSE_U>(                                                                                                           \
            y, h, [&](i64 low, i64 high) { return DenseRows(w, low, high, inputs); }, bias, low, groups, slots,                                            \
            Sizes{inputs, outputs, parts, split, chunk});                                                                                                  \
    }

ROWS_EXPERTS(1, 1, 1, 2, 4, 3)
ROWS_EXPERTS(8, 1, 8, 2, 4, 3)
ROWS_EXPERTS(48, 6, 48, 2, 4, 2)
