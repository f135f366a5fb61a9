// Sampling of a token from each row of logits: what its kernels share. A row is cut into chunks, each of which a warp takes by itself;
// the block of a row that is done last goes on with the whole row.
//
// Weights of tokens, exp((logit - greatest) / temperature), are whole numbers of 2^-40, so that their sums have one value in any order.
#pragma once
#include "philox.cuh"

constexpr int SAMPLE_THREADS = 256;
constexpr int SAMPLE_WARPS = SAMPLE_THREADS / 32;
constexpr int CHUNK = 1024;                 // logits of a chunk
constexpr int EACH = CHUNK / 32;            // logits of a chunk that a lane takes, four neighbours at a time
constexpr int BINS = 2048;                  // of distances to the greatest logit
constexpr int CANDIDATES = 4096;            // logits of the bins in question that are kept apart
constexpr float ONE = 1099511627776.f;      // 2^40

// What the row's parameters are, in f64.
enum { TEMPERATURE, TOP_K, TOP_P, MIN_P, REPETITION, FREQUENCY, PRESENCE, MASKED, PARAMETERS };

struct State {
    u32 done[4];        // blocks that have finished a step
    u32 gathered;       // candidates, of which CANDIDATES at most are kept
    float top;          // the greatest logit
    u32 best, bad;      // its place; whether some logit is not a number
    double raw_lse;     // of the logits as they were given
    int first_bin, last_bin, k_bin; // bins that thresholds lie in
    u32 k_left;         // tokens of k_bin that top_k keeps
    float floor;        // kept are logits above, and those equal to it from place `tie` on
    u32 tie;
    u32 pad[16];
};

struct Part {
    float top;
    u32 best;
    float raw_top, raw_sum;
    u64 sum;            // of weights, with the chunk's own greatest logit
    u32 bad, pad;
};

// The pieces of a row's workspace.
struct Work {
    State* state;
    Part* parts;        // of chunks
    u64* weights;       // by bin
    u32* counts;
    u32* places;        // of candidates
    int chunks;

    __device__ __forceinline__ Work(u32* work, int vocab) {
        chunks = (vocab + CHUNK - 1) / CHUNK;
        const i64 words = sizeof(State) / 4 + chunks * (sizeof(Part) / 4) + 3 * BINS + CANDIDATES;
        u32* at = work + blockIdx.y * words;
        state = reinterpret_cast<State*>(at), at += sizeof(State) / 4;
        parts = reinterpret_cast<Part*>(at), at += chunks * (sizeof(Part) / 4);
        weights = reinterpret_cast<u64*>(at), at += 2 * BINS;
        counts = at, places = at + BINS;
    }
};

static_assert(sizeof(State) == 128 && sizeof(Part) == 32, "core/kernels/src/sample.rs counts words");

// 1 / temperature in two floats, so that products with it are rounded once.
struct Inverse {
    float high, low;
    __device__ __forceinline__ explicit Inverse(double temperature) {
        const double inverse = fmin(1.0 / temperature, 1e30);
        high = (float)inverse, low = (float)(inverse - (double)high);
    }
};

__device__ __forceinline__ u64 weight(float logit, float top, Inverse inverse) {
    const float distance = top - logit;
    return __float2ull_rn(expf(-fmaf(distance, inverse.high, distance * inverse.low)) * ONE);
}

// Bins grow with the distance to the greatest logit: 1/32 wide up to a distance of 8, twice as wide up to 24, and so on.
__device__ __forceinline__ int bin_of(float logit, float top) {
    return min((int)((__float_as_uint(fmaf(top - logit, 0.125f, 1.f)) - 0x3f800000u) >> 15), BINS - 1);
}

// Unsigned numbers in the order of the floats; both zeros are one number.
__device__ __forceinline__ u32 order_key(float x) {
    const u32 bits = __float_as_uint(x + 0.f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float from_order_key(u32 key) {
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// The place in its row of logit i of this lane's of a chunk.
__device__ __forceinline__ int place_of(int chunk, int i) { return chunk * CHUNK + i / 4 * 128 + threadIdx.x % 32 * 4 + i % 4; }

// This lane's logits of a chunk; -inf behind the end.
__device__ __forceinline__ void load_chunk(float (&x)[EACH], const float* row, int chunk, int vocab) {
#pragma unroll
    for (int i = 0; i < EACH; i += 4) {
        const int at = place_of(chunk, i);
        load4(row, at, vocab, x + i);
        if (at + 4 > vocab) {
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (at + j >= vocab) x[i + j] = -INFINITY;
        }
    }
}

// The chunks that this warp takes: chunk; chunk < chunks; chunk += step.
struct Turn {
    int chunk, step;
    __device__ __forceinline__ Turn() : chunk(blockIdx.x * SAMPLE_WARPS + threadIdx.x / 32), step(gridDim.x * SAMPLE_WARPS) {}
};

// The sum of the values of the threads before this one, and of all.
__device__ __forceinline__ u64 block_scan(u64 x, u64& total) {
    __shared__ u64 sums[SAMPLE_WARPS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u64 sum = x;
#pragma unroll
    for (int o = 1; o < 32; o <<= 1) {
        const u64 other = __shfl_up_sync(FULL, sum, o);
        if (lane >= o) sum += other;
    }
    __syncthreads();
    if (lane == 31) sums[warp] = sum;
    __syncthreads();
    u64 before = 0;
    total = 0;
#pragma unroll
    for (int w = 0; w < SAMPLE_WARPS; w++) {
        if (w == warp) before = total;
        total += sums[w];
    }
    return before + sum - x;
}

// Whether this block is the last of its row in a step; what the others wrote can be read then.
__device__ __forceinline__ bool last_block(u32* done) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(done, 1) == gridDim.x - 1;
        if (last) *done = 0;
    }
    __syncthreads();
    if (last) __threadfence();
    return last;
}

// A number in [0, 1) with 53 bits, from the seed, the number of the answer and the place of the token.
__device__ __forceinline__ double unit(const u32* n) {
    const uint4 w = philox((u64)n[1] << 32 | n[0], (u64)n[3] << 32 | n[2], (u64)n[5] << 32 | n[4]);
    return (double)(((u64)w.x << 32 | w.y) >> 11) * 0x1p-53;
}

// Tokens whose logits are changed before all else, by ascending token; row r has entries offsets[r]..offsets[r + 1].
struct Listed {
    const u32 *offsets, *tokens;
    float* saved; // the logits as they were given

    // The logit of a token as it was given.
    __device__ __forceinline__ float given(const float* row, u32 token) const {
        __shared__ float found;
        if (threadIdx.x == 0) found = row[token];
        __syncthreads();
        if (offsets)
            for (u32 i = offsets[blockIdx.y] + threadIdx.x; i < offsets[blockIdx.y + 1]; i += SAMPLE_THREADS)
                if (tokens[i] == token) found = saved[i];
        __syncthreads();
        return found;
    }
};
