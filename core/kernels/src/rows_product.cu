// y = x w^T (+ bias) (+ residual) for a few rows (rows.cuh). Without slots a group is the next rows of x.
#include "rows.cuh"

template <typename T, int MOST, int COLUMNS, int U>
__device__ __forceinline__ void times(T* __restrict__ y, const bf16* __restrict__ x, const bf16* __restrict__ w, const bf16* __restrict__ bias,
                                     const bf16* __restrict__ residual, int count, const Sizes& s) {
    extern __shared__ __align__(16) uint4 xs[];
    const int first = blockIdx.y * COLUMNS;
    count = min(count - first, COLUMNS);
    const Place place = place_of(s.split);
    const int output[2] = {16 * place.tile + place.r, 16 * place.tile + place.r + 8};
    const int row[2] = {min(output[0], s.outputs - 1), min(output[1], s.outputs - 1)};
    const float biases[2] = {bias ? to_float(bias[row[0]]) : 0.f, bias ? to_float(bias[row[1]]) : 0.f};
    const DenseRows matrix(w, row[0], row[1], s.inputs);
    with_tiles<MOST>(count, [&](auto tiles) {
        constexpr int NT = decltype(tiles)::COUNT;
        float sum[NT][4];
        const auto source = [&](int column) { return x + (i64)(first + column) * s.inputs; };
        if (!product<DenseRows, NT, COLUMNS, U>(sum, matrix, source, place, s, count, xs)) return;
        each_sum(sum, place.q, count, [&](int column, float a, float b) {
            const i64 at = (i64)(first + column) * s.outputs;
            const float values[2] = {a + biases[0], b + biases[1]};
#pragma unroll
            for (int i = 0; i < 2; i++)
                if (output[i] < s.outputs) y[at + output[i]] = from_float<T>(values[i] + (residual ? to_float(residual[at + output[i]]) : 0.f));
        });
    });
}

#define ROWS_PRODUCT(n, MOST, COLUMNS, U, BLOCKS)                                                                                                      \
    KERNEL __launch_bounds__(256, BLOCKS)                                                                                                              \
        rows_product_##n(bf16* __restrict__ y, const bf16* __restrict__ x, const bf16* __restrict__ w, const bf16* __restrict__ bias,                  \
                         const bf16* __restrict__ residual, int rows, int inputs, int outputs, int parts, int split, int chunk) {                      \
        times<bf16, MOST, COLUMNS, U>(y, x, w, bias, residual, rows, Sizes{inputs, outputs, parts, split, chunk});                                     \
    }                                                                                                                                                  \
    KERNEL __launch_bounds__(256, BLOCKS)                                                                                                              \
        rows_logits_##n(float* __restrict__ y, const bf16* __restrict__ x, const bf16* __restrict__ w, const bf16* __restrict__ bias, int rows,        \
                        int inputs, int outputs, int parts, int split, int chunk) {                                                                    \
        times<float, MOST, COLUMNS, U>(y, x, w, bias, nullptr, rows, Sizes{inputs, outputs, parts, split, chunk});                                     \
    }

ROWS_PRODUCT(1, 1, 1, 8, 2)
ROWS_PRODUCT(8, 1, 8, 8, 2)
ROWS_PRODUCT(64, 8, 64, 2, 1)
