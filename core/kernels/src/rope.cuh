// The rotation of eight pairs of a head: x1' = x1*c - x2*s, x2' = x2*c + x1*s with x1, x2 the halves of the head.
#pragma once
#include "common.cuh"

// `low` and `high` are eight of the first and of the second half, `table` is where their angles begin; `sign` -1 transposes.
__device__ __forceinline__ void rotate(uint4& low, uint4& high, const float* cos, const float* sin, i64 table, float sign) {
    float a[8], b[8], c[8], s[8];
    unpack8(low, a);
    unpack8(high, b);
    wide_load4(cos + table, c), wide_load4(cos + table + 4, c + 4);
    wide_load4(sin + table, s), wide_load4(sin + table + 4, s + 4);
#pragma unroll
    for (int j = 0; j < 8; j++) {
        const float first = a[j], sine = sign * s[j];
        a[j] = first * c[j] - b[j] * sine;
        b[j] = b[j] * c[j] + first * sine;
    }
    low = pack8(a), high = pack8(b);
}
