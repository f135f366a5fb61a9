#!/usr/bin/env python3
"""Checks every kernel against a reference in torch (float64) on a GPU and times the large ones.

    python3 check.py [--kernels DIR] [--only WORD] [--no-time] [--no-check]

Needs torch and cupy; compiles ../src with nvcc unless DIR holds the fatbins of a build. The last line says how
many checks failed, and so does the exit status.
"""
import argparse, math, os, subprocess, sys, tempfile
from concurrent.futures import ThreadPoolExecutor

import cupy, numpy as np, torch

import attention_check, paged_check, random_check, rows_check, sample_check
from harness import Harness
from signatures import MODULES

HERE = os.path.dirname(os.path.abspath(__file__))


def compile_kernels(out):
    major, minor = torch.cuda.get_device_capability()
    card = f"{major}{minor}"

    def one(job):
        name, module = job
        code = module["only"] or card
        defines = [f"-D{define}" for define in module["defines"]]
        subprocess.run(["nvcc", "-fatbin", "-O3", "-std=c++17", "-gencode", f"arch=compute_{code},code=sm_{code}", *defines, module["source"],
                        "-o", f"{out}/{name}.fatbin"], cwd=f"{HERE}/../src", check=True)
    jobs = [(name, module) for name, module in MODULES.items() if module["only"] in (None, card + "a")]
    with ThreadPoolExecutor() as pool:
        list(pool.map(one, jobs))


def bf16(*shape, scale=1.0):
    return (torch.randn(*shape, device="cuda") * scale).bfloat16()


def rms_norm(h):
    for rows, width in [(5, 2880), (1, 64), (37, 100), (3, 4096), (129, 33)]:
        x, w, dy = bf16(rows, width, scale=2), bf16(width), bf16(rows, width)
        y, dx = torch.empty_like(x), torch.empty_like(x)
        h.rows("rms_norm", "rms_norm_forward", rows, y, None, x, None, w, rows, width, 1e-5)
        h.rows("rms_norm", "rms_norm_backward", rows, dx, x, w, dy, None, rows, width, 1e-5)
        per, rstd = 8, torch.empty(rows, device="cuda")
        blocks = -(-rows // per)
        partial, dw = torch.empty(blocks, width, device="cuda"), torch.empty(width, device="cuda")
        h.rows("rms_norm", "rms_norm_rstd", rows, rstd, x, rows, width, 1e-5)
        h.launch("rms_norm", "rms_norm_weight_grad", (-(-width // 256), blocks), 256, partial, x, dy, rstd, rows, width, per)
        h.launch("reduce", "sum_rows", (-(-width // 256),), 256, dw, partial, blocks, width)
        x64, w64 = x.double().requires_grad_(), w.double().requires_grad_()
        want = w64 * (x64 * torch.rsqrt((x64 * x64).mean(-1, keepdim=True) + 1e-5))
        want.backward(dy.double())
        h.close(f"rms_norm {rows}x{width} y", y, want)
        h.close(f"rms_norm {rows}x{width} dx", dx, x64.grad)
        h.close(f"rms_norm {rows}x{width} dw", dw, w64.grad, 1e-5)


def rope(h):
    for tokens, q, kv, dim in [(7, 4, 2, 16), (33, 8, 1, 64), (130, 3, 3, 32), (5, 2, 1, 128)]:
        heads = q + 2 * kv
        x = bf16(tokens, heads * dim)
        angle = torch.rand(300, dim // 2, device="cuda") * 6
        cos, sin = (1.3 * angle.cos()).contiguous(), (1.3 * angle.sin()).contiguous()
        pos = torch.randint(0, 300, (tokens,), device="cuda", dtype=torch.int32)
        for transpose in (0, 1):
            y = torch.empty_like(x)
            h.launch("rope", "rope_apply", (-(-tokens * heads * dim // 16 // 256),), 256, y, x, cos, sin, pos, tokens, q, kv, dim, transpose)
            v = x.double().view(tokens, heads, dim)
            a, b = v[..., : dim // 2], v[..., dim // 2 :]
            c, s = cos.double()[pos.long()][:, None], sin.double()[pos.long()][:, None] * (-1 if transpose else 1)
            want = torch.cat([a * c - b * s, b * c + a * s], -1)
            want[:, q + kv :] = v[:, q + kv :]
            h.close(f"rope {tokens}x{heads}x{dim} transpose {transpose}", y, want.view(tokens, -1))


def router(h):
    for tokens, experts, k in [(5, 32, 4), (1, 4, 4), (77, 128, 4), (9, 33, 2)]:
        logits = torch.randn(tokens, experts, device="cuda").mul(3).round() / 2  # many ties
        ids = torch.empty(tokens, k, device="cuda", dtype=torch.int32)
        args = tokens, experts, k
        h.rows("router", "router_top_k", tokens, ids, logits, *args)
        want = torch.sort(logits, dim=-1, descending=True, stable=True).indices[:, :k]
        h.equal(f"router_top_k {tokens}x{experts}", ids.long(), want)
        w, d, dw = torch.empty(tokens, k, device="cuda"), torch.empty_like(logits), torch.randn(tokens, k, device="cuda")
        h.launch("router", "router_weights", (-(-tokens // 128),), 128, w, logits, ids, *args)
        h.rows("router", "router_weights_backward", tokens, d, w, ids, dw, *args)
        l64 = logits.double().requires_grad_()
        want = l64.gather(1, want).softmax(-1)
        want.backward(dw.double())
        h.close(f"router_weights {tokens}x{experts}", w, want, 1e-6)
        h.close(f"router_weights_backward {tokens}x{experts}", d, l64.grad, 1e-5)


def plan(tokens, k, experts, skip=()):
    allowed = torch.tensor([e for e in range(experts) if e not in skip], device="cuda")
    ids = allowed[torch.rand(tokens, len(allowed), device="cuda").argsort(-1)[:, :k]]
    order = torch.sort(ids.flatten(), stable=True).indices
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(tokens * k, device="cuda")
    counts = torch.bincount(ids.flatten(), minlength=experts)
    offsets = torch.cat([torch.zeros(1, device="cuda", dtype=torch.long), counts.cumsum(0)])
    return ids, order.int(), inverse.int(), offsets.int()


def permute(h):
    for tokens, width, k in [(9, 2880, 4), (130, 64, 4), (3, 33, 2), (65, 520, 3)]:
        _, order, inverse, _ = plan(tokens, k, 8)
        n = tokens * k
        x, dxs, y, w = bf16(tokens, width), bf16(n, width), bf16(n, width), torch.rand(tokens, k, device="cuda")
        out = torch.empty_like(y)
        h.rows("permute", "permute_gather", tokens, out, x, inverse, tokens, width, k)
        h.equal(f"permute_gather {tokens}x{width}", out, x[order.long() // k])
        dx = torch.empty_like(x)
        h.rows("permute", "permute_gather_backward", tokens, dx, None, dxs, inverse, tokens, width, k)
        h.close(f"permute_gather_backward {tokens}x{width}", dx, dxs.double()[inverse.long()].view(tokens, k, width).sum(1))
        comb = torch.empty_like(x)
        h.rows("permute", "permute_combine", tokens, comb, None, y, w, inverse, tokens, width, k)
        want = (y.double()[inverse.long()].view(tokens, k, width) * w.double()[..., None]).sum(1)
        h.close(f"permute_combine {tokens}x{width}", comb, want)


def bias(h):
    for tokens, width, k, skip in [(50, 96, 4, (0, 3, 7)), (7, 33, 2, (5,)), (300, 2880, 4, ())]:
        ids, order, inverse, offsets = plan(tokens, k, 8, skip)
        n = tokens * k
        owner = ids.flatten()[order.long()]
        y, b = bf16(n, width), bf16(8, width)
        want = y.double() + b.double()[owner]
        db = torch.empty(8, width, device="cuda")
        h.launch("bias", "grouped_bias_grad", (-(-width // 64), 8), 256, db, y, offsets, width)
        h.close(f"grouped_bias_grad {n}x{width}", db, torch.zeros(8, width, device="cuda", dtype=torch.double).index_add(0, owner, y.double()), 1e-5)
        total, plain = torch.empty(width, device="cuda"), y.clone()
        h.launch("bias", "column_sum", (-(-width // 64),), 256, total, y, n, width)
        h.close(f"column_sum {n}x{width}", total, y.double().sum(0), 1e-5)
        h.rows("bias", "add_bias", n, plain, b, n, width)
        h.close(f"add_bias {n}x{width}", plain, y.double() + b[0].double())
        h.rows("bias", "grouped_add_bias", n, y, b, offsets, n, width, 8)
        h.close(f"grouped_add_bias {n}x{width}", y, want)


def swiglu(h):
    for n, f in [(3, 5), (17, 2880), (1, 1), (40, 64)]:
        gu, dh = bf16(n, 2 * f, scale=4), bf16(n, f)
        gu.view(-1)[: 2 * n * f // 7] = 7.0  # at the bound the gradient passes
        y, d = torch.empty_like(dh), torch.empty_like(gu)
        h.elements("swiglu", "swiglu_forward", n * f, y, gu, n * f, 7)
        # every row a token with one choice, in an order of its own
        order = torch.randperm(n, device="cuda", dtype=torch.int32)
        ids, by_bias = torch.randint(0, 3, (n,), device="cuda", dtype=torch.int32), bf16(n, 3)
        w, dw = torch.rand(n, device="cuda"), torch.empty(n, device="cuda")
        h.rows("swiglu", "swiglu_backward", n, d, dw, gu, dh, w, order, ids, by_bias, n, f, 1, 3, 7)
        x = gu.double().requires_grad_()
        g, u = x[:, 0::2].clamp(max=7), x[:, 1::2].clamp(-7, 7)
        want = (u + 1) * g * torch.sigmoid(1.702 * g)
        want.backward(dh.double() * w.double()[order.long()][:, None])
        h.close(f"swiglu {n}x{f}", y, want)
        h.close(f"swiglu_backward {n}x{f}", d, x.grad)
        want_w = by_bias.double().gather(1, ids.long()[:, None])[:, 0]
        want_w[order.long()] += (want.detach() * dh.double()).sum(1)
        h.close(f"swiglu_backward {n}x{f} weights", dw, want_w, 1e-4)


LUT = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]


def mxfp4(h):
    for experts, out, inp, chosen in [(3, 5, 64, None), (4, 70, 2880, [2, 0]), (1, 1, 32, [0])]:
        blocks = torch.randint(0, 256, (experts, out, inp // 32, 16), device="cuda", dtype=torch.uint8)
        scales = torch.randint(0, 255, (experts, out, inp // 32), device="cuda", dtype=torch.uint8)
        ids = torch.tensor(chosen, device="cuda", dtype=torch.int32) if chosen else None
        n = len(chosen) if chosen else experts
        y = torch.empty(n, out, inp, device="cuda", dtype=torch.bfloat16)
        h.launch("mxfp4", "mxfp4_dequantize", (-(-out * inp // 8192), n), 256, y, blocks, scales, ids, out * inp, n)
        lut = torch.tensor(LUT, device="cuda", dtype=torch.double)
        values = torch.stack([lut[(blocks & 15).long()], lut[(blocks >> 4).long()]], -1).view(experts, out, inp // 32, 32)
        want = (values * torch.exp2(scales.double() - 127)[..., None]).view(experts, out, inp)
        want = want[ids.long()] if chosen else want
        h.equal(f"mxfp4_dequantize {n}x{out}x{inp}", y.double(), want.bfloat16().double())


def cross_entropy(h):
    for n, vocab, dtype in [(3, 201088, torch.bfloat16), (9, 1003, torch.bfloat16), (4, 201088, torch.float32), (5, 37, torch.float32)]:
        name = "bf16" if dtype == torch.bfloat16 else "f32"
        logits = (torch.randn(n, vocab, device="cuda") * 5).to(dtype)
        labels = torch.randint(0, vocab, (n,), device="cuda", dtype=torch.int32)
        loss, lse, dloss = torch.empty(n, device="cuda"), torch.empty(n, device="cuda"), torch.randn(n, device="cuda")
        d = torch.empty_like(logits)
        best = torch.empty(n, device="cuda", dtype=torch.int32)
        h.launch("cross_entropy", f"cross_entropy_forward_{name}", (n,), 512, loss, lse, best, logits, labels, vocab)
        h.launch("cross_entropy", f"cross_entropy_backward_{name}", (n, -(-vocab // 8192)), 256, d, logits, lse, labels, dloss, vocab)
        # ties go to the lowest index
        chosen = (logits == logits.amax(-1, keepdim=True)).int().argmax(-1)
        x = logits.double().requires_grad_()
        want = torch.nn.functional.cross_entropy(x, labels.long(), reduction="none")
        want.backward(dloss.double())
        h.close(f"cross_entropy {name} {vocab} loss", loss, want, 1e-6)
        h.close(f"cross_entropy {name} {vocab} lse", lse, x.logsumexp(-1), 1e-6)
        h.equal(f"cross_entropy {name} {vocab} best", best.long(), chosen)
        h.close(f"cross_entropy {name} {vocab} dlogits", d, x.grad, 3e-3 if name == "bf16" else 1e-5)


def bit_sum(x):
    """The sum that the host computes (core/model/src/ops/reduce/cpu.rs)."""
    total = 0
    for at, bits in enumerate(x.view(torch.int32).tolist()):
        key = (at << 32) ^ (bits & 0xFFFFFFFF)
        for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            key = ((key ^ (key >> 33)) * factor) % 2**64
        total += key ^ (key >> 33)
    return total % 2**64


def optimizer(h):
    for count in (1, 4099, 2048):
        p, g, m, v = (torch.randn(count, device="cuda") for _ in range(4))
        v = v.abs()
        want = [t.double() for t in (p, m, v)]
        lr, wd, b1, b2, eps, step = 1e-2, 0.1, 0.9, 0.999, 1e-8, 3
        bc1, bc2 = 1 - b1**step, 1 - b2**step
        grad = g.double() * 0.5
        want[0] *= 1 - lr * wd
        want[1] += (grad - want[1]) * (1 - b1)
        want[2] = want[2] * b2 + grad * grad * (1 - b2)
        want[0] -= lr / bc1 * want[1] / (want[2].sqrt() / math.sqrt(bc2) + eps)
        h.elements("adamw", "adamw_step", count, p, g, m, v, count, 0.5, 1 - lr * wd, b1, b2, lr / bc1, math.sqrt(bc2), eps)
        for name, got, expected in zip("pmv", (p, m, v), want):
            h.close(f"adamw {count} {name}", got, expected, 1e-6)
        partial, total = torch.empty(7, device="cuda", dtype=torch.double), torch.empty(1, device="cuda", dtype=torch.double)
        h.launch("reduce", "square_sum_f32", (7,), 256, partial, g, count)
        h.launch("reduce", "sum_f64", (1,), 256, total, partial, 7)
        h.close(f"square_sum {count}", total, g.double().square().sum()[None], 1e-12)
        halves = torch.empty(14, device="cuda", dtype=torch.int32)
        h.launch("reduce", "bit_sum_f32", (7,), 256, halves, g, count)
        found = sum((low & 0xFFFFFFFF) | ((high & 0xFFFFFFFF) << 32) for low, high in zip(halves.tolist()[::2], halves.tolist()[1::2]))
        assert found % 2**64 == bit_sum(g.cpu()), f"bit_sum {count}"


def lora_rows(h):
    none = 2**32 - 1 - 2**32
    for rows, inputs, outputs, rank, groups in [(1, 2880, 5120, 8, 1), (37, 64, 136, 24, 5), (256, 2880, 2880, 64, 3)]:
        x, y = bf16(rows, inputs), bf16(rows, outputs)
        a, b = bf16(groups, rank, inputs, scale=inputs**-0.5), bf16(groups, outputs, rank)
        index = torch.randint(-1, groups, (rows,), device="cuda", dtype=torch.int32)
        index[0] = groups - 1
        z, want = torch.full((rows, rank), math.nan, device="cuda"), y.double()
        for row, group in enumerate(index.tolist()):
            if group != none:
                want[row] += b[group].double() @ (a[group].double() @ x[row].double())

        def run(y):
            h.launch("lora_rows", "lora_rows_down", (rows, rank // 8), 256, z, x, a, index, groups, inputs, rank, 1)
            h.launch("lora_rows", "lora_rows_up", (rows, -(-outputs // 128)), 128, y, z, b, index, groups, outputs, rank)
        found, again = y.clone(), y.clone()
        run(found)
        h.close(f"lora_rows {rows}x{inputs}x{outputs} rank {rank}", found, want)
        h.launch("lora_rows", "lora_rows_down", (1, rank // 8), 256, z, x[rows - 1 :], a, index[rows - 1 :], groups, inputs, rank, 1)
        h.launch("lora_rows", "lora_rows_up", (1, -(-outputs // 128)), 128, again[rows - 1 :], z, b, index[rows - 1 :], groups, outputs, rank)
        h.equal(f"lora_rows {rows} alone", again[-1], found[-1])
    rows, share, groups, rank = 12, 3, 4, 8
    x, a, b = bf16(rows // share, 64), bf16(groups, rank, 64, scale=0.1), bf16(groups, 136, rank)
    index = torch.randint(-1, groups, (rows,), device="cuda", dtype=torch.int32)
    index[0] = none
    z, found = torch.full((rows, rank), math.nan, device="cuda"), torch.full((rows, 136), math.nan, device="cuda")
    h.launch("lora_rows", "lora_rows_down", (rows, rank // 8), 256, z, x, a, index, groups, 64, rank, share)
    h.launch("lora_rows", "lora_rows_term", (rows, 2), 128, found, z, b, index, groups, 136, rank)
    want = torch.zeros(rows, 136, device="cuda", dtype=torch.float64)
    for row, group in enumerate(index.tolist()):
        if group != none:
            want[row] = b[group].double() @ (a[group].double() @ x[row // share].double())
    h.close("lora_rows_term", found, want, 1e-5)
    ids, order, _, _ = plan(50, 3, 8)
    adapters = torch.randint(-1, 4, (50,), device="cuda", dtype=torch.int32)
    found = torch.empty(150, device="cuda", dtype=torch.int32)
    h.launch("lora_rows", "lora_rows_index", (2,), 128, found, adapters, order, ids.int().contiguous(), 150, 3, 8)
    of_row = adapters[order.long() // 3]
    h.equal("lora_rows_index", found, torch.where(of_row < 0, of_row, of_row * 8 + ids.flatten()[order.long()].int()))


def time_lora_rows(h):
    for rows, outputs, rank, groups in [(1, 5120, 16, 4), (32, 5120, 16, 4), (256, 5120, 16, 4), (1024, 5760, 16, 128)]:
        x, y, a, b = bf16(rows, 2880), bf16(rows, outputs), bf16(groups, rank, 2880), bf16(groups, outputs, rank, scale=1e-3)
        index, z = torch.randint(0, groups, (rows,), device="cuda", dtype=torch.int32), torch.empty(rows, rank, device="cuda")
        h.replayed(f"lora_rows_down {rows} rank {rank}", x.nbytes, lambda: h.launch("lora_rows", "lora_rows_down", (rows, rank // 8), 256, z, x, a, index, groups, 2880, rank, 1))
        h.replayed(f"lora_rows_up {rows} rank {rank}", 2 * y.nbytes, lambda: h.launch("lora_rows", "lora_rows_up", (rows, -(-outputs // 128)), 128, y, z, b, index, groups, outputs, rank))


def time_all(h):
    copy = torch.empty(1 << 30, device="cuda", dtype=torch.uint8)
    other = torch.empty_like(copy)
    h.bandwidth("device copy", 2 << 30, lambda: other.copy_(copy))
    del copy, other
    t, hidden, f, k, e = 16384, 2880, 2880, 4, 32
    x, w, dy, y = bf16(t, hidden), bf16(hidden), bf16(t, hidden), bf16(t, hidden)
    rms = t, hidden, 1e-5
    h.bandwidth("rms_norm_forward", 2 * x.nbytes, lambda: h.rows("rms_norm", "rms_norm_forward", t, y, None, x, None, w, *rms))
    h.bandwidth("rms_norm_backward", 3 * x.nbytes, lambda: h.rows("rms_norm", "rms_norm_backward", t, y, x, w, dy, None, *rms))
    n = t * k
    _, order, inverse, offsets = plan(t, k, e)
    xs, wt, dwt = bf16(n, hidden), torch.rand(t, k, device="cuda"), torch.rand(t, k, device="cuda")
    ids, by_bias = torch.randint(0, e, (t, k), device="cuda", dtype=torch.int32), bf16(t, e)
    sizes = hidden, k
    h.bandwidth("permute_gather", x.nbytes + xs.nbytes, lambda: h.rows("permute", "permute_gather", t, xs, x, inverse, t, *sizes))
    h.bandwidth("permute_combine", x.nbytes + xs.nbytes, lambda: h.rows("permute", "permute_combine", t, y, None, xs, wt, inverse, t, *sizes))
    h.bandwidth("permute_gather_backward", x.nbytes + xs.nbytes, lambda: h.rows("permute", "permute_gather_backward", t, y, None, xs, inverse, t, *sizes))
    b = bf16(e, hidden)
    h.bandwidth("grouped_add_bias", 2 * xs.nbytes, lambda: h.rows("bias", "grouped_add_bias", n, xs, b, offsets, n, hidden, e))
    db = torch.empty(e, hidden, device="cuda")
    h.bandwidth("grouped_bias_grad", xs.nbytes, lambda: h.launch("bias", "grouped_bias_grad", (-(-hidden // 64), e), 256, db, xs, offsets, hidden))
    gu, dgu = bf16(n, 2 * f), bf16(n, 2 * f)
    h.bandwidth("swiglu_forward", gu.nbytes * 3 // 2, lambda: h.elements("swiglu", "swiglu_forward", n * f, xs, gu, n * f, 7))
    h.bandwidth("swiglu_backward", gu.nbytes * 5 // 2, lambda: h.rows("swiglu", "swiglu_backward", n, dgu, dwt, gu, xs, wt, order, ids, by_bias, n, f, k, e, 7))
    blocks = torch.randint(0, 256, (e, 2 * f, hidden // 32, 16), device="cuda", dtype=torch.uint8)
    scales = torch.randint(110, 130, (e, 2 * f, hidden // 32), device="cuda", dtype=torch.uint8)
    full = torch.empty(e, 2 * f, hidden, device="cuda", dtype=torch.bfloat16)
    per = 2 * f * hidden
    h.bandwidth("mxfp4_dequantize", blocks.nbytes + scales.nbytes + full.nbytes,
                lambda: h.launch("mxfp4", "mxfp4_dequantize", (-(-per // 8192), e), 256, full, blocks, scales, None, per, e))
    h.bandwidth("fill_normal_bf16", full.nbytes, lambda: h.elements("random", "fill_normal_bf16", full.numel(), full, full.numel(), 1, 2, 0, 0, 1))
    del gu, dgu, full, blocks
    qkv, pos = bf16(t, 80 * 64), torch.arange(t, device="cuda", dtype=torch.int32)
    cos = torch.rand(t, 32, device="cuda")
    h.bandwidth("rope_apply", 2 * qkv.nbytes, lambda: h.launch("rope", "rope_apply", (-(-t * 80 * 4 // 256),), 256, qkv, qkv, cos, cos, pos, t, 64, 8, 64, 0))
    vocab, rows = 201088, 4096
    logits = torch.randn(rows, vocab, device="cuda", dtype=torch.bfloat16)
    labels, lse, loss = torch.zeros(rows, device="cuda", dtype=torch.int32), torch.empty(rows, device="cuda"), torch.empty(rows, device="cuda")
    h.bandwidth("cross_entropy_forward_bf16", logits.nbytes, lambda: h.launch("cross_entropy", "cross_entropy_forward_bf16", (rows,), 512, loss, lse, labels.clone(), logits, labels, vocab))
    h.bandwidth("cross_entropy_backward_bf16", 2 * logits.nbytes, lambda: h.launch("cross_entropy", "cross_entropy_backward_bf16", (rows, -(-vocab // 8192)), 256, logits, logits, lse, labels, loss, vocab))
    count = 1 << 26
    p = [torch.rand(count, device="cuda") for _ in range(4)]
    h.bandwidth("adamw_step", 7 * p[0].nbytes, lambda: h.elements("adamw", "adamw_step", count, *p, count, 1, 1, 0.9, 0.999, 1e-4, 1, 1e-8))
    keys = torch.zeros(count // 2048, 2, device="cuda", dtype=torch.int32)
    h.bandwidth("dropout_f32", 2 * p[0].nbytes, lambda: h.launch("random", "dropout_f32", (len(keys), 2), 256, p[0], p[1], keys, 2048, 1, 1 << 30, 1.3))
    partial = torch.empty(1024, device="cuda", dtype=torch.double)
    h.bandwidth("square_sum_f32", p[0].nbytes, lambda: h.launch("reduce", "square_sum_f32", (1024,), 256, partial, p[0], count))


CHECKS = [rms_norm, rope, router, permute, bias, lora_rows, swiglu, mxfp4, cross_entropy, optimizer, random_check.check, attention_check.check, paged_check.check, sample_check.check, *rows_check.CHECKS]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernels")
    parser.add_argument("--only", default="")
    parser.add_argument("--no-time", action="store_true")
    parser.add_argument("--no-check", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(1)
    with tempfile.TemporaryDirectory() as folder:
        if not args.kernels:
            compile_kernels(folder)
        h = Harness(args.kernels or folder)
        for test in CHECKS:
            if not args.no_check and args.only in f"{test.__module__} {test.__name__}":
                h.guard(test)
        if not args.no_time:
            for test in (time_all, time_lora_rows, attention_check.time_all, paged_check.time_all, sample_check.time_all, rows_check.time_all):
                if args.only in f"{test.__module__} {test.__name__}":
                    h.guard(test)
    print(f"{h.passed} checks passed, {h.failed} failed")
    sys.exit(h.failed > 0)


if __name__ == "__main__":
    main()
