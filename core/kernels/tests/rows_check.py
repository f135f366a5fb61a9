"""Checks and times the kernels for the rows of a few tokens (rows_norm, rows_route, rows_product, rows_logits, rows_gate_up, rows_down,
rows_dense_gate_up, rows_dense_down)."""
import torch

from driver import Driver

LUT = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]
WARPS, MOST_SHARED = 8, 96 * 1024


def bf16(*shape, scale=1.0):
    return (torch.randn(*shape, device="cuda") * scale).bfloat16()


def layout(version, inputs, outputs, width, eights, parts, ahead, split):
    """Blocks along outputs, shared memory, and the last three arguments, as rows.rs computes them."""
    units, split = -(-inputs // width), parts if split else 1
    unit, whole = split * eights * version * 64, -(-units // split)
    chunk = whole if whole * unit <= MOST_SHARED else MOST_SHARED // 2 // unit // ahead * ahead
    shared = max(chunk * unit * (1 if chunk == whole else 2), WARPS * -(-version // 8) * 512 if split > 1 else 0)
    warps = 2 * WARPS if version == 48 else WARPS
    return -(-outputs // (16 * (warps // split))), shared, (parts, split, chunk)


def experts_layout(version, inputs, outputs, packed, gated, tokens):
    width, eights, ahead = (128, 4, 2) if packed else (32, 1, 4)
    return layout(version, inputs, outputs, width, eights, 2 if gated else 4, ahead, tokens <= 4 and version != 48)


def product_layout(version, inputs, outputs):
    parts = 1 if outputs >= 32768 else 4 if outputs >= 512 else 8
    return layout(version, inputs, outputs, 32, 1, parts, 8 if version <= 8 else 2, True)


def most_groups(tokens, k, experts, version):
    pairs = tokens * k
    return min(pairs, experts + pairs // version)


class Rows:
    def __init__(self, h):
        self.folder, self.driver = h.folder, Driver()

    def launch(self, module, name, grid, block, *args, shared=0):
        self.driver.launch(f"{self.folder}/{module}.fatbin", name, grid, block, args, shared)

    def norm(self, y, total, x, delta, experts, weights, w, k):
        rows, width = x.shape
        self.launch("rows_route", "rows_norm", (rows,), 384, y, total, x, delta, experts, weights, w, rows, width, k, 1e-5)

    def route(self, ids, weights, slots, groups, logits, k, most):
        tokens, experts = logits.shape
        self.launch("rows_route", "rows_route", (1,), 1024, ids, weights, slots, groups, logits, tokens, experts, k, most, len(groups))

    def product(self, version, y, x, w, bias, residual=None):
        (rows, inputs), outputs = x.shape, len(w)
        blocks, shared, last = product_layout(version, inputs, outputs)
        grid = blocks, -(-rows // version)
        if y.dtype == torch.float32:
            self.launch("rows_product", f"rows_logits_{version}", grid, 256, y, x, w, bias, rows, inputs, outputs, *last, shared=shared)
        else:
            self.launch("rows_product", f"rows_product_{version}", grid, 256, y, x, w, bias, residual, rows, inputs, outputs, *last, shared=shared)

    def gate_up(self, version, h, x, matrix, bias, low, groups, slots, k, limit):
        inputs, outputs, packed = x.shape[1], 2 * h.shape[1], len(matrix) == 2
        blocks, shared, last = experts_layout(version, inputs, outputs, packed, True, len(x))
        name = f"rows_gate_up_{version}" if packed else f"rows_dense_gate_up_{version}"
        arguments = h, x, *matrix, bias, low, groups, slots, inputs, outputs, k, limit, *last
        self.launch("rows_experts", name, (blocks, len(groups)), 512 if version == 48 else 256, *arguments, shared=shared)

    def down(self, version, y, h, matrix, bias, low, groups, slots, tokens):
        inputs, outputs, packed = h.shape[1], y.shape[1], len(matrix) == 2
        blocks, shared, last = experts_layout(version, inputs, outputs, packed, False, tokens)
        name = f"rows_down_{version}" if packed else f"rows_dense_down_{version}"
        arguments = y, h, *matrix, bias, low, groups, slots, inputs, outputs, *last
        self.launch("rows_experts", name, (blocks, len(groups)), 512 if version == 48 else 256, *arguments, shared=shared)


def packed(experts, outputs, inputs):
    blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), device="cuda", dtype=torch.uint8)
    scales = torch.randint(116, 124, (experts, outputs, inputs // 32), device="cuda", dtype=torch.uint8)
    return blocks, scales


def unpacked(matrix):
    if len(matrix) == 1:
        return matrix[0].double()
    blocks, scales = matrix
    lut = torch.tensor(LUT, device="cuda", dtype=torch.double)
    values = torch.stack([lut[(blocks & 15).long()], lut[(blocks >> 4).long()]], -1).view(*blocks.shape[:3], 32)
    return (values * torch.exp2(scales.double() - 127)[..., None]).flatten(2)


def norm(h):
    rows_of = Rows(h)
    for rows, width, k in [(1, 2880, 4), (5, 64, 2), (33, 4104, 1), (256, 2880, 4)]:
        x, delta, w = bf16(rows, width, scale=2), bf16(rows, width), bf16(width)
        experts, weights = torch.randn(rows * k, width, device="cuda"), torch.rand(rows, k, device="cuda")
        for with_delta in (False, True):
            for with_experts in (False, True):
                y, total = torch.empty_like(x), torch.empty_like(x)
                rows_of.norm(y, total, x, delta if with_delta else None, experts if with_experts else None, weights if with_experts else None, w, k)
                want = x.double() + with_delta * delta.double() + with_experts * (experts.double().view(rows, k, width) * weights.double()[..., None]).sum(1)
                h.close(f"rows_norm {rows}x{width} sum", total, want)
                seen = total.double()
                h.close(f"rows_norm {rows}x{width}", y, w.double() * seen * torch.rsqrt((seen * seen).mean(-1, keepdim=True) + 1e-5))


def routed(rows_of, logits, k, version):
    tokens, experts = logits.shape
    ids, weights = torch.full((tokens, k), -1, device="cuda", dtype=torch.int32), torch.empty(tokens, k, device="cuda")
    slots = torch.full((tokens * k,), -1, device="cuda", dtype=torch.int32)
    groups = torch.full((most_groups(tokens, k, experts, version), 3), -1, device="cuda", dtype=torch.int32)
    rows_of.route(ids, weights, slots, groups, logits, k, version)
    return ids, weights, slots, groups


def route(h):
    rows_of = Rows(h)
    for tokens, experts, k in [(1, 32, 4), (3, 4, 4), (8, 33, 2), (31, 128, 4), (256, 32, 4), (300, 256, 5)]:
        for version in (1, 8, 48):
            logits = torch.randn(tokens, experts, device="cuda").mul(3).round() / 2  # many ties
            if tokens == 8:
                logits[:, 7] = 100
            if version < tokens and version == 1:
                continue
            name = f"rows_route {tokens}x{experts} by {version}"
            ids, weights, slots, groups = routed(rows_of, logits, k, version)
            want = torch.sort(logits, dim=-1, descending=True, stable=True).indices[:, :k]
            h.equal(f"{name} ids", ids.long(), want)
            h.close(f"{name} weights", weights, logits.double().gather(1, want).softmax(-1), 1e-6)
            h.equal(f"{name} slots", slots.long(), torch.sort(want.flatten(), stable=True).indices)
            found, at = [], 0
            for e, count in enumerate(torch.bincount(want.flatten(), minlength=experts).tolist()):
                for first in range(0, count, version):
                    found.append([e, at + first, min(version, count - first)])
                at += count
            found += [[0, 0, 0]] * (len(groups) - len(found))
            h.equal(f"{name} groups", groups.long(), torch.tensor(found, device="cuda"))


def product(h):
    rows_of = Rows(h)
    for inputs, outputs in [(2880, 5120), (4096, 2880), (2880, 32), (64, 48), (40, 21), (2880, 33000), (12288, 640)]:
        w, b = bf16(outputs, inputs, scale=inputs**-0.5), bf16(outputs)
        x = bf16(256, inputs)
        want = x.double() @ w.double().T
        kept = {}
        for rows in (1, 3, 8, 31, 64, 100, 256):
            for version in (1, 8, 64):
                if version == 1 and rows > 3 or version == 64 and outputs < 512:
                    continue
                for bias in (None, b):
                    r = bf16(rows, outputs) if bias is None else None
                    y, wide = torch.full((rows, outputs), torch.nan, device="cuda", dtype=torch.bfloat16), torch.full((rows, outputs), torch.nan, device="cuda")
                    rows_of.product(version, y, x[:rows], w, bias, r)
                    rows_of.product(version, wide, x[:rows], w, bias)
                    expected = want[:rows] + (0 if bias is None else b.double())
                    name = f"{rows}x{inputs}x{outputs} version {version}"
                    h.close(f"rows_product {name}", y, expected + (0 if r is None else r.double()))
                    h.close(f"rows_logits {name}", wide, expected, 1e-5)
                    if bias is not None:
                        h.equal(f"rows_logits {name} alone and among others", wide[:1], kept.setdefault("first", wide[:1].clone()))
                        alone = torch.empty_like(wide[:1])
                        rows_of.product(1, alone, x[rows - 1 : rows], w, bias)
                        h.equal(f"rows_logits {name} the last row alone", wide[-1:], alone)


def experts(h):
    rows_of = Rows(h)
    for count, hidden, width in [(32, 2880, 2880), (5, 64, 96), (4, 96, 16)]:
        for is_packed in (True, False):
            if is_packed:
                up, down = packed(count, 2 * width, hidden), packed(count, hidden, -(-width // 32) * 32)
            else:
                up, down = (bf16(count, 2 * width, hidden, scale=hidden**-0.5),), (bf16(count, hidden, -(-width // 32) * 32, scale=width**-0.5),)
            bias, bias_down = bf16(count, 2 * width), bf16(count, hidden)
            up64, down64 = unpacked(up), unpacked(down)
            inner = down64.shape[2]
            k, x_all, h_all = 4, bf16(256, hidden), bf16(1024, inner)
            kept = {}
            for tokens in (1, 3, 8, 31, 256):
                logits = torch.randn(tokens, count, device="cuda")
                logits[0] = torch.arange(count, device="cuda")  # the first token keeps its experts
                if tokens == 8:
                    logits[1:] += 100 * (torch.arange(count, device="cuda") < 4)  # the other experts of the seven have no rows
                for version in (1, 8, 48):
                    if version == 1 and tokens > 3:
                        continue
                    ids, weights, slots, groups = routed(rows_of, logits, k, version)
                    chosen, x, low = ids.flatten().long(), x_all[:tokens], torch.randn(tokens * k, 2 * width, device="cuda")
                    hs, low_down = h_all[: tokens * k], torch.randn(tokens * k, hidden, device="cuda")
                    name = f"{'packed' if is_packed else 'dense'} {tokens} of {count}x{hidden}x{width} version {version}"
                    for with_low in (False, True):
                        got = torch.full((tokens * k, width), torch.nan, device="cuda", dtype=torch.bfloat16)
                        rows_of.gate_up(version, got, x, up, bias, low if with_low else None, groups, slots, k, 7.0)
                        y = torch.full((tokens * k, hidden), torch.nan, device="cuda")
                        rows_of.down(version, y, hs, down, bias_down, low_down if with_low else None, groups, slots, tokens)
                        if not with_low:
                            h.equal(f"rows_gate_up {name} alone and among others", got[:k], kept.setdefault("h", got[:k].clone()))
                            h.equal(f"rows_down {name} alone and among others", y[:k], kept.setdefault("y", y[:k].clone()))
                            _, _, own_slots, own_groups = routed(rows_of, logits[-1:].contiguous(), k, 1)
                            alone, alone_y = torch.empty_like(got[:k]), torch.empty_like(y[:k])
                            rows_of.gate_up(1, alone, x[-1:], up, bias, None, own_groups, own_slots, k, 7.0)
                            rows_of.down(1, alone_y, hs[-k:], down, bias_down, None, own_groups, own_slots, 1)
                            h.equal(f"rows_gate_up {name} the last token alone", got[-k:], alone)
                            h.equal(f"rows_down {name} the last token alone", y[-k:], alone_y)
                        raw, want_y = bias.double()[chosen], bias_down.double()[chosen]
                        for e in chosen.unique().tolist():
                            mine = (chosen == e).nonzero()[:, 0]
                            raw[mine] += x.double()[mine // k] @ up64[e].T
                            want_y[mine] += hs.double()[mine] @ down64[e].T
                        if with_low:
                            raw, want_y = raw + low.double(), want_y + low_down.double()
                        g, u = raw[:, 0::2].clamp(max=7), raw[:, 1::2].clamp(-7, 7)
                        h.close(f"rows_gate_up {name}", got, (u + 1) * g * torch.sigmoid(1.702 * g))
                        h.close(f"rows_down {name}", y, want_y, 1e-5)


CHECKS = [norm, route, product, experts]


def microseconds(runs, repeats=8):
    """The time of one of `runs`, all captured in a graph, so that launches cost what they cost in a step."""
    for run in runs:
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(3):
            for run in runs:
                run()
    graph.replay()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(repeats):
        graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e3 / repeats / 3 / len(runs)


def time_all(h):
    rows_of, layers, k, count, hidden, vocabulary = Rows(h), 8, 4, 32, 2880, 201088

    def say(name, size, us):
        print(f"{name:44} {us:8.1f} us {size / us / 1e3:8.0f} GB/s", flush=True)
    ups, downs = [packed(count, 2 * hidden, hidden) for _ in range(layers)], [packed(count, hidden, hidden) for _ in range(layers)]
    bias, bias_down = bf16(count, 2 * hidden), bf16(count, hidden)
    qkv, o = [bf16(5120, hidden, scale=0.02) for _ in range(layers)], [bf16(hidden, 4096, scale=0.02) for _ in range(layers)]
    router, head, w = bf16(count, hidden, scale=0.02), bf16(vocabulary, hidden, scale=0.02), bf16(hidden)
    for tokens in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        x, heads = bf16(tokens, hidden), bf16(tokens, 4096)
        version = 1 if tokens == 1 else 8 if tokens <= 48 else 48
        dense = 1 if tokens == 1 else 8 if tokens <= 8 else 64
        logits = torch.randn(tokens, count, device="cuda")
        ids, weights, slots, groups = routed(rows_of, logits, k, version)
        active = len(ids.unique())
        hs, y = bf16(tokens * k, hidden), torch.empty(tokens * k, hidden, device="cuda")
        normed, total = torch.empty_like(x), torch.empty_like(x)
        say(f"rows_norm {tokens}", 1, microseconds([lambda: rows_of.norm(normed, total, x, None, y, weights, w, k)] * 8))
        say(f"rows_route {tokens}", 1, microseconds([lambda: rows_of.route(ids, weights, slots, groups, logits, k, version)] * 8))
        for versions in {1: [1], 2: [8], 4: [8], 8: [8], 16: [8], 32: [8, 48], 64: [8, 48], 128: [48], 256: [48]}[tokens]:
            _, _, slots, groups = routed(rows_of, logits, k, versions)
            us = microseconds([lambda m=m: rows_of.gate_up(versions, hs, x, m, bias, None, groups, slots, k, 7.0) for m in ups])
            say(f"rows_gate_up {tokens} version {versions}", active * 2 * hidden * hidden * 17 / 32, us)
            us = microseconds([lambda m=m: rows_of.down(versions, y, hs, m, bias_down, None, groups, slots, tokens) for m in downs])
            say(f"rows_down {tokens} version {versions}", active * hidden * hidden * 17 / 32, us)
        out = torch.empty(tokens, 5120, device="cuda", dtype=torch.bfloat16)
        say(f"rows_product qkv {tokens} version {dense}", qkv[0].nbytes, microseconds([lambda m=m: rows_of.product(dense, out, x, m, None) for m in qkv]))
        say(f"torch qkv {tokens}", qkv[0].nbytes, microseconds([lambda m=m: torch.mm(x, m.T, out=out) for m in qkv]))
        out = torch.empty(tokens, hidden, device="cuda", dtype=torch.bfloat16)
        say(f"rows_product o {tokens} version {dense}", o[0].nbytes, microseconds([lambda m=m: rows_of.product(dense, out, heads, m, None) for m in o]))
        say(f"torch o {tokens}", o[0].nbytes, microseconds([lambda m=m: torch.mm(heads, m.T, out=out) for m in o]))
        small = min(dense, 8)
        say(f"rows_logits router {tokens}", router.nbytes, microseconds([lambda: rows_of.product(small, logits, x, router, None)] * 8))
        out = torch.empty(tokens, vocabulary, device="cuda")
        say(f"rows_logits head {tokens} version {dense}", head.nbytes, microseconds([lambda: rows_of.product(dense, out, x, head, None)]))
