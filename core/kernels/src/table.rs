//! Every kernel, declared once: its parameters as in the source, what it computes, its grid. `declare.rs` says how to read a
//! declaration; the build script reads the same table for the modules that it compiles.

kernels! {
    /// RMS norm, f32 inside, the weight multiplied before the cast.
    module RMS_NORM = "rms_norm";
    {
        /// With `delta`, `sum = x + delta` is written and normed.
        rms_norm_forward(
            y: Out<bf16>, sum: OutOrNull<bf16>, x: In<bf16>, delta: InOrNull<bf16>, w: In<bf16>, rows: i32, width: i32, eps: f32,
        ) => Grid::rows(rows);
        /// The gradient by `x`, plus `add`.
        rms_norm_backward(
            dx: Out<bf16>, x: In<bf16>, w: In<bf16>, dy: In<bf16>, add: InOrNull<bf16>, rows: i32, width: i32, eps: f32,
        ) => Grid::rows(rows);
        /// The first step of the gradient by the weight: `rstd` `[rows]`.
        rms_norm_rstd(rstd: Out<f32>, x: In<bf16>, rows: i32, width: i32, eps: f32) => Grid::rows(rows);
        /// The second: `partial` `[B, width]` with `B = ceil(rows / rows_per_block)`, of which [`sum_rows`] makes the sum.
        rms_norm_weight_grad(
            partial: Out<f32>, x: In<bf16>, dy: In<bf16>, rstd: In<f32>, rows: i32, width: i32, rows_per_block: i32,
        ) => Grid::new([width.div_ceil(256), rows.div_ceil(rows_per_block), 1], 256);
    }

    /// Rotary embedding of packed qkv rows, half-split.
    module ROPE = "rope";
    {
        /// `x` and `y` `[T, (Q + 2 KV) D]`, which may be the same tensor; v is copied. `cos` and `sin` are `[positions, D / 2]`, D is
        /// a multiple of 16. `transpose` is 0 or 1.
        rope_apply(
            y: Out<bf16>, x: In<bf16>, cos: In<f32>, sin: In<f32>, positions: In<u32>,
            tokens: i64, q_heads: i32, kv_heads: i32, dim: i32, transpose: i32,
        ) => Grid::each(tokens * (q_heads + 2 * kv_heads) * dim / 16, 256, 256);
    }

    /// Attention with sinks for head dim 16: causal inside each sequence, grouped heads, optional window, flash style on tensor cores.
    ///
    /// `q`, `k`, `v` point at head 0 of row 0 and have row strides (packed qkv: `qkv`, `qkv + Q*D`, `qkv + (Q+KV)*D`, all strides
    /// `(Q+2*KV)*D`); strides are multiples of 8, pointers 16-byte aligned. `cu` are the sequence offsets `[n + 1]`. `window` 0 means
    /// none, else a query sees `window` keys, itself included. `scale` is `1 / sqrt(D)`. `lse` and `delta` are `[Q, T]`, natural
    /// logarithm, the sink included. `tiles` is the sum over sequences of `ceil(len / tile)`, with [`crate::attention_tile`].
    module ATTENTION_D16 = "attention_d16" from "attention" with "HEAD_DIM=16";
    /// The same for head dim 32.
    module ATTENTION_D32 = "attention_d32" from "attention" with "HEAD_DIM=32";
    /// The same for head dim 64.
    module ATTENTION_D64 = "attention_d64" from "attention" with "HEAD_DIM=64";
    /// The same for head dim 128.
    module ATTENTION_D128 = "attention_d128" from "attention" with "HEAD_DIM=128";
    /// The large kernels for head dim 64 on compute capability 9.0 and no other.
    module ATTENTION_D64_HOPPER = "attention_d64_hopper" from "attention_hopper" with "HEAD_DIM=64" with "HOPPER" only "90a";
    {
        /// The last query of a sequence stands at its last key, so with a cache k may be longer than q (`cu_k` counts keys). Without
        /// `cu_q` and `cu_k`, and n = 1, there is one sequence of `total_q` queries and `total_k` keys.
        attention_forward(
            out: Out<bf16>, lse: OutOrNull<f32>, q: In<bf16>, k: In<bf16>, v: In<bf16>, sinks: In<bf16>, cu_q: InOrNull<u32>, cu_k: InOrNull<u32>,
            n: i32, total_q: i32, total_k: i32, q_stride: i32, kv_stride: i32, out_stride: i32, q_heads: i32, kv_heads: i32, window: i32, scale: f32,
        ) with (version: LargeAttention, tiles: usize) in version.module => Grid::new([q_heads, tiles, 1], version.threads);
        /// `stride` is that of q, k, v, dk and dv.
        attention_backward_kv(
            dk: Out<bf16>, dv: Out<bf16>, q: In<bf16>, k: In<bf16>, v: In<bf16>, dout: In<bf16>, lse: In<f32>, delta: In<f32>, cu: In<u32>,
            n: i32, tokens: i32, stride: i32, dout_stride: i32, q_heads: i32, kv_heads: i32, window: i32, scale: f32,
        ) with (version: LargeAttention, tiles: usize) in version.module => Grid::new([kv_heads, tiles, 1], version.threads);
        /// `stride` is that of q, k, v and dq.
        attention_backward_q(
            dq: Out<bf16>, q: In<bf16>, k: In<bf16>, v: In<bf16>, dout: In<bf16>, lse: In<f32>, delta: In<f32>, cu: In<u32>,
            n: i32, tokens: i32, stride: i32, dout_stride: i32, q_heads: i32, kv_heads: i32, window: i32, scale: f32,
        ) with (version: LargeAttention, tiles: usize) in version.module => Grid::new([q_heads, tiles, 1], version.threads);
    }

    in ATTENTION_D16; in ATTENTION_D32; in ATTENTION_D64; in ATTENTION_D128;
    {
        /// The row sums of `out * dout`, both `[T, Q D]`.
        attention_delta(delta: Out<f32>, out: In<bf16>, dout: In<bf16>, tokens: i32, q_heads: i32)
            with (version: Attention) in version.module => Grid::each(tokens * q_heads, 128, 128);
        /// `dsinks` `[Q]`.
        attention_sink_grad(dsinks: Out<f32>, lse: In<f32>, delta: In<f32>, sinks: In<bf16>, tokens: i32)
            with (version: Attention, q_heads: usize) in version.module => Grid::new([q_heads, 1, 1], 256);
        /// One query a sequence against keys and values in pages. `q` are rows at `q_stride`, `table` `[S, pages]` the pages of each
        /// sequence, `lengths` `[S]` its keys, the query's own included; 0 gives a row of zeros. `partial` is
        /// `[S, Q, most_splits, D]`, `weights` `[S, Q, most_splits, 2]`; `most_splits` is [`crate::paged_splits`] of the greatest
        /// length. `done` `[S, KV ceil(Q / KV / 8)]` is 0 before and after.
        paged_attention(
            out: Out<bf16>, partial: Out<f32>, weights: Out<f32>, done: Out<u32>, q: In<bf16>, keys: In<bf16>, values: In<bf16>, sinks: In<bf16>,
            table: In<u32>, lengths: In<u32>, pages: i32, q_stride: i32, q_heads: i32, kv_heads: i32, window: i32, most_splits: i32, scale: f32,
        ) with (version: Attention, sequences: usize, takers: usize) in version.module
            => Grid::new([kv_heads * (q_heads / kv_heads).div_ceil(PAGED_ROWS), takers, sequences], 128);
    }

    /// Keys and values of a layer in pages of [`crate::PAGE`] positions, `[pages, PAGE, KV D]` each: a position's slot is
    /// `page * PAGE + position % PAGE`.
    module PAGED = "paged";
    {
        /// Rotates queries and keys of `x` `[T, (Q + 2 KV) D]` to `y`, which may be `x`, and puts keys and values into `slots` `[T]`; a row
        /// whose slot is `u32::MAX` is only rotated. The angles are those of [`rope_apply`].
        paged_write(
            y: Out<bf16>, keys: Out<bf16>, values: Out<bf16>, x: In<bf16>, cos: In<f32>, sin: In<f32>, positions: In<u32>, slots: In<u32>,
            tokens: i32, q_heads: i32, kv_heads: i32, dim: i32,
        ) => Grid::each(tokens * (q_heads + 2 * kv_heads) * dim / 16, 128, 128);
        /// `keys_out` and `values_out` `[rows, width]`: rows `cu[s]..cu[s + 1]` are the positions from `firsts[s]` on of sequence s.
        paged_gather(
            keys_out: Out<bf16>, values_out: Out<bf16>, keys: In<bf16>, values: In<bf16>, table: In<u32>, cu: In<u32>, firsts: In<u32>,
            n: i32, rows: i32, pages: i32, width: i32,
        ) => Grid::rows(rows);
    }

    /// Routing of tokens to experts.
    module ROUTER = "router";
    {
        /// `ids` `[T, K]` of `logits` `[T, E]`: descending, ties to the lower index, NaN last.
        router_top_k(ids: Out<u32>, logits: In<f32>, tokens: i32, experts: i32, k: i32) => Grid::rows(tokens);
        /// `weights` `[T, K]`, the softmax over the kept.
        router_weights(weights: Out<f32>, logits: In<f32>, ids: In<u32>, tokens: i32, experts: i32, k: i32) => Grid::each(tokens, 128, 128);
        /// `dlogits` `[T, E]`, every element.
        router_weights_backward(
            dlogits: Out<f32>, weights: In<f32>, ids: In<u32>, dweights: In<f32>, tokens: i32, experts: i32, k: i32,
        ) => Grid::rows(tokens);
    }

    /// Pairs (token, choice) sorted by expert, stable; at most [`crate::MOST_ROUTED_EXPERTS`] experts.
    module ROUTE = "route";
    {
        /// `counts` `[blocks, E]` of `ids` `[pairs]`, `blocks = ceil(pairs / 1024)`.
        route_count(counts: Out<u32>, ids: In<u32>, pairs: i32, experts: i32) => Grid::each(pairs, PAIRS_PER_BLOCK, PAIRS_PER_BLOCK as u32);
        /// `offsets` `[E + 1]`; the counts become first rows in place.
        route_scan(offsets: Out<u32>, counts: Out<u32>, blocks: i32, experts: i32) => Grid::new([1, 1, 1], MOST_ROUTED_EXPERTS as u32);
        /// `order` and `inverse` `[pairs]`; `first` are the first rows.
        route_scatter(order: Out<u32>, inverse: Out<u32>, ids: In<u32>, first: In<u32>, pairs: i32, experts: i32)
            => Grid::each(pairs, PAIRS_PER_BLOCK, PAIRS_PER_BLOCK as u32);
    }

    /// Rows moved between token order and expert order. `order` `[N]` is the source row `t K + j` of each sorted row, `inverse` `[N]` the
    /// sorted row of (t, j).
    module PERMUTE = "permute";
    {
        /// `y` `[N, H]` of `x` `[T, H]`.
        permute_gather(y: Out<bf16>, x: In<bf16>, inverse: In<u32>, tokens: i64, width: i32, k: i32) => Grid::rows(tokens);
        /// `dx` `[T, H]` of `dy` `[N, H]`, plus `add`.
        permute_gather_backward(
            dx: Out<bf16>, add: InOrNull<bf16>, dy: In<bf16>, inverse: In<u32>, tokens: i64, width: i32, k: i32,
        ) => Grid::rows(tokens);
        /// `out` `[T, H]` of `y` `[N, H]` and `weights` `[T, K]`, plus the residual.
        permute_combine(
            out: Out<bf16>, residual: InOrNull<bf16>, y: In<bf16>, weights: In<f32>, inverse: In<u32>, tokens: i64, width: i32, k: i32,
        ) => Grid::rows(tokens);
    }

    /// Biases of linear layers and of experts' layers (rows sorted by expert, `offsets` `[E + 1]`).
    module BIAS = "bias";
    {
        /// `y` `[rows, width]` in place.
        add_bias(y: Out<bf16>, bias: In<bf16>, rows: i64, width: i32) => Grid::rows(rows);
        /// `y` `[N, width]` in place, `bias` `[E, width]`.
        grouped_add_bias(y: Out<bf16>, bias: In<bf16>, offsets: In<u32>, rows: i64, width: i32, experts: i32) => Grid::rows(rows);
        /// `out` `[width]` of `x` `[rows, width]`.
        column_sum(out: Out<f32>, x: In<bf16>, rows: i64, width: i32) => Grid::each(width, 64, 256);
        /// `db` `[E, width]` of `dy` `[N, width]`.
        grouped_bias_grad(db: Out<f32>, dy: In<bf16>, offsets: In<u32>, width: i32)
            with (experts: usize) => Grid::new([width.div_ceil(64), experts, 1], 256);
    }

    /// Products of rows in groups with bf16 matrices, all groups in one launch, for compute capability 9.0 and no other; their sizes are
    /// read on the device. `offsets` `[G + 1]` are the first rows of the groups and the end; a group may be empty.
    ///
    /// `n` (O), `k` (I) and `low` (P) are multiples of 8, G is at most [`crate::MOST_PRODUCT_GROUPS`]. The maps are of the matrices, those of
    /// all groups one below the other, in boxes of 64 columns and 64 rows (for b and b_low of `product_nt`
    /// [`crate::PRODUCT_COLUMNS_A_TILE`] rows); without a low-rank part (`low` 0) a_low and b_low may be any.
    module PRODUCT_HOPPER = "product_hopper" only "90a";
    {
        /// `out = x w^T + bias (+ x_low w_low^T)`, x `[N, I]`, w `[G, O, I]`, bias `[G, O]`, x_low `[N, P]`, w_low `[G, O, P]`.
        product_nt(
            out: Out<bf16>, bias: InOrNull<bf16>, offsets: In<u32>, groups: i32, n: i32, k: i32, low: i32,
            a: TensorMap, b: TensorMap, a_low: TensorMap, b_low: TensorMap, out_map: TensorMap,
        ) with (processors: usize) => Grid::new([processors, 1, 1], 384).with_shared(PRODUCT_SHARED_BYTES);
        /// `out = x w + bias (+ x_low w_low)`, w `[G, I, O]`, w_low `[G, P, O]`.
        product_nn(
            out: Out<bf16>, bias: InOrNull<bf16>, offsets: In<u32>, groups: i32, n: i32, k: i32, low: i32,
            a: TensorMap, b: TensorMap, a_low: TensorMap, b_low: TensorMap, out_map: TensorMap,
        ) with (processors: usize) => Grid::new([processors, 1, 1], 384).with_shared(PRODUCT_SHARED_BYTES);
    }

    /// A few rows of x times matrices that are read once; [`RowsLayout`] gives the version and the last three numbers. Inputs are a
    /// multiple of 8.
    module ROWS_PRODUCT = "rows_product";
    {
        /// `y = x w^T + bias + residual`: y `[rows, O]`, x `[rows, I]`, w `[O, I]`, bias `[O]`, residual `[rows, O]`.
        rows_product[version: 1 8 64](
            y: Out<bf16>, x: In<bf16>, w: In<bf16>, bias: InOrNull<bf16>, residual: InOrNull<bf16>,
            rows: i32, inputs: i32, outputs: i32, parts: i32, split: i32, chunk: i32,
        ) with (layout: RowsLayout) => layout.grid_of_rows(rows);
        /// `y = x w^T + bias`.
        rows_logits[version: 1 8 64](
            y: Out<f32>, x: In<bf16>, w: In<bf16>, bias: InOrNull<bf16>,
            rows: i32, inputs: i32, outputs: i32, parts: i32, split: i32, chunk: i32,
        ) with (layout: RowsLayout) => layout.grid_of_rows(rows);
    }

    /// The experts of a few tokens. `slots` `[N]` are the pairs `t K + j` by expert, `groups` `[count, 3]` the expert, the first place in
    /// slots and the number of rows of each group (at most `version`, and 0 for one that is not needed); all other rows are in the order
    /// of pairs. Packed inputs are a multiple of 32, dense ones of 8. `low` `[N, O]` is added to the product.
    module ROWS_EXPERTS = "rows_experts";
    {
        /// `h` `[N, O / 2]`, the clamped swiglu of gate and up, interleaved outputs of `x` `[T, I]` times blocks `[E, O, I / 32, 16]` and
        /// scales `[E, O, I / 32]`, plus bias `[E, O]`.
        rows_gate_up[version: 1 8 48](
            h: Out<bf16>, x: In<bf16>, blocks: In<u8>, scales: In<u8>, bias: InOrNull<bf16>, low: InOrNull<f32>, groups: In<u32>, slots: In<u32>,
            inputs: i32, outputs: i32, k: i32, limit: f32, parts: i32, split: i32, chunk: i32,
        ) with (layout: RowsLayout, count: usize) => layout.grid(count);
        /// `y` `[N, O]` of `h` `[N, I]`.
        rows_down[version: 1 8 48](
            y: Out<f32>, h: In<bf16>, blocks: In<u8>, scales: In<u8>, bias: InOrNull<bf16>, low: InOrNull<f32>, groups: In<u32>, slots: In<u32>,
            inputs: i32, outputs: i32, parts: i32, split: i32, chunk: i32,
        ) with (layout: RowsLayout, count: usize) => layout.grid(count);
        /// The same as `rows_gate_up` of `w` `[E, O, I]`.
        rows_dense_gate_up[version: 1 8 48](
            h: Out<bf16>, x: In<bf16>, w: In<bf16>, bias: InOrNull<bf16>, low: InOrNull<f32>, groups: In<u32>, slots: In<u32>,
            inputs: i32, outputs: i32, k: i32, limit: f32, parts: i32, split: i32, chunk: i32,
        ) with (layout: RowsLayout, count: usize) => layout.grid(count);
        /// The same as `rows_down` of `w` `[E, O, I]`.
        rows_dense_down[version: 1 8 48](
            y: Out<f32>, h: In<bf16>, w: In<bf16>, bias: InOrNull<bf16>, low: InOrNull<f32>, groups: In<u32>, slots: In<u32>,
            inputs: i32, outputs: i32, parts: i32, split: i32, chunk: i32,
        ) with (layout: RowsLayout, count: usize) => layout.grid(count);
    }

    /// What stands between the products of a step for a few tokens.
    module ROWS_ROUTE = "rows_route";
    {
        /// `sum = x + delta + sum over j of weights[t, j] experts[t K + j]` (rounded once) and `y`, its norm; x, delta `[rows, width]`, experts
        /// `[rows K, width]`. The width is a multiple of 8, at most [`crate::MOST_NORM_WIDTH`].
        rows_norm(
            y: Out<bf16>, sum: OutOrNull<bf16>, x: In<bf16>, delta: InOrNull<bf16>, experts: InOrNull<f32>, weights: InOrNull<f32>, w: In<bf16>,
            rows: i32, width: i32, k: i32, eps: f32,
        ) => Grid::new([rows, 1, 1], 384);
        /// `ids` and `weights` `[T, K]` as of `router_top_k` and `router_weights`, `slots` `[T K]` and `groups` `[count, 3]` with at most `most`
        /// rows each; `count` is [`crate::most_groups`] or more. K is at most 32, E at most [`crate::MOST_ROUTED_EXPERTS`].
        rows_route(
            ids: Out<u32>, weights: Out<f32>, slots: Out<u32>, groups: Out<u32>, logits: In<f32>, tokens: i32, experts: i32, k: i32, most: i32, count: i32,
        ) => Grid::new([1, 1, 1], 1024);
    }

    /// Low-rank updates of rows in groups. `eights` is the rank in eights, rounded up, and `P = 8 eights`. K and W are multiples of 8.
    module LORA = "lora";
    {
        /// `z = x a^T`: z `[N, P]`, x `[N, K]`, a `[G, P, K]`; without offsets there is one group.
        lora_down[eights: 1 2 3 4 5 6 7 8](
            z: Out<bf16>, x: In<bf16>, a: In<bf16>, offsets: InOrNull<u32>, groups: i32, rows: i32, k: i32,
        ) => Grid::new([rows.div_ceil(DOWN_ROWS) + groups, 1, 1], 256);
        /// `out[g, i, r] = scale * sum over rows of g of x[row, i] z[row, r]`, i below W, r below rank, at the strides; x `[N, W]`,
        /// z `[N, P]`. Split s sums its share of the rows into `out + s * split_stride`.
        lora_gradient[eights: 1 2 3 4 5 6 7 8](
            out: Out<f32>, x: In<bf16>, z: In<bf16>, offsets: In<u32>, width: i32, rank: i32,
            group_stride: i64, i_stride: i64, r_stride: i64, split_stride: i64, scale: f32,
        ) with (groups: usize, splits: usize) => Grid::new([width.div_ceil(64), groups, splits], 256);
        /// Rows `first..first + rows` of `out` `[G, pitch, K]` from `a` `[G, rank, K]`, zero from `rank` on.
        lora_pack_a(out: Out<bf16>, a: In<f32>, groups: i32, rank: i32, rows: i32, k: i32, pitch: i32, first: i32)
            => Grid::each(groups * rows * k, 256, 256);
        /// `scale * b`, b `[W, rank, G]`, to columns `first..first + rank` of outputs `at..at + W` of `wide` `[G, all, pitch]` and `tall`
        /// `[G, pitch, all]`, zeros to the other columns of these outputs.
        lora_pack_b(
            wide: Out<bf16>, tall: Out<bf16>, b: InOrNull<f32>, scale: f32, groups: i32, rank: i32, width: i32, pitch: i32, first: i32, all: i32, at: i32,
        ) => Grid::each(groups * width * pitch, 256, 256);
    }

    /// Low-rank updates by row: row i of `x` `[N, K]` has update `index[i]` of `a` `[G, P, K]` and `b` `[G, W, P]`, or none, where that is
    /// not below G; `b` carries the scale. P and K are multiples of 8.
    module LORA_ROWS = "lora_rows";
    {
        /// `z = x a^T`: z `[N, P]`, x `[N / share, K]`; rows without an update are left.
        lora_rows_down(z: Out<f32>, x: In<bf16>, a: In<bf16>, index: In<u32>, groups: i32, width: i32, rank: i32, share: i32)
            with (rows: usize) => Grid::new([rows, rank / 8, 1], 256);
        /// `y += z b^T`: y `[N, W]`.
        lora_rows_up(y: Out<bf16>, z: In<f32>, b: In<bf16>, index: In<u32>, groups: i32, width: i32, rank: i32)
            with (rows: usize) => Grid::new([rows, width.div_ceil(128), 1], 128);
        /// `y = z b^T`: y `[N, W]`, 0 for rows without an update.
        lora_rows_term(y: Out<f32>, z: In<f32>, b: In<bf16>, index: In<u32>, groups: i32, width: i32, rank: i32)
            with (rows: usize) => Grid::new([rows, width.div_ceil(128), 1], 128);
        /// `index` `[N]` of sorted rows of experts, `adapter * experts + expert`, from the adapter of each token or `u32::MAX`.
        lora_rows_index(index: Out<u32>, adapters: In<u32>, order: In<u32>, ids: In<u32>, rows: i32, k: i32, experts: i32)
            => Grid::each(rows, 128, 128);
    }

    /// Clamped swiglu on interleaved (gate, up) pairs, alpha 1.702.
    module SWIGLU = "swiglu";
    {
        /// `h` `[N, F]` of `gate_up` `[N, 2 F]`; `count = N F`.
        swiglu_forward(h: Out<bf16>, gate_up: In<bf16>, count: i64, limit: f32) => Grid::elements(count);
        /// Through the weighted sum of experts too: `dgate_up` may be `gate_up`; `dh` `[N, F]`; `dweights`, `weights` and `ids` `[T, K]`;
        /// `order` `[N]`; `by_bias` `[T, E]`.
        swiglu_backward(
            dgate_up: Out<bf16>, dweights: Out<f32>, gate_up: In<bf16>, dh: In<bf16>, weights: In<f32>, order: In<u32>, ids: In<u32>, by_bias: In<bf16>,
            rows: i64, width: i32, k: i32, experts: i32, limit: f32,
        ) => Grid::rows(rows);
    }

    /// MXFP4 to bf16, exact.
    module MXFP4 = "mxfp4";
    {
        /// `out` `[n, O, I]` of `blocks` `[E, O, I / 32, 16]` and `scales` `[E, O, I / 32]`; `experts` `[n]` chooses, null means all;
        /// `per_expert = O I`. A listed expert not below E reads out of bounds: check on the host.
        mxfp4_dequantize(out: Out<bf16>, blocks: In<u8>, scales: In<u8>, experts: InOrNull<u32>, per_expert: i64, n: i32)
            => Grid::new([per_expert.div_ceil(8192), n, 1], 256);
    }

    /// Cross entropy over the vocabulary; a label not below V gives NaN.
    module CROSS_ENTROPY = "cross_entropy";
    {
        /// `loss`, `lse` and `best` `[n]` of `logits` `[n, V]`; best is the place of the greatest logit, the lowest of equal ones.
        cross_entropy_forward<T>(loss: Out<f32>, lse: Out<f32>, best: Out<u32>, logits: In<T>, labels: In<u32>, vocab: i32)
            with (rows: usize) => Grid::new([rows, 1, 1], 512);
        /// `dlogits` may be `logits`.
        cross_entropy_backward<T>(dlogits: Out<T>, logits: In<T>, lse: In<f32>, labels: In<u32>, dloss: In<f32>, vocab: i32)
            with (rows: usize) => Grid::new([rows, vocab.div_ceil(8192), 1], 256);
    }

    /// Sampling of a token from each row of `logits` `[S, V]`, after `parameters` `[S, 8]`: temperature, top_k, top_p, min_p, penalties on
    /// repetition, frequency and presence, whether the mask applies. `numbers` `[S, 6]` are the halves, low first, of the seed, the number
    /// of the answer and the place of the token. `work` is `[S, sample_words(V)]`, see [`crate::sample_words`].
    ///
    /// Where `listed_offsets` `[S + 1]` are given, row s has the tokens `listed_offsets[s]..` of `listed`, ascending and distinct, with what
    /// is added to their logits and how often they are in the answer (bit 31: in the prompt or the answer); `saved` is room for their
    /// logits. `mask` `[S, ceil(V / 32)]` has a bit for each token that may come.
    module SAMPLE = "sample";
    {
        /// Changes the logits in place, and samples rows whose temperature is 0 or which keep all tokens. `flags` `[S]` is 1 where
        /// a logit is NaN or infinity, or all are minus infinity. `logprobs` `[S]` are those of the logits as they were given.
        sample_first(
            tokens: Out<u32>, logprobs: OutOrNull<f32>, flags: Out<u32>, logits: Out<f32>, work: Out<u32>, parameters: In<f64>, numbers: In<u32>,
            mask: InOrNull<u32>, listed_offsets: InOrNull<u32>, listed: InOrNull<u32>, biases: InOrNull<f32>, counts: InOrNull<u32>,
            saved: OutOrNull<f32>, vocab: i32,
        ) with (rows: usize, takers: usize) => Grid::new([takers, rows, 1], SAMPLE_THREADS);
        /// For rows with top_k or top_p, after [`sample_first`]: counts and weights by the distance to the greatest logit.
        sample_bins(work: Out<u32>, logits: In<f32>, parameters: In<f64>, vocab: i32)
            with (rows: usize, takers: usize) => Grid::new([takers, rows, 1], SAMPLE_THREADS);
        /// After [`sample_bins`]: the least logit that is kept.
        sample_floor(work: Out<u32>, logits: In<f32>, parameters: In<f64>, vocab: i32)
            with (rows: usize, takers: usize) => Grid::new([takers, rows, 1], SAMPLE_THREADS);
        /// The draw of rows with top_k, top_p or min_p, after [`sample_floor`].
        sample_draw(
            tokens: Out<u32>, logprobs: OutOrNull<f32>, flags: Out<u32>, work: Out<u32>, logits: In<f32>, parameters: In<f64>, numbers: In<u32>,
            listed_offsets: InOrNull<u32>, listed: InOrNull<u32>, saved: OutOrNull<f32>, vocab: i32,
        ) with (rows: usize, takers: usize) => Grid::new([takers, rows, 1], SAMPLE_THREADS);
    }

    /// Counter-based random numbers, Philox4x32-10; the rule is in `philox.cuh`. `first` (a multiple of 4; of 16 for bytes) is the index
    /// of element 0 in the stream.
    module RANDOM = "random";
    {
        /// `x` `[rows, width]`, `keys` `[rows, 2]`: example and place of each token. `y` may be `x`.
        dropout<T>(y: Out<T>, x: In<T>, keys: In<u32>, width: i32, seed: u64, threshold: u32, scale: f32)
            with (rows: usize) => Grid::new([rows, width.div_ceil(1024), 1], 256);
        /// Normal values.
        fill_normal<T>(y: Out<T>, count: i64, seed: u64, stream: u64, first: u64, mean: f32, std: f32) => Grid::elements(count);
        /// Bytes in `low..low + span`.
        fill_bytes(y: Out<u8>, count: i64, seed: u64, stream: u64, first: u64, low: u32, span: u32) => Grid::elements(count);
    }

    /// AdamW in torch's order, f32, in place.
    module ADAMW = "adamw";
    {
        /// `g *= grad_scale` (in a register); `p *= decay` (`1 - lr wd`); `m += (g - m) (1 - beta1)`; `v = v beta2 + g g (1 - beta2)`;
        /// `p -= step_size m / (sqrt(v) / sqrt_bc2 + eps)` (`step_size = lr / bc1`).
        adamw_step(
            p: Out<f32>, g: In<f32>, m: Out<f32>, v: Out<f32>, count: i64,
            grad_scale: f32, decay: f32, beta1: f32, beta2: f32, step_size: f32, sqrt_bc2: f32, eps: f32,
        ) => Grid::elements(count);
    }

    /// Deterministic sums.
    module REDUCE = "reduce";
    {
        /// Block b writes `partial[b]`. Any number of blocks will do; `min(ceil(count / 2048), 1024)` is good. Give each tensor its own
        /// stretch of one buffer, then sum all at once with [`sum_f64`].
        square_sum_f32(partial: Out<f64>, x: In<f32>, count: i64) with (blocks: usize) => Grid::new([blocks, 1, 1], 256);
        /// `out` `[1]`.
        sum_f64(out: Out<f64>, x: In<f64>, count: i64) => Grid::new([1, 1, 1], 256);
        /// Block b writes the low and the high half of its sum over scrambled bits to `partial[2 b]` and `partial[2 b + 1]`. Any
        /// number of blocks will do.
        bit_sum_f32(partial: Out<u32>, x: In<f32>, count: i64) with (blocks: usize) => Grid::new([blocks, 1, 1], 256);
        /// `out` `[width]` of `x` `[rows, width]`.
        sum_rows(out: Out<f32>, x: In<f32>, rows: i32, width: i32) => Grid::each(width, 256, 256);
    }
}
