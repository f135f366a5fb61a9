// Low-rank updates of rows grouped by expert (or of one group): the narrow products, whose cost is reading the rows once, and the
// packing of the f32 factors. Tensor cores by mma.sync m16n8k16. Its sum may take the 16 inner indices in any order as long as both operands
// agree, so each lane reads 16 contiguous bytes and uses them as they come.
#include "common.cuh"

__device__ __forceinline__ uint4 load16(const bf16* p, bool valid) {
    return valid ? __ldg(reinterpret_cast<const uint4*>(p)) : make_uint4(0, 0, 0, 0);
}

constexpr int DOWN_ROWS = 32, DOWN_WARPS = 8; // rows a block of lora_down takes, warps that share k

// z = x a^T: [rows, k] by [groups, 8 NT, k] to [rows, 8 NT]. Without offsets all rows are one group.
template <int NT>
__device__ __forceinline__ void down(bf16* __restrict__ z, const bf16* __restrict__ x, const bf16* __restrict__ a, const u32* __restrict__ offsets,
                                     int groups, int rows, int k) {
    int group = 0, block = blockIdx.x;
    u32 first = 0, end = rows;
    for (; offsets && group < groups; group++) {
        end = offsets[group + 1];
        const int blocks = (end - first + DOWN_ROWS - 1) / DOWN_ROWS;
        if (block < blocks) break;
        block -= blocks, first = end;
    }
    if (group == groups) return;
    constexpr int SLOTS = NT > 4 ? DOWN_WARPS / 2 : DOWN_WARPS, NUMBERS = 2 * NT * 4; // two warps share a slot where there is no room for all
    __shared__ float parts[SLOTS][NUMBERS][32];
    const int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4, warp = threadIdx.x / 32;
    const u32 row = first + block * DOWN_ROWS + g;
    const bf16 *from = x + (i64)row * k, *w = a + ((i64)group * NT * 8 + g) * k;
    float c[2][NT][4] = {};
#pragma unroll 2
    for (int base = warp * 32; base < k; base += DOWN_WARPS * 32) {
        const int k0 = base + q * 8;
        uint4 u[4];
#pragma unroll
        for (int i = 0; i < 4; i++) u[i] = load16(from + (i64)i * 8 * k + k0, k0 < k && row + i * 8 < end);
#pragma unroll
        for (int n = 0; n < NT; n++) {
            const uint4 b = load16(w + (i64)n * 8 * k + k0, k0 < k);
#pragma unroll
            for (int m = 0; m < 2; m++) {
                const uint4 low = u[2 * m], high = u[2 * m + 1];
                const u32 first[4] = {low.x, high.x, low.y, high.y}, second[4] = {low.z, high.z, low.w, high.w};
                mma(c[m][n], first, b.x, b.y);
                mma(c[m][n], second, b.z, b.w);
            }
        }
    }
    if (SLOTS < DOWN_WARPS) {
        if (warp >= SLOTS) {
#pragma unroll
            for (int i = 0; i < NUMBERS; i++) parts[warp - SLOTS][i][lane] = c[i / (NT * 4)][i / 4 % NT][i % 4];
        }
        __syncthreads();
        if (warp < SLOTS) {
#pragma unroll
            for (int i = 0; i < NUMBERS; i++) c[i / (NT * 4)][i / 4 % NT][i % 4] += parts[warp][i][lane];
        }
    }
    if (warp < SLOTS) {
#pragma unroll
        for (int i = 0; i < NUMBERS; i++) parts[warp][i][lane] = c[i / (NT * 4)][i / 4 % NT][i % 4];
    }
    __syncthreads();
    // Pairs of neighbouring columns, one a thread: 16 halves of rows by NT by 4 lanes of a row.
    for (int pair = threadIdx.x; pair < DOWN_ROWS * NT * 4; pair += DOWN_WARPS * 32) {
        const int at = pair % 4, n = pair / 4 % NT, local = pair / 4 / NT;
        const int m = local / 16, half = local / 8 % 2, from_lane = local % 8 * 4 + at, i = (m * NT + n) * 4 + half * 2;
        float low = 0.f, high = 0.f;
#pragma unroll
        for (int v = 0; v < SLOTS; v++) low += parts[v][i][from_lane], high += parts[v][i + 1][from_lane];
        const u32 out = first + block * DOWN_ROWS + local;
        if (out < end) *reinterpret_cast<u32*>(z + (i64)out * NT * 8 + n * 8 + at * 2) = pack2(low, high);
    }
}

// out[group, i, r] = scale * sum over the group's rows of x[row, i] * z[row, r]; 64 columns of x a block, eight warps share the rows.
// Split s of gridDim.z sums its own rows into out + s * split_stride.
template <int NT>
__device__ __forceinline__ void gradient(float* __restrict__ out, const bf16* __restrict__ x, const bf16* __restrict__ z, const u32* __restrict__ offsets,
                                         int width, int rank, i64 group_stride, i64 i_stride, i64 r_stride, i64 split_stride, float scale) {
    __shared__ float parts[NT * 16 * 32];
    const int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4, warp = threadIdx.x / 32;
    const u32 first = offsets[blockIdx.y], end = offsets[blockIdx.y + 1];
    const int column = blockIdx.x * 64 + g * 8;
    const bool in = column < width;
    float c[4][NT][4] = {};
#pragma unroll 2
    for (u32 base = first + (blockIdx.z * 8 + warp) * 16; base < end; base += 128 * gridDim.z) {
        u32 w[4][4];
        bf16 b[4][NT];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const u32 row = base + 2 * q + (i & 1) + (i & 2) * 4;
            const uint4 v = load16(x + (i64)row * width + column, in && row < end);
            w[i][0] = v.x, w[i][1] = v.y, w[i][2] = v.z, w[i][3] = v.w;
#pragma unroll
            for (int n = 0; n < NT; n++) b[i][n] = row < end ? z[(i64)row * NT * 8 + n * 8 + g] : __float2bfloat16(0.f);
        }
#pragma unroll
        for (int t = 0; t < 4; t++) {
            const u32 a[4] = {__byte_perm(w[0][t], w[1][t], 0x5410), __byte_perm(w[0][t], w[1][t], 0x7632),
                              __byte_perm(w[2][t], w[3][t], 0x5410), __byte_perm(w[2][t], w[3][t], 0x7632)};
#pragma unroll
            for (int n = 0; n < NT; n++) {
                const __nv_bfloat162 low = __halves2bfloat162(b[0][n], b[1][n]), high = __halves2bfloat162(b[2][n], b[3][n]);
                mma(c[t][n], a, *reinterpret_cast<const u32*>(&low), *reinterpret_cast<const u32*>(&high));
            }
        }
    }
    for (int from = 7; from > 0; from--) {
        if (warp == from) {
#pragma unroll
            for (int i = 0; i < NT * 16; i++) parts[i * 32 + lane] = c[i / (NT * 4)][i / 4 % NT][i % 4];
        }
        __syncthreads();
        if (warp == 0) {
#pragma unroll
            for (int i = 0; i < NT * 16; i++) c[i / (NT * 4)][i / 4 % NT][i % 4] += parts[i * 32 + lane];
        }
        __syncthreads();
    }
    if (warp > 0 || !in) return;
    out += blockIdx.z * split_stride + blockIdx.y * group_stride;
#pragma unroll
    for (int t = 0; t < 4; t++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int r = n * 8 + q * 2 + i % 2;
                if (r < rank) out[(column + 2 * t + i / 2) * i_stride + r * r_stride] = scale * c[t][n][i];
            }
}

#define LORA(nt)                                                                                                                                     \
    KERNEL __launch_bounds__(256) lora_down_##nt(bf16* z, const bf16* x, const bf16* a, const u32* offsets, int groups, int rows, int k) {            \
        down<nt>(z, x, a, offsets, groups, rows, k);                                                                                                  \
    }                                                                                                                                                 \
    KERNEL __launch_bounds__(256) lora_gradient_##nt(float* out, const bf16* x, const bf16* z, const u32* offsets, int width, int rank,               \
                                                     i64 group_stride, i64 i_stride, i64 r_stride, i64 split_stride, float scale) {                   \
        gradient<nt>(out, x, z, offsets, width, rank, group_stride, i_stride, r_stride, split_stride, scale);                                         \
    }

LORA(1)
LORA(2)
LORA(3)
LORA(4)
LORA(5)
LORA(6)
LORA(7)
LORA(8)

// A: f32 [groups, rank, k] to rows first.. of bf16 [groups, pitch, k]; `rows` of them, zeros from `rank` on.
KERNEL lora_pack_a(bf16* __restrict__ out, const float* __restrict__ a, int groups, int rank, int rows, int k, int pitch, int first) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x, count = (i64)groups * rows * k;
    if (i >= count) return;
    const int column = i % k, r = i / k % rows, group = i / k / rows;
    out[((i64)group * pitch + first + r) * k + column] = __float2bfloat16_rn(r < rank ? a[((i64)group * rank + r) * k + column] : 0.f);
}

// B in PEFT's layout, f32 [width, rank, groups], times scale: to columns first..first+rank of bf16 wide [groups, all, pitch] and rows of
// tall [groups, pitch, all], both at outputs `at`..`at`+width of `all`; the other columns of those outputs become 0.
KERNEL lora_pack_b(bf16* __restrict__ wide, bf16* __restrict__ tall, const float* __restrict__ b, float scale, int groups, int rank, int width, int pitch,
                   int first, int all, int at) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x, count = (i64)groups * width * pitch;
    if (i >= count) return;
    const int p = i % pitch, o = i / pitch % width, group = i / pitch / width, r = p - first;
    const float value = r >= 0 && r < rank ? scale * b[((i64)o * rank + r) * groups + group] : 0.f;
    wide[((i64)group * all + at + o) * pitch + p] = __float2bfloat16_rn(value);
    tall[((i64)group * pitch + p) * all + at + o] = __float2bfloat16_rn(value);
}
