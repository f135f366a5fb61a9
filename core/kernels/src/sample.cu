// Sampling: biases and penalties, temperature, top_k, top_p, min_p in transformers' order, and a draw that walks the kept tokens by index.
//
// sample_first changes logits, finds the greatest, and draws where nothing narrows the choice. Else sample_bins counts tokens and weights
// by their distance to the greatest logit, sample_floor looks into the bins that the thresholds of top_k and top_p lie in, and
// sample_draw draws among what is above.
#include "sample.cuh"

namespace {

__device__ __forceinline__ bool limits(const double* p, int vocab) {
    return p[TEMPERATURE] > 0.0 && ((p[TOP_K] > 0.0 && p[TOP_K] < vocab) || p[TOP_P] < 1.0);
}
__device__ __forceinline__ bool narrows(const double* p, int vocab) { return limits(p, vocab) || (p[TEMPERATURE] > 0.0 && p[MIN_P] > 0.0); }

// Order of transformers: biases, repetition, then what counts the answer alone.
__device__ __forceinline__ float changed(float logit, float bias, u32 count, const double* p) {
    const bool seen = count >> 31;
    count &= 0x7fffffffu;
    logit = __fadd_rn(logit, bias);
    const float repetition = (float)p[REPETITION];
    if (seen && repetition != 1.f) logit = logit < 0.f ? __fmul_rn(logit, repetition) : __fdiv_rn(logit, repetition);
    if (count > 0) {
        logit = __fsub_rn(logit, __fmul_rn((float)p[FREQUENCY], (float)count));
        logit = __fsub_rn(logit, (float)p[PRESENCE]);
    }
    return logit;
}

// The first entry of a row's list with a token from `token` on.
__device__ __forceinline__ u32 lower(const u32* tokens, u32 low, u32 high, u32 token) {
    while (low < high) {
        const u32 middle = (low + high) / 2;
        if (tokens[middle] < token) low = middle + 1;
        else high = middle;
    }
    return low;
}

struct Greatest {
    float top;
    u32 best;
    __device__ __forceinline__ void join(float other, u32 at) {
        if (other > top || (other == top && at < best)) top = other, best = at;
    }
};

__device__ __forceinline__ Greatest warp_greatest(Greatest g) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) g.join(__shfl_xor_sync(FULL, g.top, o), __shfl_xor_sync(FULL, g.best, o));
    return g;
}

__device__ __forceinline__ Greatest block_greatest(Greatest g) {
    __shared__ Greatest parts[SAMPLE_WARPS];
    g = warp_greatest(g);
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = g;
    __syncthreads();
#pragma unroll
    for (int w = 0; w < SAMPLE_WARPS; w++) g.join(parts[w].top, parts[w].best);
    return g;
}

__device__ __forceinline__ void tell(u32* tokens, float* logprobs, u32* flags, const float* row, Listed listed, double lse, u32 token, bool bad) {
    if (logprobs) {
        const float given = listed.given(row, token);
        if (threadIdx.x == 0) logprobs[blockIdx.y] = (float)((double)given - lse);
    }
    if (threadIdx.x == 0) tokens[blockIdx.y] = token, flags[blockIdx.y] = bad;
}

// The token that a number in [0, 1) chooses: the first, by index, at which the weights of the kept, added up, pass this share of their
// sum. Chunks have their sums.
template <typename F> __device__ __forceinline__ u32 draw(const Work& w, const float* row, int vocab, double number, F measure) {
    __shared__ int drawn;
    __shared__ u64 rest;
    __shared__ u32 token;
    u64 goal = 0;
    const auto sum_of = [&](int c) { return c < w.chunks ? __ldcg(&w.parts[c].sum) : 0; };
    const u64 first_sum = sum_of(threadIdx.x);
    for (int pass = 0; pass < 2; pass++) { // first the sum of all, then the chunk
        u64 before = 0, total;
        for (int base = 0; base < w.chunks; base += SAMPLE_THREADS) {
            const int c = base + threadIdx.x;
            const u64 own = base == 0 ? first_sum : sum_of(c), at = before + block_scan(own, total);
            if (pass == 1 && at <= goal && goal < at + own) drawn = c, rest = goal - at;
            before += total;
        }
        goal = min((u64)(number * (double)before), before - 1);
    }
    __syncthreads();
    constexpr int OWN = CHUNK / SAMPLE_THREADS;
    const int first = drawn * CHUNK + threadIdx.x * OWN;
    u64 own[OWN], sum = 0, total;
#pragma unroll
    for (int i = 0; i < OWN; i++) sum += own[i] = first + i < vocab ? measure(row[first + i], first + i) : 0;
    u64 before = block_scan(sum, total);
    goal = min(rest, total - 1);
#pragma unroll
    for (int i = 0; i < OWN; i++) {
        if (before <= goal && goal < before + own[i]) token = first + i;
        before += own[i];
    }
    __syncthreads();
    return token;
}

} // namespace

KERNEL __launch_bounds__(SAMPLE_THREADS, 4)
sample_first(u32* tokens, float* logprobs, u32* flags, float* logits, u32* work, const double* parameters, const u32* numbers, const u32* mask,
             const u32* listed_offsets, const u32* listed, const float* biases, const u32* counts, float* saved, int vocab) {
    const Work w(work, vocab);
    const double* p = parameters + blockIdx.y * PARAMETERS;
    float* row = logits + (i64)blockIdx.y * vocab;
    const bool masked = mask && p[MASKED] != 0.0, draws = p[TEMPERATURE] > 0.0;
    const u32* allowed = masked ? mask + (i64)blockIdx.y * ((vocab + 31) / 32) : nullptr;
    const Inverse inverse(draws ? p[TEMPERATURE] : 1.0);
    const int lane = threadIdx.x % 32;
    for (Turn turn; turn.chunk < w.chunks; turn.chunk += turn.step) {
        const int chunk = turn.chunk;
        float x[EACH];
        Part part = {};
        load_chunk(x, row, chunk, vocab);
        if (logprobs) {
            Greatest g = {-INFINITY, 0};
#pragma unroll
            for (int i = 0; i < EACH; i++) g.join(x[i], 0);
            part.raw_top = warp_greatest(g).top;
            float sum = 0.f;
#pragma unroll
            for (int i = 0; i < EACH; i++) sum += x[i] == -INFINITY ? 0.f : expf(x[i] - part.raw_top);
            part.raw_sum = warp_sum(sum);
        }
        if (listed_offsets) {
            const u32 begin = listed_offsets[blockIdx.y], end = listed_offsets[blockIdx.y + 1];
            const u32 from = lower(listed, begin, end, chunk * CHUNK), to = lower(listed, from, end, (chunk + 1) * CHUNK);
            __syncwarp();
            for (u32 i = from + lane; i < to; i += 32) {
                const u32 token = listed[i];
                if (token >= vocab) continue;
                saved[i] = row[token];
                row[token] = changed(saved[i], biases[i], counts[i], p);
            }
            __syncwarp();
            if (from < to) load_chunk(x, row, chunk, vocab);
        }
        if (masked) {
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                const int at = place_of(chunk, i);
                if (at < vocab && !(allowed[at / 32] >> at % 32 & 1)) row[at] = x[i] = -INFINITY;
            }
        }
        Greatest g = {-INFINITY, 0xffffffffu};
        bool bad = false;
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            bad |= isnan(x[i]) || x[i] == INFINITY;
            g.join(x[i], place_of(chunk, i));
        }
        g = warp_greatest(g);
        part.top = g.top, part.best = g.best, part.bad = __any_sync(FULL, bad);
        if (draws && g.top > -INFINITY) {
            u64 sum = 0;
#pragma unroll
            for (int i = 0; i < EACH; i++)
                if (x[i] > -INFINITY) sum += weight(x[i], g.top, inverse);
            part.sum = warp_sum(sum);
        }
        if (lane == 0) w.parts[chunk] = part;
    }
    if (!last_block(&w.state->done[0])) return;

    Greatest g = {-INFINITY, 0xffffffffu}, raw = {-INFINITY, 0};
    bool bad = false;
    for (int c = threadIdx.x; c < w.chunks; c += SAMPLE_THREADS) {
        g.join(__ldcg(&w.parts[c].top), __ldcg(&w.parts[c].best));
        raw.join(__ldcg(&w.parts[c].raw_top), 0);
        bad |= __ldcg(&w.parts[c].bad) != 0;
    }
    g = block_greatest(g), raw = block_greatest(raw);
    bad = __syncthreads_or(bad) || g.top == -INFINITY;
    double lse = 0.0;
    if (logprobs) {
        for (int c = threadIdx.x; c < w.chunks; c += SAMPLE_THREADS) {
            const float sum = __ldcg(&w.parts[c].raw_sum);
            if (sum > 0.f) lse += (double)sum * exp((double)(__ldcg(&w.parts[c].raw_top) - raw.top));
        }
        lse = (double)raw.top + log(block_sum(lse));
    }
    u32 token = min(g.best, (u32)vocab - 1);
    if (threadIdx.x == 0) {
        State& state = *w.state;
        state.top = g.top, state.best = token, state.bad = bad, state.raw_lse = lse;
        state.floor = -INFINITY, state.tie = 0, state.gathered = 0;
    }
    if (draws && !bad && narrows(p, vocab)) return;
    if (draws && !bad) {
        // The sums with the greatest logit of all.
        for (int c = threadIdx.x; c < w.chunks; c += SAMPLE_THREADS) {
            const u64 sum = __ldcg(&w.parts[c].sum);
            const double distance = (double)(g.top - __ldcg(&w.parts[c].top));
            w.parts[c].sum = sum == 0 ? 0 : __double2ull_rn((double)sum * exp(-distance / p[TEMPERATURE]));
        }
        const auto measure = [&](float x, int) { return x > -INFINITY ? weight(x, g.top, inverse) : 0; };
        token = draw(w, row, vocab, unit(numbers + blockIdx.y * 6), measure);
    }
    tell(tokens, logprobs, flags, row, Listed{listed_offsets, listed, saved}, lse, token, bad);
}

KERNEL __launch_bounds__(SAMPLE_THREADS) sample_bins(u32* work, const float* logits, const double* parameters, int vocab) {
    const Work w(work, vocab);
    const double* p = parameters + blockIdx.y * PARAMETERS;
    if (!limits(p, vocab) || w.state->bad) return;
    __shared__ u32 low[BINS], high[BINS], counts[BINS]; // weights in halves: shared memory adds words
    const float* row = logits + (i64)blockIdx.y * vocab;
    const bool by_count = p[TOP_K] > 0.0 && p[TOP_K] < vocab, by_weight = p[TOP_P] < 1.0;
    const float top = w.state->top;
    const Inverse inverse(p[TEMPERATURE]);
    for (int b = threadIdx.x; b < BINS; b += SAMPLE_THREADS) low[b] = high[b] = counts[b] = 0;
    __syncthreads();
    for (Turn turn; turn.chunk < w.chunks; turn.chunk += turn.step) {
        float x[EACH];
        load_chunk(x, row, turn.chunk, vocab);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            if (x[i] == -INFINITY) continue;
            const int bin = bin_of(x[i], top);
            if (by_count) atomicAdd(&counts[bin], 1u);
            const u64 own = by_weight ? weight(x[i], top, inverse) : 0;
            if (own == 0) continue;
            const u32 before = atomicAdd(&low[bin], (u32)own), carry = before + (u32)own < before, more = (u32)(own >> 32) + carry;
            if (more > 0) atomicAdd(&high[bin], more);
        }
    }
    __syncthreads();
    for (int b = threadIdx.x; b < BINS; b += SAMPLE_THREADS) {
        const u64 own = (u64)high[b] << 32 | low[b];
        if (counts[b] > 0) atomicAdd(&w.counts[b], counts[b]);
        if (own > 0) atomicAdd(&w.weights[b], own);
    }
    if (!last_block(&w.state->done[1])) return;

    // The bin of the last token that top_k keeps, and those that the last of top_p may be in, as the tokens of that bin are kept or not.
    __shared__ int k_bin, found[2];
    __shared__ u32 k_left;
    __shared__ u64 below[2];
    constexpr int OWN = BINS / SAMPLE_THREADS;
    if (threadIdx.x == 0) k_bin = BINS, k_left = 0, found[0] = found[1] = 0;
    u64 all;
    if (by_count) {
        u32 own[OWN], sum = 0;
#pragma unroll
        for (int i = 0; i < OWN; i++) sum += own[i] = __ldcg(&w.counts[threadIdx.x * OWN + i]);
        u64 before = block_scan(sum, all);
        const u64 k = (u64)p[TOP_K];
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            if (before < k && k <= before + own[i]) k_bin = threadIdx.x * OWN + i, k_left = (u32)(k - before);
            before += own[i];
        }
        __syncthreads();
    }
    if (by_weight) {
        u64 own[OWN], sum = 0;
#pragma unroll
        for (int i = 0; i < OWN; i++) sum += own[i] = __ldcg(&w.weights[threadIdx.x * OWN + i]);
        u64 before = block_scan(sum, all);
        const u64 start = before;
        if (threadIdx.x == 0) below[0] = below[1] = all;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            if (threadIdx.x * OWN + i == k_bin) below[0] = before, below[1] = before + own[i];
            before += own[i];
        }
        __syncthreads();
        before = start;
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            for (int j = 0; j < 2; j++)
                if (own[i] > 0 && (double)before < p[TOP_P] * (double)below[j]) atomicMax(&found[j], threadIdx.x * OWN + i);
            before += own[i];
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        State& state = *w.state;
        state.k_bin = k_bin, state.k_left = k_left;
        state.first_bin = by_weight ? min(found[0], k_bin) : BINS, state.last_bin = by_weight ? min(found[1], k_bin) : -1;
    }
}

namespace {

// The candidates of a row: those that were kept apart, or, where there are too many, all logits in the bins in question.
struct Candidates {
    const float* row;
    int vocab, first_bin, last_bin, k_bin;
    float top;
    u32 count;
    // In shared memory.
    float* logits;
    u32* places;

    __device__ __forceinline__ bool wanted(float x) const {
        if (x == -INFINITY) return false;
        const int bin = bin_of(x, top);
        return bin == k_bin || (bin >= first_bin && bin <= last_bin);
    }

    template <typename F> __device__ __forceinline__ void each(F f) const {
        if (count <= CANDIDATES) {
            for (u32 i = threadIdx.x; i < count; i += SAMPLE_THREADS) f(logits[i], places[i]);
        } else {
            for (int i = threadIdx.x; i < vocab; i += SAMPLE_THREADS)
                if (wanted(row[i])) f(row[i], (u32)i);
        }
    }
};

constexpr int SEARCH_BITS = 10, SEARCH_BINS = 1 << SEARCH_BITS;

struct Found {
    u32 key;
    u64 above; // the measure of greater keys
};

// The least key of which all greater ones measure less than `target`. `key` is a number of a candidate, `measure` 0 where it is none.
// `sums` is room for SEARCH_BINS.
template <typename K, typename M> __device__ Found search(u64* sums, const Candidates& all, double target, K key, M measure) {
    __shared__ u32 least, greatest, chosen;
    __shared__ u64 passed;
    constexpr int OWN = SEARCH_BINS / SAMPLE_THREADS;
    __syncthreads();
    if (threadIdx.x == 0) least = 0xffffffffu, greatest = 0;
    __syncthreads();
    u32 low = 0xffffffffu, high = 0;
    all.each([&](float x, u32 place) {
        if (measure(x, place) > 0) low = min(low, key(x, place)), high = max(high, key(x, place));
    });
    low = __reduce_min_sync(FULL, low), high = __reduce_max_sync(FULL, high);
    if (threadIdx.x % 32 == 0) atomicMin(&least, low), atomicMax(&greatest, high);
    __syncthreads();
    low = least, high = max(greatest, low);
    u64 above = 0;
    while (high > low) {
        const int bits = 32 - __clz(high - low), shift = max(bits - SEARCH_BITS, 0);
        for (int b = threadIdx.x; b < SEARCH_BINS; b += SAMPLE_THREADS) sums[b] = 0;
        __syncthreads();
        all.each([&](float x, u32 place) {
            const u64 own = measure(x, place);
            const u32 at = key(x, place);
            if (own > 0 && at >= low && at <= high) atomicAdd(&sums[(at - low) >> shift], own);
        });
        __syncthreads();
        // Thread 0 has the greatest keys.
        u64 own[OWN], sum = 0, total;
#pragma unroll
        for (int i = 0; i < OWN; i++) sum += own[i] = sums[SEARCH_BINS - 1 - (threadIdx.x * OWN + i)];
        u64 before = above + block_scan(sum, total);
        if (threadIdx.x == 0) chosen = SEARCH_BINS, passed = above;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            const u32 bin = SEARCH_BINS - 1 - (threadIdx.x * OWN + i);
            if (own[i] > 0 && (double)before < target) atomicMin(&chosen, bin);
            before += own[i];
        }
        __syncthreads();
        before -= sum;
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            if (SEARCH_BINS - 1 - (threadIdx.x * OWN + i) == chosen) passed = before;
            before += own[i];
        }
        __syncthreads();
        above = passed;
        const u32 bin = chosen;
        __syncthreads();
        low += bin << shift;
        high = min(high, low + ((1u << shift) - 1));
    }
    return {low, above};
}

} // namespace

KERNEL __launch_bounds__(SAMPLE_THREADS) sample_floor(u32* work, const float* logits, const double* parameters, int vocab) {
    const Work w(work, vocab);
    const double* p = parameters + blockIdx.y * PARAMETERS;
    if (!limits(p, vocab) || w.state->bad) return;
    State& state = *w.state;
    const float* row = logits + (i64)blockIdx.y * vocab;
    __shared__ float near[CANDIDATES];
    __shared__ u32 places[CANDIDATES];
    __shared__ u64 sums[SEARCH_BINS];
    Candidates all = {row, vocab, state.first_bin, state.last_bin, state.k_bin, state.top, 0, near, places};
    for (Turn turn; turn.chunk < w.chunks; turn.chunk += turn.step) {
        float x[EACH];
        load_chunk(x, row, turn.chunk, vocab);
        u32 own = 0;
#pragma unroll
        for (int i = 0; i < EACH; i++) own |= (u32)all.wanted(x[i]) << i;
        if (!__any_sync(FULL, own != 0)) continue;
        const u32 count = __popc(own), lane = threadIdx.x % 32;
        u32 sum = count, at = 0;
#pragma unroll
        for (int o = 1; o < 32; o <<= 1) {
            const u32 other = __shfl_up_sync(FULL, sum, o);
            if (lane >= o) sum += other;
        }
        if (lane == 31) at = atomicAdd(&state.gathered, sum);
        at = __shfl_sync(FULL, at, 31) + sum - count;
        for (; own != 0; own &= own - 1, at++)
            if (at < CANDIDATES) w.places[at] = place_of(turn.chunk, __ffs(own) - 1);
    }
    if (!last_block(&state.done[2])) return;

    all.count = __ldcg(&state.gathered);
    // All reads first, so that they are under way together.
    constexpr int PARTS = CANDIDATES / SAMPLE_THREADS;
    u32 own[PARTS];
    float logits_there[PARTS];
#pragma unroll
    for (int i = 0; i < PARTS; i++) own[i] = i * SAMPLE_THREADS + threadIdx.x < all.count ? __ldcg(w.places + i * SAMPLE_THREADS + threadIdx.x) : 0;
#pragma unroll
    for (int i = 0; i < PARTS; i++) logits_there[i] = __ldg(row + own[i]);
#pragma unroll
    for (int i = 0; i < PARTS; i++) places[i * SAMPLE_THREADS + threadIdx.x] = own[i], near[i * SAMPLE_THREADS + threadIdx.x] = logits_there[i];
    __syncthreads();
    const float top = all.top;
    const Inverse inverse(p[TEMPERATURE]);
    const auto bin = [&](float x) { return bin_of(x, top); };
    const auto by_logit = [](float x, u32) { return order_key(x); };
    float floor = -INFINITY;
    u32 tie = 0;
    if (all.k_bin < BINS) {
        const auto one = [&](float x, u32) { return (u64)(bin(x) == all.k_bin); };
        floor = from_order_key(search(sums, all, (double)state.k_left, by_logit, one).key);
    }
    if (p[TOP_P] < 1.0) {
        constexpr int OWN = BINS / SAMPLE_THREADS;
        __shared__ int p_bin;
        __shared__ u64 kept, k_weight;
        const auto stays = [&](float x) { return x >= floor; };
        if (threadIdx.x == 0) p_bin = 0, k_weight = 0;
        __syncthreads();
        if (all.k_bin < BINS) all.each([&](float x, u32) {
            if (bin(x) == all.k_bin && stays(x)) atomicAdd(&k_weight, weight(x, top, inverse));
        });
        __syncthreads();
        // The weights by bin, of the last bin of top_k those that stay.
        u64 own[OWN], sum = 0, total;
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            const int b = threadIdx.x * OWN + i;
            sum += own[i] = b < all.k_bin ? __ldcg(&w.weights[b]) : b == all.k_bin ? k_weight : 0;
        }
        u64 before = block_scan(sum, total);
        const double target = p[TOP_P] * (double)total;
        const u64 start = before;
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            if (own[i] > 0 && (double)before < target) atomicMax(&p_bin, threadIdx.x * OWN + i);
            before += own[i];
        }
        __syncthreads();
        before = start;
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            if (threadIdx.x * OWN + i == p_bin) kept = before;
            before += own[i];
        }
        __syncthreads();
        const auto in_bin = [&](float x, u32) { return bin(x) == p_bin && stays(x) ? weight(x, top, inverse) : 0; };
        const Found least = search(sums, all, target - (double)kept, by_logit, in_bin);
        floor = from_order_key(least.key);
        // Of equal logits those with greater places stay, as many as are needed.
        const u64 each = weight(floor, top, inverse);
        const double needed = ceil((target - (double)kept - (double)least.above) / (double)each);
        const auto equal = [&](float x, u32) { return (u64)(x == floor); };
        tie = search(sums, all, needed, [](float, u32 place) { return place; }, equal).key;
    }
    for (int b = threadIdx.x; b < BINS; b += SAMPLE_THREADS) w.counts[b] = 0, w.weights[b] = 0;
    if (threadIdx.x == 0) state.floor = floor, state.tie = tie, state.gathered = 0;
}

KERNEL __launch_bounds__(SAMPLE_THREADS, 4)
sample_draw(u32* tokens, float* logprobs, u32* flags, u32* work, const float* logits, const double* parameters, const u32* numbers,
            const u32* listed_offsets, const u32* listed, float* saved, int vocab) {
    const Work w(work, vocab);
    const double* p = parameters + blockIdx.y * PARAMETERS;
    const State& state = *w.state;
    if (!narrows(p, vocab) || state.bad) return;
    const float* row = logits + (i64)blockIdx.y * vocab;
    const float top = state.top, floor = state.floor;
    const u32 tie = state.tie;
    const Inverse inverse(p[TEMPERATURE]);
    const double least = p[MIN_P] * (double)ONE;
    const auto kept = [&](float x, int place) -> u64 {
        if (x == -INFINITY || x < floor || (x == floor && (u32)place < tie)) return 0;
        const u64 own = weight(x, top, inverse);
        if (least <= 0.0 || (double)own > least * 1.00001) return own;
        if ((double)own < least * 0.99999) return 0;
        return exp((double)(x - top) / p[TEMPERATURE]) >= p[MIN_P] ? own : 0; // too near for a float
    };
    for (Turn turn; turn.chunk < w.chunks; turn.chunk += turn.step) {
        float x[EACH];
        load_chunk(x, row, turn.chunk, vocab);
        u64 sum = 0;
#pragma unroll
        for (int i = 0; i < EACH; i++) sum += kept(x[i], place_of(turn.chunk, i));
        sum = warp_sum(sum);
        if (threadIdx.x % 32 == 0) w.parts[turn.chunk].sum = sum;
    }
    if (!last_block(&w.state->done[3])) return;

    const u32 token = draw(w, row, vocab, unit(numbers + blockIdx.y * 6), kept);
    tell(tokens, logprobs, flags, row, Listed{listed_offsets, listed, saved}, state.raw_lse, token, false);
}
