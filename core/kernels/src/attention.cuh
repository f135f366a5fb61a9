// Building blocks of the attention kernels: asynchronous tile loads into swizzled shared memory, tensor-core
// fragments (mma.sync m16n8k16, bf16 in, f32 out; fragment layouts from the PTX manual), sequence bookkeeping.
// The file is compiled once a head dim, which HEAD_DIM gives; HOPPER asks for the kernels of attention_hopper.cu.
#pragma once
#include "common.cuh"

constexpr int D = HEAD_DIM;
#ifdef HOPPER
constexpr int WARPS = 8;
constexpr int MT = 1;                     // 16-row tiles a warp owns
#else
constexpr int WARPS = 4;
constexpr int MT = D <= 64 ? 2 : 1;
#endif
constexpr int THREADS = WARPS * 32;
constexpr int WARP_ROWS = MT * 16;
constexpr int TILE = WARPS * WARP_ROWS;   // rows a block owns (queries; keys in the backward for k and v)
constexpr int KS = D / 16;                // steps of 16 over the head dim
constexpr int ROW_BYTES = D * 2;
constexpr int CHUNKS = D / 8;             // 16-byte chunks in a row
constexpr float LOG2E = 1.4426950408889634f;
constexpr float LN2 = 0.6931471805599453f;

// Which chunk of a row a logical chunk is stored in: eight rows read at one logical chunk touch all 32 banks.
__device__ __forceinline__ int swizzle(int row) {
    return CHUNKS >= 8 ? row & 7 : CHUNKS == 4 ? (row >> 1) & 3 : (row >> 2) & 1;
}

// 16 bytes to shared memory; zeros if not `valid`.
__device__ __forceinline__ void copy16(u32 to, const void* from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0));
}
__device__ __forceinline__ void copy4(u32 to, const void* from, bool valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(valid ? 4 : 0));
}
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;"); }
template <int PENDING> __device__ __forceinline__ void wait() { asm volatile("cp.async.wait_group %0;" ::"n"(PENDING)); }

// Rows first..first+ROWS of a sequence (row 0 at `from`) into a tile; rows from `count` on become zeros.
template <int ROWS> __device__ __forceinline__ void load_tile(u32 to, const bf16* from, i64 stride, int first, int count) {
    constexpr int STEP = THREADS / CHUNKS;
    const int chunk = threadIdx.x % CHUNKS, start = threadIdx.x / CHUNKS;
#pragma unroll
    for (int r = 0; r < ROWS; r += STEP) {
        const int row = start + r;
        if (ROWS % STEP != 0 && row >= ROWS) break;
        const bool valid = first + row < count;
        const bf16* source = from + (valid ? (first + row) * stride : 0) + chunk * 8;
        copy16(to + row * ROW_BYTES + ((chunk ^ swizzle(row)) << 4), source, valid);
    }
}

__device__ __forceinline__ void ldmatrix(u32 f[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(f[0]), "=r"(f[1]), "=r"(f[2]), "=r"(f[3]) : "r"(address));
}
__device__ __forceinline__ void ldmatrix_trans(u32 f[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(f[0]), "=r"(f[1]), "=r"(f[2]), "=r"(f[3])
                 : "r"(address));
}

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// The three ways a warp reads a tile with ldmatrix. Each object is the lane's own address at rows 0..15; `row` must be
// a multiple of 8 and `step` counts 16 columns. A tile starts at a multiple of 256 bytes, so xor adds the column.
struct Reader {
    u32 base;
    __device__ __forceinline__ u32 at(int row, int step) const { return (base ^ (u32)(step * 32)) + row * ROW_BYTES; }
};
__device__ __forceinline__ u32 lane_offset(int row, int chunk) { return row * ROW_BYTES + ((chunk ^ swizzle(row)) << 4); }

// A operand, 16 rows x 16 columns.
__device__ __forceinline__ Reader left_reader(u32 tile) {
    const int lane = threadIdx.x % 32;
    return {tile + lane_offset(lane & 15, lane >> 4)};
}
// B operand whose columns are the tile's rows: 16 of them x 16 of the head dim; registers 0,1 and 2,3 are rows 0-7 and 8-15.
__device__ __forceinline__ Reader right_reader(u32 tile) {
    const int lane = threadIdx.x % 32;
    return {tile + lane_offset((lane & 7) + ((lane >> 4) << 3), (lane >> 3) & 1)};
}
// B operand whose rows are the tile's rows (with ldmatrix_trans): 16 rows x 16 columns; registers 0,1 and 2,3 are columns 0-7 and 8-15.
__device__ __forceinline__ Reader transposed_reader(u32 tile) { return left_reader(tile); }

template <int TILES> __device__ __forceinline__ void clear(float (&c)[MT][TILES][4]) {
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < TILES; n++) c[m][n][0] = c[m][n][1] = c[m][n][2] = c[m][n][3] = 0.f;
}

// The block's own rows as A operands, out of a tile in shared memory.
__device__ __forceinline__ void read_left(u32 (&f)[MT][KS][4], u32 tile) {
    const Reader reader = left_reader(tile);
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int s = 0; s < KS; s++) ldmatrix(f[m][s], reader.at((threadIdx.x / 32) * WARP_ROWS + m * 16, s));
}

// c += a * (16 rows of the tile)^T over the head dim: c is [16*MT] x [16].
__device__ __forceinline__ void multiply_rows(float (&c)[MT][2][4], const u32 (&a)[MT][KS][4], Reader b, int row) {
#pragma unroll
    for (int s = 0; s < KS; s++) {
        u32 f[4];
        ldmatrix(f, b.at(row, s));
#pragma unroll
        for (int m = 0; m < MT; m++) {
            mma(c[m][0], a[m][s], f[0], f[1]);
            mma(c[m][1], a[m][s], f[2], f[3]);
        }
    }
}

// c += a * (16 rows of the tile): a is [16*MT] x [16], c is [16*MT] x D.
__device__ __forceinline__ void multiply_columns(float (&c)[MT][D / 8][4], const u32 (&a)[MT][4], Reader b, int row) {
#pragma unroll
    for (int s = 0; s < KS; s++) {
        u32 f[4];
        ldmatrix_trans(f, b.at(row, s));
#pragma unroll
        for (int m = 0; m < MT; m++) {
            mma(c[m][2 * s], a[m], f[0], f[1]);
            mma(c[m][2 * s + 1], a[m], f[2], f[3]);
        }
    }
}

// Accumulators of 16 columns, rounded to bf16, as an A operand.
__device__ __forceinline__ void to_left(u32 a[4], const float c0[4], const float c1[4]) {
    a[0] = pack2(c0[0], c0[1]);
    a[1] = pack2(c0[2], c0[3]);
    a[2] = pack2(c1[0], c1[1]);
    a[3] = pack2(c1[2], c1[3]);
}

// Tile number `index` of a batch, tiles counted sequence by sequence: its sequence and its first row there.
__device__ __forceinline__ bool find_tile(const u32* __restrict__ cu, int n, int total, int index, int& sequence, int& first) {
    if (cu == nullptr) {
        sequence = 0, first = index * TILE;
        return first < total;
    }
    const int lane = threadIdx.x % 32;
    int before = 0;
    for (int base = 0; base < n; base += 32) {
        const int s = base + lane;
        const int tiles = s < n ? ((int)(cu[s + 1] - cu[s]) + TILE - 1) / TILE : 0;
        int sum = tiles;
#pragma unroll
        for (int o = 1; o < 32; o <<= 1) {
            const int other = __shfl_up_sync(FULL, sum, o);
            if (lane >= o) sum += other;
        }
        const u32 hit = __ballot_sync(FULL, before + sum > index);
        if (hit) {
            const int source = __ffs(hit) - 1;
            sequence = base + source;
            first = (index - before - __shfl_sync(FULL, sum - tiles, source)) * TILE;
            return true;
        }
        before += __shfl_sync(FULL, sum, 31);
    }
    return false;
}
