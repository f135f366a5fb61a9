// Rows between token order and expert order. A warp takes a token's row; 16 bytes a lane where the width allows.
#include "common.cuh"

// Each token's row is read once and written to its k places.
KERNEL permute_gather(bf16* __restrict__ y, const bf16* __restrict__ x, const u32* __restrict__ inverse, i64 tokens, int width, int k) {
    const i64 token = warp_row();
    const int lane = threadIdx.x % 32;
    if (token >= tokens) return;
    x += token * width, inverse += token * k;
    if (width % 8 == 0) {
#pragma unroll 4
        for (int i = lane; i < width / 8; i += 32) {
            const uint4 value = reinterpret_cast<const uint4*>(x)[i];
            for (int j = 0; j < k; j++) reinterpret_cast<uint4*>(y + (i64)inverse[j] * width)[i] = value;
        }
    } else {
        for (int i = lane; i < width; i += 32)
            for (int j = 0; j < k; j++) y[(i64)inverse[j] * width + i] = x[i];
    }
}

// out[t] = sum over j of scale(j) * y[inverse[t*k + j]] (+ residual[t] if there is one), summed in f32.
template <typename Scale>
__device__ __forceinline__ void sum_rows_of(bf16* __restrict__ out, const bf16* __restrict__ residual, const bf16* __restrict__ y,
                                            const u32* __restrict__ inverse, int width, int k, Scale scale) {
    const int lane = threadIdx.x % 32;
    if (width % 8 == 0) {
#pragma unroll 2
        for (int i = lane; i < width / 8; i += 32) {
            float sum[8] = {}, f[8];
            if (residual) unpack8(reinterpret_cast<const uint4*>(residual)[i], sum);
#pragma unroll 4
            for (int j = 0; j < k; j++) {
                unpack8(reinterpret_cast<const uint4*>(y + (i64)inverse[j] * width)[i], f);
                const float s = scale(j);
#pragma unroll
                for (int e = 0; e < 8; e++) sum[e] += s * f[e];
            }
            reinterpret_cast<uint4*>(out)[i] = pack8(sum);
        }
    } else {
        for (int i = lane; i < width; i += 32) {
            float sum = residual ? to_float(residual[i]) : 0.f;
            for (int j = 0; j < k; j++) sum += scale(j) * to_float(y[(i64)inverse[j] * width + i]);
            out[i] = from_float<bf16>(sum);
        }
    }
}

KERNEL permute_gather_backward(bf16* __restrict__ dx, const bf16* __restrict__ add, const bf16* __restrict__ dy, const u32* __restrict__ inverse, i64 tokens, int width, int k) {
    const i64 token = warp_row();
    if (token >= tokens) return;
    sum_rows_of(dx + token * width, add ? add + token * width : nullptr, dy, inverse + token * k, width, k, [](int) { return 1.f; });
}

KERNEL permute_combine(bf16* __restrict__ out, const bf16* __restrict__ residual, const bf16* __restrict__ y, const float* __restrict__ weights,
                       const u32* __restrict__ inverse, i64 tokens, int width, int k) {
    const i64 token = warp_row();
    if (token >= tokens) return;
    const float* w = weights + token * k;
    sum_rows_of(out + token * width, residual ? residual + token * width : nullptr, y, inverse + token * k, width, k, [w](int j) { return w[j]; });
}
