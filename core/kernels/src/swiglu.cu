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

// Backward through the weighted sum and the activation: dh is the gradient by h of an expert's row before the token's weight for that
// expert. dgate_up may be gate_up. dweights gets <h, dh> and the bias's part, by_bias [T, experts].
KERNEL swiglu_backward(bf16* dgate_up, float* __restrict__ dweights, const bf16* gate_up, const bf16* __restrict__ dh, const float* __restrict__ weights,
                       const u32* __restrict__ order, const u32* __restrict__ ids, const bf16* __restrict__ by_bias, i64 rows, int width, int k,
                       int experts, float limit) {
    const i64 row = warp_row();
    const int lane = threadIdx.x % 32;
    if (row >= rows) return;
    const u32 pair = order[row];
    const float weight = weights[pair];
    dgate_up += row * width * 2, gate_up += row * width * 2, dh += row * width;
    float dot = 0.f;
    if (width % 4 == 0) {
#pragma unroll 4
        for (int i = lane; i < width / 4; i += 32) {
            float f[8], d[4], out[8];
            unpack8(reinterpret_cast<const uint4*>(gate_up)[i], f);
            wide_load4(dh + 4 * i, d);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                dot += d[j] * swiglu(f[2 * j], f[2 * j + 1], limit);
                swiglu_gradient(f[2 * j], f[2 * j + 1], weight * d[j], limit, out[2 * j], out[2 * j + 1]);
            }
            reinterpret_cast<uint4*>(dgate_up)[i] = pack8(out);
        }
    } else {
        for (int i = lane; i < width; i += 32) {
            const float g = to_float(gate_up[2 * i]), u = to_float(gate_up[2 * i + 1]), d = to_float(dh[i]);
            float dg, du;
            dot += d * swiglu(g, u, limit);
            swiglu_gradient(g, u, weight * d, limit, dg, du);
            dgate_up[2 * i] = from_float<bf16>(dg), dgate_up[2 * i + 1] = from_float<bf16>(du);
        }
    }
    dot = warp_sum(dot);
    if (lane == 0) dweights[pair] = dot + to_float(by_bias[(i64)(pair / (u32)k) * experts + ids[pair]]);
}
