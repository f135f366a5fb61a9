// The router: the k largest logits of each token, the softmax over those kept, and its backward.
#include "common.cuh"

// Order of choice: larger logit first, then the lower index; NaN counts as -inf.
__device__ __forceinline__ bool before(float a, int i, float b, int j) { return a > b || (a == b && i < j); }

// Each round takes the first candidate that comes after the one chosen last, so any number of experts needs no state.
KERNEL router_top_k(u32* __restrict__ ids, const float* __restrict__ logits, int tokens, int experts, int k) {
    const i64 token = warp_row();
    const int lane = threadIdx.x % 32;
    if (token >= tokens) return;
    logits += token * experts;
    float last = INFINITY;
    int last_id = -1;
    for (int round = 0; round < k; round++) {
        float best = -INFINITY;
        int best_id = experts;
        for (int e = lane; e < experts; e += 32) {
            const float raw = logits[e], v = isnan(raw) ? -INFINITY : raw;
            if (before(last, last_id, v, e) && before(v, e, best, best_id)) best = v, best_id = e;
        }
#pragma unroll
        for (int o = 16; o > 0; o >>= 1) {
            const float v = __shfl_xor_sync(FULL, best, o);
            const int id = __shfl_xor_sync(FULL, best_id, o);
            if (before(v, id, best, best_id)) best = v, best_id = id;
        }
        if (lane == 0) ids[token * k + round] = (u32)min(best_id, experts - 1);
        last = best, last_id = best_id;
    }
}

KERNEL router_weights(float* __restrict__ weights, const float* __restrict__ logits, const u32* __restrict__ ids, int tokens, int experts, int k) {
    const i64 token = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (token >= tokens) return;
    logits += token * experts, ids += token * k, weights += token * k;
    float top = -INFINITY, sum = 0.f;
    for (int j = 0; j < k; j++) top = fmaxf(top, logits[ids[j]]);
    for (int j = 0; j < k; j++) sum += expf(logits[ids[j]] - top);
    for (int j = 0; j < k; j++) weights[j] = expf(logits[ids[j]] - top) / sum;
}

// dlogits = w * (dw - sum(w*dw)) on the kept experts, 0 elsewhere.
KERNEL router_weights_backward(float* __restrict__ dlogits, const float* __restrict__ weights, const u32* __restrict__ ids,
                               const float* __restrict__ dweights, int tokens, int experts, int k) {
    const i64 token = warp_row();
    const int lane = threadIdx.x % 32;
    if (token >= tokens) return;
    weights += token * k, ids += token * k, dweights += token * k, dlogits += token * experts;
    float dot = 0.f;
    for (int j = 0; j < k; j++) dot += weights[j] * dweights[j];
    for (int e = lane; e < experts; e += 32) {
        float d = 0.f;
        for (int j = 0; j < k; j++)
            if (ids[j] == (u32)e) d += weights[j] * (dweights[j] - dot);
        dlogits[e] = d;
    }
}
