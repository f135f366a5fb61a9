// MXFP4 to bf16: value = E2M1(nibble) * 2^(scale - 127), low nibble first. A nibble's exponent and mantissa bits
// placed at bits 24..22 of an f32 are the value times 2^-126 (zero and subnormals included), so one product by
// 2^126 and one by the scale are exact. A thread turns four words of 8 nibbles into 16 bytes each.
#include "common.cuh"

KERNEL mxfp4_dequantize(bf16* __restrict__ out, const uint8_t* __restrict__ blocks, const uint8_t* __restrict__ scales,
                        const u32* __restrict__ experts, i64 per_expert, int n) {
    const i64 words = per_expert / 8, source = experts ? experts[blockIdx.y] : blockIdx.y;
    const u32* in = reinterpret_cast<const u32*>(blocks) + source * words;
    const uint8_t* scale = scales + source * (words / 4);
    uint4* to = reinterpret_cast<uint4*>(out) + blockIdx.y * words;
    const i64 first = (i64)blockIdx.x * 1024 + threadIdx.x;
    u32 word[4];
    int exponent[4];
#pragma unroll
    for (int p = 0; p < 4; p++) {
        const i64 i = first + p * 256;
        if (i < words) word[p] = __ldg(in + i), exponent[p] = scale[i / 4];
    }
#pragma unroll
    for (int p = 0; p < 4; p++) {
        const i64 i = first + p * 256;
        if (i >= words) continue;
        const int e = exponent[p], capped = min(e, 254); // 2^(255-127) is no f32: its last factor 2 goes into the other
        const float lift = __uint_as_float(e == 255 ? 254u << 23 : 253u << 23);
        const float power = __uint_as_float(capped == 0 ? 1u << 22 : (u32)capped << 23);
        float f[8];
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const u32 nibble = word[p] >> (4 * j);
            f[j] = __uint_as_float((nibble & 8u) << 28 | (nibble & 7u) << 22) * lift * power;
        }
        to[i] = pack8(f);
    }
}
