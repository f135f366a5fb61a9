// The activation of the experts and its gradient, on their own.
#include "swiglu.cuh"

KERNEL swiglu_forward(bf16* __restrict__ h, const bf16* __restrict__ gate_up, i64 count, float limit) {
    float g[2][8];
#pragma unroll
    for (int p = 0; p < 2; p++) {
        const i64 i = element4(p);
        if (wide4(h, i, count)) {
            unpack8(reinterpret_cast<const uint4*>(gate_up)[i / 4], g[p]);
        } else {
#pragma unroll
            for (int j = 0; j < 8; j++) g[p][j] = 2 * i + j < 2 * count ? to_float(gate_up[2 * i + j]) : 0.f;
        }
    }
#pragma unroll
    for (int p = 0; p < 2; p++) {
        float out[4];
#pragma unroll
        for (int j = 0; j < 4; j++) out[j] = swiglu(g[p][2 * j], g[p][2 * j + 1], limit);
        store4(h, element4(p), count, out);
    }
}

KERNEL swiglu_backward(bf16* __restrict__ dgate_up, const bf16* __restrict__ gate_up, const bf16* __restrict__ dh, i64 count, float limit) {
    float g[2][8], d[2][4];
#pragma unroll
    for (int p = 0; p < 2; p++) {
        const i64 i = element4(p);
        load4(dh, i, count, d[p]);
        if (i + 4 <= count) {
            unpack8(reinterpret_cast<const uint4*>(gate_up)[i / 4], g[p]);
        } else {
#pragma unroll
            for (int j = 0; j < 8; j++) g[p][j] = 2 * i + j < 2 * count ? to_float(gate_up[2 * i + j]) : 0.f;
        }
    }
#pragma unroll
    for (int p = 0; p < 2; p++) {
        const i64 i = element4(p);
        float out[8];
#pragma unroll
        for (int j = 0; j < 4; j++) swiglu_gradient(g[p][2 * j], g[p][2 * j + 1], d[p][j], limit, out[2 * j], out[2 * j + 1]);
        if (i + 4 <= count) {
            reinterpret_cast<uint4*>(dgate_up)[i / 4] = pack8(out);
        } else {
#pragma unroll
            for (int j = 0; j < 8; j++)
                if (2 * i + j < 2 * count) dgate_up[2 * i + j] = from_float<bf16>(out[j]);
        }
    }
}
