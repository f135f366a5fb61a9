// gpt-oss's clamped swiglu on interleaved (gate, up): gate = min(g, limit), up = clamp(u, -limit, limit),
// h = (up + 1) * gate * sigmoid(1.702 * gate). Outside the clamps the gradient is 0, at the bound it passes.
#include "common.cuh"

constexpr float ALPHA = 1.702f;

// Written so that a NaN stays one.
__device__ __forceinline__ float at_most(float x, float limit) { return x > limit ? limit : x; }
__device__ __forceinline__ float within(float x, float limit) { return x > limit ? limit : (x < -limit ? -limit : x); }
__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.f, 1.f + __expf(-x)); }

__device__ __forceinline__ float activate(float g, float u, float limit) {
    const float gate = at_most(g, limit), up = within(u, limit);
    return (up + 1.f) * (gate * sigmoid(ALPHA * gate));
}

__device__ __forceinline__ void differentiate(float g, float u, float dh, float limit, float& dg, float& du) {
    const float gate = at_most(g, limit), up = within(u, limit), s = sigmoid(ALPHA * gate), act = gate * s;
    dg = g > limit ? 0.f : dh * (up + 1.f) * (s + ALPHA * act * (1.f - s));
    du = u > limit || u < -limit ? 0.f : dh * act;
}

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
        for (int j = 0; j < 4; j++) out[j] = activate(g[p][2 * j], g[p][2 * j + 1], limit);
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
        for (int j = 0; j < 4; j++) differentiate(g[p][2 * j], g[p][2 * j + 1], d[p][j], limit, out[2 * j], out[2 * j + 1]);
        if (i + 4 <= count) {
            reinterpret_cast<uint4*>(dgate_up)[i / 4] = pack8(out);
        } else {
#pragma unroll
            for (int j = 0; j < 8; j++)
                if (2 * i + j < 2 * count) dgate_up[2 * i + j] = from_float<bf16>(out[j]);
        }
    }
}
