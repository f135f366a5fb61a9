// AdamW (Loshchilov and Hutter, 2019) in the order of torch.optim.AdamW: decay, moments, step. f32, in place.
#include "common.cuh"

KERNEL adamw_step(float* __restrict__ p, const float* __restrict__ g, float* __restrict__ m, float* __restrict__ v, i64 count, float grad_scale,
                  float decay, float beta1, float beta2, float step_size, float sqrt_bc2, float eps) {
#pragma unroll
    for (int pass = 0; pass < 2; pass++) {
        const i64 i = element4(pass);
        float ps[4], gs[4], ms[4], vs[4];
        load4(p, i, count, ps);
        load4(g, i, count, gs);
        load4(m, i, count, ms);
        load4(v, i, count, vs);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float grad = gs[j] * grad_scale;
            ms[j] += (grad - ms[j]) * (1.f - beta1);
            vs[j] = vs[j] * beta2 + grad * grad * (1.f - beta2);
            ps[j] = ps[j] * decay - step_size * (ms[j] / (sqrtf(vs[j]) / sqrt_bc2 + eps));
        }
        store4(p, i, count, ps);
        store4(m, i, count, ms);
        store4(v, i, count, vs);
    }
}
