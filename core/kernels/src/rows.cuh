// A few rows times matrices that are read once, by mma.sync m16n8k16: 16 outputs of the matrix are the rows of a tile, and the rows of
// x its 8 columns. The sum may take the inputs in any order as long as both operands agree, so each lane of four reads 16 contiguous
// bytes of the matrix and uses them as they come; x lies in shared memory in that order.
//
// A warp has a tile, or one part of its inputs; the parts are added in their order at the end. A block that has more parts than warps
// for a tile goes through them one after the other and adds in the same order, so a row has the same numbers whatever the launch.
#pragma once
#include "common.cuh"

// Rows of x for one matrix: slots[first .. first + count].
struct Group {
    int expert, first, count;
};

// What a thread works on: a tile, or a part of its inputs, and in it rows r and r + 8 and place q of four.
struct Place {
    int lane, r, q, tile, part;
};

struct Sizes {
    int inputs, outputs;
    int parts;  // parts of the sum, a power of two
    int split;  // warps of a tile: parts or 1
    int chunk;  // units of x in shared memory for each warp of a tile
};

// The first unit of a part of `parts`, a power of two.
__device__ __forceinline__ int first_unit(int units, int part, int parts) { return units * part >> (__ffs(parts) - 1); }

__device__ __forceinline__ uint4 load_once(const uint4* p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}

__device__ __forceinline__ u32 word(const uint4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

__device__ __forceinline__ u32 times2(u32 a, u32 b) {
    const __nv_bfloat162 v = __hmul2(*reinterpret_cast<const __nv_bfloat162*>(&a), *reinterpret_cast<const __nv_bfloat162*>(&b));
    return *reinterpret_cast<const u32*>(&v);
}

// Two dense rows: a unit is 32 inputs, 8 for each lane of four.
struct DenseRows {
    static constexpr int EIGHTS = 1, WIDTH = 32;
    static constexpr float SCALE = 1.f;
    struct Words {
        uint4 low, high;
    };
    const uint4 *low, *high;
    int last;

    __device__ __forceinline__ DenseRows(const bf16* w, i64 low_row, i64 high_row, int inputs)
        : low(reinterpret_cast<const uint4*>(w + low_row * inputs)), high(reinterpret_cast<const uint4*>(w + high_row * inputs)), last(inputs / 8 - 1) {}

    // Beyond the end it reads the last inputs again: x is zero there.
    __device__ __forceinline__ void load(Words& words, int unit, int q) const {
        const int at = min(4 * unit + q, last);
        words.low = load_once(low + at), words.high = load_once(high + at);
    }

    // The eight inputs that chunk `eight` of lane q in a unit holds.
    static __device__ __forceinline__ int input(int unit, int, int q) { return WIDTH * unit + 8 * q; }
    static __device__ __forceinline__ uint4 order(uint4 x) { return x; }

    template <int NT, int COLUMNS> static __device__ __forceinline__ void add(float (&sum)[NT][4], const Words& w, const uint4* x) {
        const u32 first[4] = {w.low.x, w.high.x, w.low.y, w.high.y}, second[4] = {w.low.z, w.high.z, w.low.w, w.high.w};
#pragma unroll
        for (int t = 0; t < NT; t++) {
            const uint4 v = x[8 * t * 4];
            mma(sum[t], first, v.x, v.y);
            mma(sum[t], second, v.z, v.w);
        }
    }
};

// Two MXFP4 rows: a unit is four blocks of 32 inputs, one for each lane of four. A word has eight values; the pairs (i, i + 4) of them
// become bf16 by their bits, times 2^-126, and a product with the scale of the block makes them whole. So that scales up to 2^61
// can be multiplied by, the product is 2^-60 of the value, and the sum is scaled at the end. A scale above counts as 2^61; values of
// scales below 2^-65 lose bits, from 2^-73 on they are zero.
struct PackedRows {
    static constexpr int EIGHTS = 4, WIDTH = 128;
    static constexpr float SCALE = 1152921504606846976.f; // 2^60
    struct Words {
        uint4 low, high;
        u32 low_scale, high_scale;
    };
    const uint4* low;
    const uint8_t* low_scales;
    int high, last; // blocks from the low row to the high one, the last block of a row

    __device__ __forceinline__ PackedRows(const uint8_t* blocks, const uint8_t* scales, i64 low_row, i64 high_row, int inputs) : last(inputs / 32 - 1) {
        const int count = inputs / 32;
        low = reinterpret_cast<const uint4*>(blocks) + low_row * count, low_scales = scales + low_row * count;
        high = (int)(high_row - low_row) * count;
        asm("" : "+l"(low), "+l"(low_scales), "+r"(high)); // or the rows' places are computed again for every load
    }

    __device__ __forceinline__ void load(Words& words, int unit, int q) const {
        const int at = min(4 * unit + q, last);
        const uint4* word = low + at;
        const uint8_t* scale = low_scales + at;
        words.low = load_once(word), words.high = load_once(word + high);
        words.low_scale = __ldg(scale), words.high_scale = __ldg(scale + high);
    }

    static __device__ __forceinline__ int input(int unit, int eight, int q) { return WIDTH * unit + 32 * q + 8 * eight; }
    static __device__ __forceinline__ uint4 order(uint4 x) {
        return make_uint4(__byte_perm(x.x, x.z, 0x5410), __byte_perm(x.x, x.z, 0x7632), __byte_perm(x.y, x.w, 0x5410), __byte_perm(x.y, x.w, 0x7632));
    }

    static __device__ __forceinline__ u32 factor(u32 scale) { return min(scale, 188u) * 0x00800080u + 0x21002100u; } // exponent scale + 66

    // Sign and magnitude of a nibble go to bits 15 and 8..6 by one product, what else it makes is masked.
    static __device__ __forceinline__ void unpack(u32 out[4], u32 w, u32 factor) {
        const u32 rest = w >> 8;
        out[0] = times2((w & 0x000F000Fu) * 0x1040u & 0x81C081C0u, factor);
        out[1] = times2((w & 0x00F000F0u) * 0x0104u & 0x81C081C0u, factor);
        out[2] = times2((rest & 0x000F000Fu) * 0x1040u & 0x81C081C0u, factor);
        out[3] = times2((rest & 0x00F000F0u) * 0x0104u & 0x81C081C0u, factor);
    }

    template <int NT, int COLUMNS> static __device__ __forceinline__ void add(float (&sum)[NT][4], const Words& words, const uint4* x) {
        const u32 low_factor = factor(words.low_scale), high_factor = factor(words.high_scale);
        uint4 early[NT == 1 ? EIGHTS : 1];
        if constexpr (NT == 1) {
#pragma unroll
            for (int e = 0; e < EIGHTS; e++) early[e] = x[e * COLUMNS * 4];
        }
#pragma unroll
        for (int e = 0; e < EIGHTS; e++) {
            u32 low[4], high[4];
            unpack(low, word(words.low, e), low_factor);
            unpack(high, word(words.high, e), high_factor);
            const u32 first[4] = {low[0], high[0], low[1], high[1]}, second[4] = {low[2], high[2], low[3], high[3]};
            if constexpr (NT == 1) {
                mma(sum[0], first, early[e].x, early[e].y);
                mma(sum[0], second, early[e].z, early[e].w);
            } else {
#pragma unroll
                for (int t = 0; t < NT; t += 2) { // two sums in turn: a product waits for the one before it on its sum
                    const uint4 v = x[(e * COLUMNS + 8 * t) * 4], w = x[(e * COLUMNS + 8 * t + 8) * 4];
                    mma(sum[t], first, v.x, v.y);
                    mma(sum[t + 1], first, w.x, w.y);
                    mma(sum[t], second, v.z, v.w);
                    mma(sum[t + 1], second, w.z, w.w);
                }
            }
        }
    }
};

// Copies a chunk of x for every warp of a tile, in the order [warp][unit][eight][column][lane of four]; zeros beyond the end. A thread
// has one place of a unit; some of its loads are on their way at once.
template <class Matrix, int COLUMNS, class Row>
__device__ __forceinline__ void copy_x(uint4* xs, const Row& row, const Sizes& s, int chunk, int count) {
    constexpr int EIGHTS = Matrix::EIGHTS, AT_ONCE = 4;
    const int units = (s.inputs + Matrix::WIDTH - 1) / Matrix::WIDTH, places = s.split * s.chunk;
    const int q = threadIdx.x % 4, e = threadIdx.x / 4 % EIGHTS, step = blockDim.x / (4 * EIGHTS);
    int column = 0, at = threadIdx.x / (4 * EIGHTS);
    for (; at >= places; column++) at -= places;
    while (column < count) {
        uint4 x[AT_ONCE];
        int to[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            to[i] = -1;
            if (column >= count) continue;
            int part = 0, unit = at;
            for (; unit >= s.chunk; part++) unit -= s.chunk;
            const int input = Matrix::input(first_unit(units, part, s.split) + chunk * s.chunk + unit, e, q);
            to[i] = ((at * EIGHTS + e) * COLUMNS + column) * 4 + q;
            x[i] = input < s.inputs ? *reinterpret_cast<const uint4*>(row(column) + input) : make_uint4(0, 0, 0, 0);
            for (at += step; at >= places; column++) at -= places;
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            if (to[i] >= 0) xs[to[i]] = Matrix::order(x[i]);
    }
}

// The sums of a tile for up to 8 NT rows; false where another warp of the tile has them. U units are read ahead.
template <class Matrix, int NT, int COLUMNS, int U, class Row>
__device__ __forceinline__ bool product(float (&total)[NT][4], const Matrix& matrix, const Row& row, const Place& place, const Sizes& s, int count, uint4* xs) {
    constexpr int EIGHTS = Matrix::EIGHTS;
    const int units = (s.inputs + Matrix::WIDTH - 1) / Matrix::WIDTH;
    const int from = first_unit(units, place.part, s.split), to = first_unit(units, place.part + 1, s.split);
    typename Matrix::Words words[U];
#pragma unroll
    for (int u = 0; u < U; u++)
        if (from + u < to) matrix.load(words[u], from + u, place.q);
    float sum[NT][4] = {};
#pragma unroll
    for (int t = 0; t < NT; t++)
#pragma unroll
        for (int i = 0; i < 4; i++) total[t][i] = 0.f;
    int part = 0, next = s.split == 1 ? first_unit(units, 1, s.parts) : to;
    const int column = COLUMNS == 1 ? 0 : place.r, chunks = (first_unit(units + s.split - 1, 1, s.split) + s.chunk - 1) / s.chunk;
    const int buffer = s.split * s.chunk * EIGHTS * COLUMNS * 4;
    copy_x<Matrix, COLUMNS>(xs, row, s, 0, count);
    for (int chunk = 0; chunk < chunks; chunk++) {
        __syncthreads();
        if (chunk + 1 < chunks) copy_x<Matrix, COLUMNS>(xs + (chunk + 1) % 2 * buffer, row, s, chunk + 1, count);
        const uint4* x = xs + chunk % 2 * buffer + (place.part * s.chunk * EIGHTS * COLUMNS + column) * 4 + place.q;
        const int end = min(from + (chunk + 1) * s.chunk, to);
        for (int unit = from + chunk * s.chunk; unit < end; unit += U) {
#pragma unroll
            for (int u = 0; u < U; u++) {
                if (unit + u >= end) break;
                if (unit + u == next) {
#pragma unroll
                    for (int t = 0; t < NT; t++)
#pragma unroll
                        for (int i = 0; i < 4; i++) total[t][i] += sum[t][i], sum[t][i] = 0.f;
                    part++, next = first_unit(units, part + 1, s.parts);
                }
                Matrix::template add<NT, COLUMNS>(sum, words[u], x + u * EIGHTS * COLUMNS * 4);
                if (unit + u + U < to) matrix.load(words[u], unit + u + U, place.q);
            }
            x += U * EIGHTS * COLUMNS * 4;
        }
    }
#pragma unroll
    for (int t = 0; t < NT; t++)
#pragma unroll
        for (int i = 0; i < 4; i++) total[t][i] += sum[t][i];
    if (s.split > 1) {
        const int warp = threadIdx.x / 32;
        float4* others = reinterpret_cast<float4*>(xs);
        __syncthreads();
        if (place.part) {
#pragma unroll
            for (int t = 0; t < NT; t++) others[(warp * NT + t) * 32 + place.lane] = make_float4(total[t][0], total[t][1], total[t][2], total[t][3]);
        }
        __syncthreads();
        if (place.part) return false;
        for (int k = 1; k < s.split; k++)
#pragma unroll
            for (int t = 0; t < NT; t++) {
                const float4 o = others[((warp + k) * NT + t) * 32 + place.lane];
                total[t][0] += o.x, total[t][1] += o.y, total[t][2] += o.z, total[t][3] += o.w;
            }
    }
#pragma unroll
    for (int t = 0; t < NT; t++)
#pragma unroll
        for (int i = 0; i < 4; i++) total[t][i] *= Matrix::SCALE;
    return true;
}

__device__ __forceinline__ Place place_of(int split) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int shift = __ffs(split) - 1;
    return {lane, lane / 4, lane % 4, (int)blockIdx.x * ((int)(blockDim.x / 32) >> shift) + (warp >> shift), warp & (split - 1)};
}

// Hands each column below `count` to `write`, with its sums for the low row and the high one.
template <int NT, class Write> __device__ __forceinline__ void each_sum(const float (&sum)[NT][4], int q, int count, const Write& write) {
#pragma unroll
    for (int t = 0; t < NT; t++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const int column = 8 * t + 2 * q + j;
            if (column < count) write(column, sum[t][j], sum[t][2 + j]);
        }
}

// Runs `body` with a compile-time number of tiles of 8 columns that is enough for `count`, at most MOST.
template <int N> struct Tiles {
    static constexpr int COUNT = N;
};
template <int MOST, class Body> __device__ __forceinline__ void with_tiles(int count, const Body& body) {
    if constexpr (MOST == 1) {
        body(Tiles<1>());
    } else {
        if (count <= 8) body(Tiles<1>());
        else if (count <= 16) body(Tiles<2>());
        else if (MOST <= 4 || count <= 32) body(Tiles<4>());
        else body(Tiles<MOST>());
    }
}
