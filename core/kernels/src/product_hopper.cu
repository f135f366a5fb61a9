// Products of rows that are grouped by expert (or all of one group) with bf16 matrices, for compute capability 9.0: one
// launch for all groups, their sizes read on the device. A block takes 256 rows by 192 columns at a time and goes on to
// the next such tile; one warp copies tiles (TMA), two warpgroups multiply (wgmma), each two sets of 64 rows. A set
// without rows costs nothing. Sums start at the bias; a low-rank part, x_low * w_low, is further steps of the same sum.
#include "tiles_hopper.cuh"

constexpr int BLOCK_M = 256, BLOCK_N = 192, BLOCK_K = 64, STAGES = 3, GROUP_M = 8, MAX_GROUPS = 128;
constexpr int A_BYTES = BLOCK_M * BLOCK_K * 2, B_BYTES = BLOCK_N * BLOCK_K * 2, STAGE_BYTES = A_BYTES + B_BYTES;
constexpr int TILES_N = BLOCK_N / 8, CHUNKS = BLOCK_N / 64, CHUNK_BYTES = 64 * BLOCK_K * 2;
constexpr int WARPS = 8; // that multiply

struct Product {
    bf16* out;             // [rows, n]
    const bf16* bias;      // [groups, n] or null
    const u32* offsets;    // [groups + 1]
    int groups, n, k, low; // low: columns of the low-rank part, 0 for none
};

struct Maps {
    const TensorMap &a, &b, &a_low, &b_low, &out;
};

struct Shared {
    u64 full[STAGES], empty[STAGES];
    int first_tile[MAX_GROUPS + 1];
    u32 offsets[MAX_GROUPS + 1];
};

struct Tile {
    int group, column;
    u32 row, end; // rows of the output: first of this tile, end of the group
};

// Tells the compiler that a value is the same in the whole warp.
__device__ __forceinline__ int uniform(int x) { return __shfl_sync(FULL, x, 0); }

// Walks the tiles of a block: groups in order; in a group, GROUP_M tiles of rows side by side, so that both operands stay in L2.
struct Walk {
    const Shared& s;
    int groups, tiles_n, group = 0;

    __device__ __forceinline__ int tiles() const { return uniform(s.first_tile[groups]); }

    __device__ __forceinline__ void at(int index, Tile& tile) {
        while (index >= s.first_tile[group + 1]) group++;
        const u32 first = s.offsets[group], end = s.offsets[group + 1];
        const int tiles_m = (end - first + BLOCK_M - 1) / BLOCK_M, local = index - s.first_tile[group];
        const int band = local / (GROUP_M * tiles_n), in_band = local - band * GROUP_M * tiles_n;
        const int wide = min(GROUP_M, tiles_m - band * GROUP_M);
        tile.group = group;
        tile.row = first + (band * GROUP_M + in_band % wide) * BLOCK_M;
        tile.end = end;
        tile.column = in_band / wide * BLOCK_N;
    }
};

// Where a warp stands in the ring of stages.
struct Ring {
    u32 base;
    int stage = 0;
    u32 parity = 0;

    __device__ u32 a() const { return base + stage * STAGE_BYTES; }
    __device__ u32 b() const { return a() + A_BYTES; }
    __device__ void next() {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
};

// Steps over k: whole ones, then those of the low-rank part.
struct Steps {
    int whole, all;
    __device__ explicit Steps(const Product& p) : whole((p.k + BLOCK_K - 1) / BLOCK_K), all(whole + (p.low + BLOCK_K - 1) / BLOCK_K) {}
};

template <int B_ROWS> __device__ __forceinline__ void copy_tiles(const Product& p, Shared& s, u32 base, const Maps& maps) {
    Walk walk{s, p.groups, (p.n + BLOCK_N - 1) / BLOCK_N};
    Ring ring{base};
    Tile tile;
    const Steps steps(p);
    const int tiles = s.first_tile[p.groups];
    for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
        walk.at(index, tile);
        const int sets = min((tile.end - tile.row + 63) / 64, (u32)BLOCK_M / 64);
        for (int step = 0; step < steps.all; step++, ring.next()) {
            barrier_wait(shared_address(&s.empty[ring.stage]), ring.parity ^ 1);
            const u32 full = shared_address(&s.full[ring.stage]);
            barrier_expect(full, sets * CHUNK_BYTES + B_BYTES);
            const bool low = step >= steps.whole;
            const int depth = (low ? step - steps.whole : step) * BLOCK_K, k = low ? p.low : p.k;
            const TensorMap &left = low ? maps.a_low : maps.a, &right = low ? maps.b_low : maps.b;
            for (int set = 0; set < sets; set++) copy_box(ring.a() + set * CHUNK_BYTES, left, full, depth, tile.row + 64 * set);
            if (B_ROWS) {
#pragma unroll
                for (int chunk = 0; chunk < CHUNKS; chunk++)
                    copy_box(ring.b() + chunk * CHUNK_BYTES, right, full, tile.column + 64 * chunk, tile.group * k + depth);
            } else {
                copy_box(ring.b(), right, full, depth, tile.group * p.n + tile.column);
            }
        }
    }
}

// Sums start at the bias of their columns, or at zero.
template <int LIVE> __device__ __forceinline__ void begin(float (&c)[2][TILES_N][4], const Product& p, const Tile& tile) {
    const int first = tile.column + threadIdx.x % 4 * 2;
    const bf16* bias = p.bias + (i64)tile.group * p.n + first;
#pragma unroll
    for (int t = 0; t < TILES_N; t++) {
        const u32 both = p.bias && first + t * 8 < p.n ? __ldg(reinterpret_cast<const u32*>(bias + t * 8)) : 0;
#pragma unroll
        for (int m = 0; m < LIVE; m++) {
            c[m][t][0] = c[m][t][2] = __uint_as_float(both << 16);
            c[m][t][1] = c[m][t][3] = __uint_as_float(both & 0xffff0000u);
        }
    }
#pragma unroll
    for (int m = 0; m < LIVE; m++) pin_tiles(c[m]);
}

// A stage: COUNT steps of 16 for each of LIVE sets of 64 rows.
template <int B_ROWS, int LIVE, int COUNT> __device__ __forceinline__ void multiply(float (&c)[2][TILES_N][4], const Ring& ring, u32 a_offset) {
#pragma unroll
    for (int m = 0; m < LIVE; m++)
#pragma unroll
        for (int k = 0; k < COUNT; k++) {
            const u64 left = tile_descriptor(ring.a() + a_offset + m * 2 * CHUNK_BYTES + k * 32, 0);
            const u64 right = tile_descriptor(ring.b() + (B_ROWS ? k * 2048 : k * 32), CHUNK_BYTES);
            wgmma192<B_ROWS>(c[m], left, right);
        }
}

template <int B_ROWS, int LIVE>
__device__ __forceinline__ void multiply_tile(float (&c)[2][TILES_N][4], const Product& p, const Tile& tile, Shared& s, Ring& ring, u32 a_offset) {
    const Steps steps(p);
    const bool speaks = threadIdx.x % 32 == 0;
    u32 done = 0;
    begin<LIVE>(c, p, tile);
    for (int step = 0; step < steps.all; step++, ring.next()) {
        barrier_wait(shared_address(&s.full[ring.stage]), ring.parity);
        const u32 empty = shared_address(&s.empty[ring.stage]);
        if (LIVE > 0) {
            wgmma_begin();
            if (step < steps.whole || p.low - (step - steps.whole) * BLOCK_K > 16) multiply<B_ROWS, LIVE, 4>(c, ring, a_offset);
            else multiply<B_ROWS, LIVE, 1>(c, ring, a_offset);
            wgmma_commit();
            wgmma_wait<1>();
            if (speaks && done) barrier_arrive(done);
            done = empty;
        } else if (speaks) {
            barrier_arrive(empty);
        }
    }
    if (LIVE > 0) {
        wgmma_wait<0>();
        if (speaks && done) barrier_arrive(done);
#pragma unroll
        for (int m = 0; m < LIVE; m++) pin_tiles(c[m]);
    }
}

// Of each four lanes, lane q gets what the four hold of the eight columns 8q..8q+7 of 32.
__device__ __forceinline__ uint4 gather_columns(const u32 (&v)[4], int q) {
    u32 r[4];
#pragma unroll
    for (int step = 0; step < 4; step++) {
        const int to = q ^ step; // the lane that wants what this lane sends, and sends what this lane wants
        r[step] = __shfl_xor_sync(FULL, to == 0 ? v[0] : to == 1 ? v[1] : to == 2 ? v[2] : v[3], step);
    }
    const bool odd = q & 1, high = q & 2;
    const u32 a = odd ? r[1] : r[0], b = odd ? r[0] : r[1], c = odd ? r[3] : r[2], d = odd ? r[2] : r[3];
    return high ? make_uint4(c, d, a, b) : make_uint4(a, b, c, d);
}

// Writes 64 rows of a warpgroup, some of which may be beyond the group's end.
__device__ __forceinline__ void store_rows(const Product& p, const Tile& tile, u32 first_row, const float (&c)[TILES_N][4]) {
    const int lane = threadIdx.x % 32, q = lane % 4;
    const u32 row = first_row + threadIdx.x / 32 % 4 * 16 + lane / 4;
#pragma unroll
    for (int g = 0; g < TILES_N / 4; g++) {
        const int column = tile.column + g * 32 + q * 8;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            u32 four[4];
#pragma unroll
            for (int t = 0; t < 4; t++) four[t] = pack2(c[g * 4 + t][2 * half], c[g * 4 + t][2 * half + 1]);
            const uint4 value = gather_columns(four, q);
            if (row + 8 * half >= tile.end || column >= p.n) continue;
            *reinterpret_cast<uint4*>(p.out + (i64)(row + 8 * half) * p.n + column) = value;
        }
    }
}

// Writes 64 rows: all of them through shared memory, without waiting for memory; else row by row.
__device__ __forceinline__ void store(const Product& p, const Tile& tile, u32 first_row, const float (&c)[TILES_N][4], u32 staging, const TensorMap& map) {
    if (!uniform(first_row + 64 <= tile.end)) {
        store_rows(p, tile, first_row, c);
        return;
    }
    const bool speaks = threadIdx.x % 128 == 0;
    const int id = threadIdx.x / 128, lane = threadIdx.x % 32, row = threadIdx.x / 32 % 4 * 16 + lane % 16;
    if (speaks) store_read();
    group_barrier(id);
#pragma unroll
    for (int t = 0; t < TILES_N; t += 2) {
        const int piece = t + lane / 16;
        stmatrix(staging + piece / 8 * CHUNK_BYTES + row * 128 + ((piece % 8 ^ row % 8) << 4), pack2(c[t][0], c[t][1]), pack2(c[t][2], c[t][3]),
                 pack2(c[t + 1][0], c[t + 1][1]), pack2(c[t + 1][2], c[t + 1][3]));
    }
    publish();
    group_barrier(id);
    if (speaks) {
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; chunk++) store_box(map, staging + chunk * CHUNK_BYTES, tile.column + chunk * 64, first_row);
        store_commit();
    }
}

template <int B_ROWS> __device__ __forceinline__ void multiply_tiles(const Product& p, Shared& s, u32 base, int group, const Maps& maps) {
    Walk walk{s, p.groups, (p.n + BLOCK_N - 1) / BLOCK_N};
    Ring ring{base};
    Tile tile;
    float c[2][TILES_N][4];
    const u32 a_offset = group * CHUNK_BYTES, staging = base + STAGES * STAGE_BYTES + group * CHUNKS * CHUNK_BYTES;
    const int tiles = walk.tiles();
    for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
        walk.at(index, tile);
        const u32 row = tile.row + group * 64;
        const int live = uniform(row + 128 < tile.end ? 2 : row < tile.end ? 1 : 0);
        if (live == 2) {
            multiply_tile<B_ROWS, 2>(c, p, tile, s, ring, a_offset);
            store(p, tile, row, c[0], staging, maps.out);
            store(p, tile, row + 128, c[1], staging, maps.out);
        } else if (live == 1) {
            multiply_tile<B_ROWS, 1>(c, p, tile, s, ring, a_offset);
            store(p, tile, row, c[0], staging, maps.out);
        } else {
            multiply_tile<B_ROWS, 0>(c, p, tile, s, ring, a_offset);
        }
    }
    if (threadIdx.x % 128 == 0) store_done();
}

template <int B_ROWS> __device__ __forceinline__ void product(const Product& p, const Maps& maps) {
    extern __shared__ uint8_t raw[];
    __shared__ Shared s;
    const u32 base = (shared_address(raw) + 1023) & ~1023u;
    for (int g = threadIdx.x; g <= p.groups; g += blockDim.x) s.offsets[g] = p.offsets[g];
    __syncthreads();
    if (threadIdx.x == 0) {
        const int tiles_n = (p.n + BLOCK_N - 1) / BLOCK_N;
        s.first_tile[0] = 0;
        for (int g = 0; g < p.groups; g++)
            s.first_tile[g + 1] = s.first_tile[g] + (s.offsets[g + 1] - s.offsets[g] + BLOCK_M - 1) / BLOCK_M * tiles_n;
        for (int stage = 0; stage < STAGES; stage++) {
            barrier_init(shared_address(&s.full[stage]), 1);
            barrier_init(shared_address(&s.empty[stage]), WARPS);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        publish();
    }
    __syncthreads();
    const int role = uniform(threadIdx.x / 128);
    if (role == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x == 0) copy_tiles<B_ROWS>(p, s, base, maps);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
        multiply_tiles<B_ROWS>(p, s, base, role - 1, maps);
    }
}

#define PRODUCT(name, b_rows)                                                                                                                        \
    KERNEL __launch_bounds__(384, 1) name(bf16* out, const bf16* bias, const u32* offsets, int groups, int n, int k, int low,                         \
                                          const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b,                                  \
                                          const __grid_constant__ TensorMap a_low, const __grid_constant__ TensorMap b_low,                           \
                                          const __grid_constant__ TensorMap out_map) {                                                                \
        product<b_rows>({out, bias, offsets, groups, n, k, low}, {a, b, a_low, b_low, out_map});                                              \
    }

PRODUCT(product_nt, 0)
PRODUCT(product_nn, 1)
