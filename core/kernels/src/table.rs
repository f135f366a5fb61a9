//! The modules and, in each one's documentation, its kernels: arguments in order, what they compute, launch geometry.

use crate::Module;

macro_rules! module {
    ($name:literal) => {
        Module {
            name: concat!("apus_", $name),
            image: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".fatbin")),
        }
    };
}

/// RMS norm, f32 inside, the weight multiplied before the cast. Row geometry unless said otherwise.
/// - `rms_norm_forward(bf16* y, bf16* sum, bf16* x, bf16* delta or null, bf16* w, i32 rows, i32 width, f32 eps)`: with delta, sum = x + delta is normed
/// - `rms_norm_backward(bf16* dx, bf16* x, bf16* w, bf16* dy, bf16* add or null, i32 rows, i32 width, f32 eps)`
/// - `rms_norm_rstd(f32* rstd [rows], bf16* x, i32 rows, i32 width, f32 eps)`: first step of the weight gradient
/// - `rms_norm_weight_grad(f32* partial [B, width], bf16* x, bf16* dy, f32* rstd, i32 rows, i32 width, i32 rows_per_block)`:
///   `grid = (ceil(width/256), B)`, `B = ceil(rows/rows_per_block)`, `block = 256`; finish with `sum_rows` of [`REDUCE`]
pub const RMS_NORM: Module = module!("rms_norm");

/// Rotary embedding of packed qkv rows, half-split; cos and sin `[max_pos, D/2]`. D a multiple of 16.
/// - `rope_apply(bf16* y, bf16* x, f32* cos, f32* sin, u32* positions [T], i64 tokens, i32 q_heads, i32 kv_heads, i32 dim, i32 transpose)`:
///   x and y `[T, (Q+2*KV)*D]`, may be the same tensor; v is copied. `grid = ceil(T*(Q+2*KV)*D/16 / 256)`, `block = 256`
pub const ROPE: Module = module!("rope");

/// Attention with sinks for head dim 16; the documentation of [`ATTENTION_D64`] holds for it.
pub const ATTENTION_D16: Module = module!("attention_d16");
/// Attention with sinks for head dim 32; the documentation of [`ATTENTION_D64`] holds for it.
pub const ATTENTION_D32: Module = module!("attention_d32");
/// Attention with sinks: causal inside each sequence, grouped heads, optional window, flash style on tensor cores.
///
/// Common arguments: `q`, `k`, `v` point at head 0 of row 0 and have row strides (packed qkv: `qkv`, `qkv + Q*D`,
/// `qkv + (Q+KV)*D`, all strides `(Q+2*KV)*D`); strides are multiples of 8, pointers 16-byte aligned. `cu` are the
/// sequence offsets `[n+1]`. `window` 0 means none, else a query sees `window` keys, itself included. `scale` is
/// `1/sqrt(D)`. `lse` and `delta` are `[Q, T]`, natural logarithm, the sink included.
/// [`attention_tile`] gives the rows of a tile; `tiles = sum over sequences of ceil(len / tile)`, `block = 128`. On Hopper the three
/// large kernels have faster versions: ask [`attention_large`] for module and block.
/// - `attention_forward(bf16* out, f32* lse, bf16* q, bf16* k, bf16* v, bf16* sinks [Q], u32* cu_q, u32* cu_k, i32 n, i32 total_q,
///   i32 total_k, i32 q_stride, i32 kv_stride, i32 out_stride, i32 q_heads, i32 kv_heads, i32 window, f32 scale)`: `grid = (Q, tiles of q)`.
///   The last query of a sequence stands at its last key, so with a cache k may be longer than q (`cu_k` counts
///   keys). `cu_q = cu_k = null` (0) with n = 1 means one sequence of total_q queries and total_k keys. `lse` may be null.
/// - `attention_delta(f32* delta, bf16* out, bf16* dout, i32 tokens, i32 q_heads)`: row sums of out*dout, both `[T, Q*D]`;
///   `grid = ceil(T*Q/128)`, `block = 128`
/// - `attention_backward_kv(bf16* dk, bf16* dv, bf16* q, bf16* k, bf16* v, bf16* dout, f32* lse, f32* delta, u32* cu, i32 n, i32 tokens,
///   i32 stride, i32 dout_stride, i32 q_heads, i32 kv_heads, i32 window, f32 scale)`: `grid = (KV, tiles)`; stride is that of q, k, v, dk, dv
/// - `attention_backward_q(bf16* dq, bf16* q, ... the same arguments)`: `grid = (Q, tiles)`; dq has `stride` too
/// - `attention_sink_grad(f32* dsinks [Q], f32* lse, f32* delta, bf16* sinks, i32 tokens)`: `grid = Q`, `block = 256`
/// - `attention_decode(f32* partial [Tq*Q, splits, D+2], bf16* q, bf16* k, bf16* v, i32 q_len, i32 k_len, i32 q_stride, i32 kv_stride,
///   i32 q_heads, i32 kv_heads, i32 window, f32 scale, i32 splits)`: for few queries (1 to 8) against a long cache, query i at
///   position k_len-q_len+i; `grid = (Q, splits, Tq)`, `block = 128`; `splits = clamp(ceil(seen/256), 1, 64)`, seen = keys in the window
/// - `attention_decode_combine(bf16* out [Tq, Q*D], f32* partial, bf16* sinks, i32 q_heads, i32 splits)`: `grid = Tq*Q`, `block = D`
pub const ATTENTION_D64: Module = module!("attention_d64");
/// Attention with sinks for head dim 128; the documentation of [`ATTENTION_D64`] holds for it.
pub const ATTENTION_D128: Module = module!("attention_d128");

/// `attention_forward`, `attention_backward_kv` and `attention_backward_q` of [`ATTENTION_D64`] for compute capability 9.0
/// and no other: the same arguments and grids, `block = 256`. [`attention_large`] says when to take them.
pub const ATTENTION_D64_HOPPER: Module = module!("attention_d64_hopper");

/// The attention module of a head dim, if there is one.
pub fn attention(head_dim: usize) -> Option<&'static Module> {
    match head_dim {
        16 => Some(&ATTENTION_D16),
        32 => Some(&ATTENTION_D32),
        64 => Some(&ATTENTION_D64),
        128 => Some(&ATTENTION_D128),
        _ => None,
    }
}

/// Module and block size for `attention_forward`, `attention_backward_kv` or `attention_backward_q` on a card of compute
/// capability `capability` (major, minor): the fastest measured. `windowed` tells whether there is a sliding window.
pub fn attention_large(
    kernel: &str,
    head_dim: usize,
    capability: (i32, i32),
    windowed: bool,
) -> Option<(&'static Module, u32)> {
    let faster = !windowed || kernel == "attention_forward";
    let hopper = head_dim == 64 && capability == (9, 0) && faster;
    if hopper {
        Some((&ATTENTION_D64_HOPPER, 256))
    } else {
        Some((attention(head_dim)?, 128))
    }
}

/// Rows (of queries, or of keys in `attention_backward_kv`) that one block of the attention kernels covers.
pub const fn attention_tile(head_dim: usize) -> usize {
    if head_dim <= 64 { 128 } else { 64 }
}

/// Routing of tokens to experts.
/// - `router_top_k(u32* ids [T,K], f32* logits [T,E], i32 tokens, i32 experts, i32 k)`: descending, ties to the lower index, NaN last;
///   row geometry over T
/// - `router_weights(f32* weights [T,K], f32* logits, u32* ids, i32 tokens, i32 experts, i32 k)`: softmax over the kept; `grid = ceil(T/128)`, `block = 128`
/// - `router_weights_backward(f32* dlogits [T,E], f32* weights, u32* ids, f32* dweights [T,K], i32 tokens, i32 experts, i32 k)`: writes every
///   element; row geometry over T
pub const ROUTER: Module = module!("router");

/// Rows moved between token order and expert order. `order [N]` is the source row t*K+j of each sorted row,
/// `inverse [N]` the sorted row of (t, j). Row geometry over the tokens.
/// - `permute_gather(bf16* y [N,H], bf16* x [T,H], u32* inverse, i64 tokens, i32 width, i32 k)`
/// - `permute_gather_backward(bf16* dx [T,H], bf16* add [T,H] or null, bf16* dy [N,H], u32* inverse, i64 tokens, i32 width, i32 k)`
/// - `permute_combine(bf16* out [T,H], bf16* residual [T,H] or null, bf16* y [N,H], f32* weights [T,K], u32* inverse, i64 tokens, i32 width, i32 k)`
pub const PERMUTE: Module = module!("permute");

/// Biases of linear layers and of experts' layers (rows sorted by expert, `offsets [E+1]`).
/// - `add_bias(bf16* y [rows,width] in place, bf16* bias [width], i64 rows, i32 width)`: row geometry
/// - `grouped_add_bias(bf16* y [N,width] in place, bf16* bias [E,width], u32* offsets, i64 rows N, i32 width, i32 experts)`: row geometry
/// - `column_sum(f32* out [width], bf16* x [rows,width], i64 rows, i32 width)`: `grid = ceil(width/64)`, `block = 256`
/// - `grouped_bias_grad(f32* db [E,width], bf16* dy [N,width], u32* offsets, i32 width)`: `grid = (ceil(width/64), E)`, `block = 256`
pub const BIAS: Module = module!("bias");

/// Products of rows in groups with bf16 matrices, all groups in one launch, for compute capability 9.0 and no other; their sizes are read on
/// the device. `offsets [G+1]` are the first rows of the groups and the end; a group may be empty.
/// - `product_nt(bf16* out [N,O], bf16* bias [G,O] or null, u32* offsets, i32 groups, i32 n (O), i32 k (I), i32 low (P), map a, map b, map a_low,
///   map b_low, map out)`: out = x w^T + bias (+ x_low w_low^T if P is not 0), x `[N,I]`, w `[G,O,I]`, x_low `[N,P]`, w_low `[G,O,P]`
/// - `product_nn(...)`: out = x w + bias (+ x_low w_low), w `[G,I,O]`, w_low `[G,P,O]`
///
/// I, O and P are multiples of 8, G is at most [`product_hopper::MOST_GROUPS`]. Maps are `CUtensorMap`s of the matrices, those of all groups one below the other,
/// with the 128-byte swizzle and zeros out of bounds, in boxes of 64 columns and 64 rows (for b and b_low of `product_nt`
/// [`product_hopper::COLUMNS_A_TILE`] rows); without a low-rank part a_low and b_low may be any. `grid` = the multiprocessors, `block` and dynamic shared memory as in [`product_hopper`].
pub const PRODUCT_HOPPER: Module = module!("product_hopper");

/// Launch geometry of [`PRODUCT_HOPPER`].
pub mod product_hopper {
    /// Threads of a block.
    pub const THREADS: u32 = 384;
    /// Most groups.
    pub const MOST_GROUPS: usize = 128;
    /// Columns of the result that a block works on at a time.
    pub const COLUMNS_A_TILE: usize = 192;
    /// Three stages of both operands, a buffer of results for each of two warpgroups, alignment.
    pub const SHARED_BYTES: u32 = 3 * (256 + 192) * 128 + 2 * 64 * 192 * 2 + 1024;
}

/// Low-rank updates of rows in groups. NT of the kernels' names is 1 to 8: the rank in eights, rounded up, P = 8 NT.
/// - `lora_down_NT(bf16* z [N,P], bf16* x [N,K], bf16* a [G,P,K], u32* offsets or null for one group, i32 groups, i32 rows N, i32 k)`: z = x a^T;
///   `grid = ceil(N/32) + G`, `block = 256`
/// - `lora_gradient_NT(f32* out, bf16* x [N,W], bf16* z [N,P], u32* offsets, i32 width, i32 rank, i64 group_stride, i64 i_stride, i64 r_stride, i64 split_stride,
///   f32 scale)`: out[g,i,r] = scale * sum over rows of g of x[row,i] z[row,r], i < W, r < rank, at the strides; `grid = (ceil(W/64), G, splits)`,
///   `block = 256`; split s sums its share of the rows into out + s*split_stride
/// - `lora_pack_a(bf16* out [G,P,K], f32* a [G,rank,K], i32 groups, i32 rank, i32 rows, i32 k, i32 pitch (P), i32 first)`: rows first..first+rows of out, zero from
///   `rank` on; `grid = ceil(G*rows*K/256)`, `block = 256`
/// - `lora_pack_b(bf16* wide [G,all,P], bf16* tall [G,P,all], f32* b [W,rank,G], f32 scale, i32 groups, i32 rank, i32 width (W), i32 pitch (P), i32 first, i32 all,
///   i32 at)`: scale*b in columns first..first+rank of outputs at..at+W, zeros in the others of these outputs; `grid = ceil(G*W*P/256)`, `block = 256`
///
/// K and W are multiples of 8.
pub const LORA: Module = module!("lora");

/// Pairs (token, choice) sorted by expert, stable.
/// - `route_count(u32* counts [blocks,E], u32* ids [pairs], i32 pairs, i32 experts)`: `grid = blocks = ceil(pairs/1024)`, `block = 1024`
/// - `route_scan(u32* offsets [E+1], u32* counts in place, i32 blocks, i32 experts)`: `grid = 1`, `block = 256`; counts become first rows
/// - `route_scatter(u32* order [pairs], u32* inverse [pairs], u32* ids, u32* counts, i32 pairs, i32 experts)`: `grid = blocks`, `block = 1024`
pub const ROUTE: Module = module!("route");

/// Launch geometry of [`ROUTE`].
pub mod route {
    /// Most experts.
    pub const MOST_EXPERTS: usize = 256;
    /// Pairs that a block takes.
    pub const PAIRS_PER_BLOCK: usize = 1024;
}

/// Clamped swiglu of gpt-oss on interleaved (gate, up) pairs, alpha 1.702. `count = N*F`, the outputs of forward; element geometry.
/// - `swiglu_forward(bf16* h [N,F], bf16* gate_up [N,2F], i64 count, f32 limit)`
/// - `swiglu_backward(bf16* dgate_up [N,2F], f32* dweights [T,K], bf16* gate_up, bf16* dh [N,F], f32* weights [T,K], u32* order [N], u32* ids [T,K],
///   bf16* by_bias [T,E], i64 rows N, i32 width F, i32 k, i32 experts, f32 limit)`: through the weighted sum of experts too; dgate_up may be gate_up; row
///   geometry over N
pub const SWIGLU: Module = module!("swiglu");

/// MXFP4 to bf16, exact.
/// - `mxfp4_dequantize(bf16* out [n,O,I], u8* blocks [E,O,I/32,16], u8* scales [E,O,I/32], u32* experts [n] or null for all, i64 per_expert (O*I), i32 n)`:
///   `grid = (ceil(per_expert/8192), n)`, `block = 256`; a listed expert not below E reads out of bounds: check on the host
pub const MXFP4: Module = module!("mxfp4");

/// Cross entropy over the vocabulary; a label not below V gives NaN.
/// - `cross_entropy_forward_{bf16,f32}(f32* loss [n], f32* lse [n], u32* best [n], x* logits [n,V], u32* labels [n], i32 vocab)`: `grid = n`,
///   `block = 512`; best is the place of the greatest logit, the lowest of equal ones
/// - `cross_entropy_backward_{bf16,f32}(x* dlogits, x* logits, f32* lse, u32* labels, f32* dloss [n], i32 vocab)`: `grid = (n, ceil(V/8192))`,
///   `block = 256`; dlogits may be logits
pub const CROSS_ENTROPY: Module = module!("cross_entropy");

/// Counter-based random numbers, Philox4x32-10; the rule is in `philox.cuh`.
/// - `dropout_{bf16,f32}(x* y, x* x, i64 count, u64 seed, u32 threshold, f32 scale)`: element geometry; y may be x
/// - `fill_normal_{bf16,f32}(x* y, i64 count, u64 seed, u64 stream, u64 first, f32 mean, f32 std)`: element geometry
/// - `fill_bytes(u8* y, i64 count, u64 seed, u64 stream, u64 first, u32 low, u32 span)`: element geometry
///
/// `first` (a multiple of 4; of 16 for bytes) is the index of element 0 in the stream.
pub const RANDOM: Module = module!("random");

/// One AdamW update in torch's order, f32, in place; element geometry.
/// - `adamw_step(f32* p, f32* g, f32* m, f32* v, i64 count, f32 grad_scale, f32 decay, f32 beta1, f32 beta2, f32 step_size, f32 sqrt_bc2, f32 eps)`:
///   g *= grad_scale (in a register); p *= decay (1 - lr*wd); m += (g-m)*(1-beta1); v = v*beta2 + g*g*(1-beta2);
///   p -= step_size (lr/bc1) * m / (sqrt(v)/sqrt_bc2 + eps)
pub const ADAMW: Module = module!("adamw");

/// Deterministic sums.
/// - `square_sum_f32(f64* partial [blocks], f32* x, i64 count)`: `grid = blocks` (any number; `min(ceil(count/2048), 1024)` is good), `block = 256`;
///   block b writes `partial[b]`. Give each tensor its own stretch of one buffer, then sum all at once:
/// - `sum_f64(f64* out [1], f64* x, i64 count)`: `grid = 1`, `block = 256`
/// - `sum_rows(f32* out [width], f32* x [rows,width], i32 rows, i32 width)`: `grid = ceil(width/256)`, `block = 256`
pub const REDUCE: Module = module!("reduce");

/// Every module, for tests that load them all.
pub const MODULES: [&Module; 19] = [
    &RMS_NORM,
    &ROPE,
    &ATTENTION_D16,
    &ATTENTION_D32,
    &ATTENTION_D64,
    &ATTENTION_D128,
    &ATTENTION_D64_HOPPER,
    &ROUTER,
    &PERMUTE,
    &BIAS,
    &SWIGLU,
    &PRODUCT_HOPPER,
    &LORA,
    &ROUTE,
    &MXFP4,
    &CROSS_ENTROPY,
    &RANDOM,
    &ADAMW,
    &REDUCE,
];
