// Cross entropy over a large vocabulary. Forward reads the logits once (running maximum with its place, and sum, a thread,
// merged at the end); backward is (softmax - onehot) * dloss. f32 inside. A label not below the vocabulary gives NaN.
#include "common.cuh"

struct Online {
    float top, sum; // sum of exp(x - top)
    u32 at;         // where top is, the lowest place of equal ones
};

__device__ __forceinline__ Online merge(Online a, Online b) {
    const float top = fmaxf(a.top, b.top);
    const u32 at = a.top > b.top ? a.at : b.top > a.top ? b.at : min(a.at, b.at);
    if (top == -INFINITY) return {top, a.sum + b.sum, at};
    return {top, a.sum * __expf(a.top - top) + b.sum * __expf(b.top - top), at};
}

__device__ __forceinline__ void take8(Online& state, const float f[8], int first) {
    float top = f[0];
#pragma unroll
    for (int j = 1; j < 8; j++) top = fmaxf(top, f[j]);
    if (top > state.top) {
        state.sum *= __expf(state.top - top);
        state.top = top;
#pragma unroll
        for (int j = 7; j >= 0; j--)
            if (f[j] == top) state.at = first + j;
    }
    const float base = state.top == -INFINITY ? 0.f : state.top;
#pragma unroll
    for (int j = 0; j < 8; j++) state.sum += __expf(f[j] - base);
}

__device__ __forceinline__ void load8(const float* row, int chunk, float f[8]) {
    wide_load4(row + chunk * 8, f);
    wide_load4(row + chunk * 8 + 4, f + 4);
}

__device__ __forceinline__ void load8(const bf16* row, int chunk, float f[8]) {
    unpack8(reinterpret_cast<const uint4*>(row)[chunk], f);
}

template <typename T>
__device__ __forceinline__ void forward(float* __restrict__ loss, float* __restrict__ lse, u32* __restrict__ best, const T* __restrict__ logits,
                                        const u32* __restrict__ labels, int vocab) {
    const i64 n = blockIdx.x;
    const T* row = logits + n * vocab;
    Online state = {-INFINITY, 0.f, 0};
    if (vocab % 8 == 0) {
        float f[8];
#pragma unroll 4
        for (int c = threadIdx.x; c < vocab / 8; c += blockDim.x) {
            load8(row, c, f);
            take8(state, f, c * 8);
        }
    } else {
        for (int i = threadIdx.x; i < vocab; i += blockDim.x) state = merge(state, {to_float(row[i]), 1.f, (u32)i});
    }
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) {
        const Online other = {__shfl_xor_sync(FULL, state.top, o), __shfl_xor_sync(FULL, state.sum, o), __shfl_xor_sync(FULL, state.at, o)};
        state = merge(state, other);
    }
    __shared__ Online parts[32];
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = state;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 1; w < blockDim.x / 32; w++) state = merge(state, parts[w]);
        const float total = state.top + logf(state.sum);
        const u32 label = labels[n];
        lse[n] = total;
        best[n] = state.at;
        loss[n] = label < (u32)vocab ? total - to_float(row[label]) : NAN;
    }
}

template <typename T>
__device__ __forceinline__ void backward(T* dlogits, const T* logits, const float* __restrict__ lse, const u32* __restrict__ labels,
                                         const float* __restrict__ dloss, int vocab) {
    const i64 n = blockIdx.x;
    const int first = blockIdx.y * 8192, last = min(vocab, first + 8192);
    const u32 label = labels[n];
    const float total = lse[n], scale = label < (u32)vocab ? dloss[n] : NAN;
    const T* row = logits + n * vocab;
    T* drow = dlogits + n * vocab;
    if (vocab % 8 == 0) {
#pragma unroll 4
        for (int c = first / 8 + threadIdx.x; c < last / 8; c += 256) {
            float f[8];
            load8(row, c, f);
#pragma unroll
            for (int j = 0; j < 8; j++) f[j] = (__expf(f[j] - total) - (c * 8 + j == label ? 1.f : 0.f)) * scale;
            wide_store4(drow + c * 8, f);
            wide_store4(drow + c * 8 + 4, f + 4);
        }
    } else {
        for (int i = first + threadIdx.x; i < last; i += 256)
            drow[i] = from_float<T>((__expf(to_float(row[i]) - total) - (i == label ? 1.f : 0.f)) * scale);
    }
}

KERNEL cross_entropy_forward_bf16(float* loss, float* lse, u32* best, const bf16* logits, const u32* labels, int vocab) {
    forward(loss, lse, best, logits, labels, vocab);
}
KERNEL cross_entropy_forward_f32(float* loss, float* lse, u32* best, const float* logits, const u32* labels, int vocab) {
    forward(loss, lse, best, logits, labels, vocab);
}
KERNEL cross_entropy_backward_bf16(bf16* dlogits, const bf16* logits, const float* lse, const u32* labels, const float* dloss, int vocab) {
    backward(dlogits, logits, lse, labels, dloss, vocab);
}
KERNEL cross_entropy_backward_f32(float* dlogits, const float* logits, const float* lse, const u32* labels, const float* dloss, int vocab) {
    backward(dlogits, logits, lse, labels, dloss, vocab);
}
