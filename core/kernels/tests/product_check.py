#!/usr/bin/env python3
"""Checks and times the products of product_hopper.cu, the low-rank kernels of lora.cu and the sorting of route.cu against torch.

    python3 product_check.py DIR        DIR holds product_hopper.cubin, lora.cubin and route.cubin
"""
import sys

import torch

from driver import Driver, milliseconds, tensor_map

DIR = sys.argv[1] if len(sys.argv) > 1 else "."
GEMM, LORA, ROUTE = (f"{DIR}/{name}.cubin" for name in ("product_hopper", "lora", "route"))
SHARED = 3 * (256 + 192) * 128 + 2 * 64 * 192 * 2 + 1024
driver, failures = Driver(), 0
torch.manual_seed(0)


def bf16(*shape, scale=1.0):
    return (torch.randn(*shape, device="cuda") * scale).bfloat16()


def close(name, got, want, tolerance):
    global failures
    got, want = got.double(), want.double()
    error = ((got - want).norm() / want.norm().clamp(min=1e-30)).item()
    good = error <= tolerance
    failures += not good
    if not good:
        print(f"FAILED {name}: relative error {error:.2e}, allowed {tolerance:.0e}", flush=True)


def offsets_of(sizes):
    return torch.tensor([0] + sizes, device="cuda").cumsum(0).to(torch.int32)


def product(kind, out, x, w, offsets, n, k, bias=None, low=None):
    """x [rows, k]; w [groups * n, k] for nt, [groups * k, n] for nn; low = (x_low, w_low) alike."""
    b_rows = 64 if kind == "product_nn" else 192
    x_low, w_low = low or (None, None)
    maps = [tensor_map(x, 64), tensor_map(w, b_rows), tensor_map(x_low, 64), tensor_map(w_low, b_rows), tensor_map(out, 64)]
    columns = x_low.shape[1] if low else 0
    args = [out, bias, offsets, len(offsets) - 1, n, k, columns, *maps]
    return lambda: driver.launch(GEMM, kind, (132,), 384, args, SHARED)


def reference(x, w, offsets, n, k, nn, bias=None, low=None):
    groups, offs = len(offsets) - 1, offsets.tolist()
    out = torch.zeros(x.shape[0], n, device="cuda")
    for e in range(groups):
        s, t = offs[e], offs[e + 1]
        m = w.view(groups, k, n)[e].float() if nn else w.view(groups, n, k)[e].float().T
        out[s:t] = x[s:t].float() @ m
        if low:
            r = low[0].shape[1]
            m = low[1].view(groups, r, n)[e].float() if nn else low[1].view(groups, n, r)[e].float().T
            out[s:t] += low[0][s:t].float() @ m
        if bias is not None:
            out[s:t] += bias.view(groups, n)[e].float()
    return out


def check_products():
    cases = [([300, 0, 1, 64, 65, 700, 129], 384, 320), ([5], 64, 72), ([1000, 0, 0], 200, 136), ([17, 256, 255, 257], 576, 2880), ([0, 0, 40], 32, 64)]
    torch.backends.cuda.matmul.allow_tf32 = False
    for sizes, n, k in cases:
        for rank in (0, 8, 16, 24, 64):
            groups, rows, offsets = len(sizes), sum(sizes), offsets_of(sizes)
            x, bias = bf16(rows, k), bf16(groups * n)
            for nn in (False, True):
                w = bf16(groups * (k if nn else n), n if nn else k, scale=k**-0.5)
                low = (bf16(rows, rank), bf16(groups * (rank if nn else n), n if nn else rank, scale=rank**-0.5)) if rank else None
                kind, name = "product_nn" if nn else "product_nt", f"{sizes} {n} {k} rank {rank} {'nn' if nn else 'nt'}"
                want = reference(x, w, offsets, n, k, nn, bias, low)
                out = torch.full((rows, n), float("nan"), device="cuda", dtype=torch.bfloat16)
                product(kind, out, x, w, offsets, n, k, bias=bias, low=low)()
                close(name, out, want, 4e-3)
    print("products checked", flush=True)


def check_lora():
    for sizes, width in [([300, 0, 1, 64, 65, 700, 129], 320), ([5], 72), ([2049, 3, 0], 2880)]:
        offsets, rows, groups = offsets_of(sizes), sum(sizes), len(sizes)
        offs = offsets.tolist()
        for rank in (3, 8, 16, 20, 64):
            nt = -(-rank // 8)
            pitch, x = nt * 8, bf16(rows, width)
            a, z = torch.randn(groups, rank, width, device="cuda"), torch.full((rows, pitch), float("nan"), device="cuda", dtype=torch.bfloat16)
            packed = torch.full((groups, pitch, width), float("nan"), device="cuda", dtype=torch.bfloat16)
            count = groups * pitch * width
            driver.launch(LORA, "lora_pack_a", (-(-count // 256),), 256, [packed, a, groups, rank, pitch, width, pitch, 0])
            driver.launch(LORA, f"lora_down_{nt}", (-(-rows // 32) + groups,), 256, [z, x, packed, offsets, groups, rows, width])
            want = torch.cat([x[offs[e]:offs[e + 1]].float() @ packed[e].float().T for e in range(groups)])
            close(f"down {sizes} {width} {rank}", z, want, 4e-3)
            b = torch.randn(width, rank, groups, device="cuda")
            wide = torch.full((groups, width, pitch), float("nan"), device="cuda", dtype=torch.bfloat16)
            tall = torch.full((groups, pitch, width), float("nan"), device="cuda", dtype=torch.bfloat16)
            driver.launch(LORA, "lora_pack_b", (-(-count // 256),), 256, [wide, tall, b, 0.5, groups, rank, width, pitch, 0, width, 0])
            want = torch.zeros(groups, width, pitch, device="cuda")
            want[:, :, :rank] = (0.5 * b).permute(2, 0, 1)
            close(f"pack_b wide {rank}", wide, want, 4e-3)
            close(f"pack_b tall {rank}", tall, want.transpose(1, 2), 4e-3)
            for splits in (1, 3):
                out = torch.full((splits, width, rank, groups), float("nan"), device="cuda")
                driver.launch(LORA, f"lora_gradient_{nt}", (-(-width // 64), groups, splits), 256,
                              [out, x, z, offsets, width, rank, 1, rank * groups, groups, width * rank * groups, 0.5])
                want = torch.stack([0.5 * x[offs[e]:offs[e + 1]].double().T @ z[offs[e]:offs[e + 1]].double()[:, :rank] for e in range(groups)], -1)
                close(f"gradient {sizes} {width} {rank} splits {splits}", out.sum(0), want, 1e-5)
    print("low-rank kernels checked", flush=True)


def check_route():
    for pairs, experts in [(4, 4), (1023, 32), (4096, 32), (65536, 32), (5000, 128), (3333, 200)]:
        ids = torch.randint(0, experts, (pairs,), device="cuda").clamp(max=experts - 2).to(torch.int32)
        blocks = -(-pairs // 1024)
        counts = torch.empty(blocks, experts, device="cuda", dtype=torch.int32)
        offsets, order, inverse = (torch.full((n,), -1, device="cuda", dtype=torch.int32) for n in (experts + 1, pairs, pairs))
        def run():
            driver.launch(ROUTE, "route_count", (blocks,), 1024, [counts, ids, pairs, experts])
            driver.launch(ROUTE, "route_scan", (1,), 256, [offsets, counts, blocks, experts])
            driver.launch(ROUTE, "route_scatter", (blocks,), 1024, [order, inverse, ids, counts, pairs, experts])
        run()
        want = torch.sort(ids.long(), stable=True).indices
        global failures
        good = (order.long() == want).all() and (inverse.long()[want] == torch.arange(pairs, device="cuda")).all()
        good = good and (offsets.long() == torch.cat([torch.zeros(1, device="cuda"), torch.bincount(ids.long(), minlength=experts).cumsum(0)]).long()).all()
        failures += not good
        print(f"route {pairs} pairs {experts} experts: {'ok' if good else 'FAILED'} {milliseconds(run) * 1e3:.1f} us", flush=True)


def sizes_of(rows, experts, skew):
    p = torch.softmax(torch.randn(experts) * skew, 0)
    sizes = (p * rows).floor().int()
    sizes[0] += rows - sizes.sum()
    return sizes.tolist()


def time_products():
    for rows, skew in [(65536, 0.0), (65536, 0.5), (16384, 0.0), (16384, 0.5)]:
        sizes = sizes_of(rows, 32, skew)
        offsets = offsets_of(sizes)
        for label, kind, n, k in [("gate_up", "product_nt", 5760, 2880), ("down", "product_nt", 2880, 2880), ("d gate_up", "product_nn", 2880, 5760), ("d down", "product_nn", 2880, 2880)]:
            nn = kind == "product_nn"
            x, w, out = bf16(rows, k), bf16(32 * (k if nn else n), n if nn else k, scale=0.02), bf16(rows, n)
            bias, flop = bf16(32 * n), 2 * rows * n * k / 1e9
            rate = lambda run: f"{flop / milliseconds(run):6.0f}"
            low = (bf16(rows, 8), bf16(32 * (8 if nn else n), n if nn else 8))
            text = f"{rows} skew {skew} {label:10} {rate(product(kind, out, x, w, offsets, n, k))} TFLOP/s; bias, rank 8 {rate(product(kind, out, x, w, offsets, n, k, bias=bias, low=low))}"
            m = w.view(32, k, n) if nn else w.view(32, n, k).transpose(1, 2)
            parts = offsets.tolist()
            text += f"; cuBLAS one by one {rate(lambda: [torch.matmul(x[s:t], m[e], out=out[s:t]) for e, (s, t) in enumerate(zip(parts, parts[1:]))])}"
            text += f"; torch._grouped_mm {rate(lambda: torch._grouped_mm(x, m, offs=offsets[1:]))}"
            print(text, flush=True)
    for rows in (4096, 16384):
        offsets = offsets_of([rows])
        for label, kind, n, k in [("qkv", "product_nt", 5120, 2880), ("o", "product_nt", 2880, 4096), ("d qkv", "product_nn", 2880, 5120), ("d o", "product_nn", 4096, 2880), ("big", "product_nt", 8192, 8192)]:
            nn = kind == "product_nn"
            x, w, out = bf16(rows, k), bf16(k if nn else n, n if nn else k, scale=0.02), bf16(rows, n)
            flop = 2 * rows * n * k / 1e9
            ms = milliseconds(product(kind, out, x, w, offsets, n, k))
            m = w if nn else w.T
            print(f"{rows} {label:6} {ms:7.3f} ms {flop / ms:6.0f} TFLOP/s; cuBLAS {flop / milliseconds(lambda: torch.matmul(x, m, out=out)):6.0f}", flush=True)


def time_router():
    for rows in (4096, 16384):
        x, w, d = bf16(rows, 2880), bf16(32, 2880), bf16(rows, 32)
        z, offsets = bf16(rows, 32), offsets_of([rows])
        own = lambda: driver.launch(LORA, "lora_down_4", (-(-rows // 32),), 256, [z, x, w, None, 1, rows, 2880])
        own()
        close("router", z, x.double() @ w.double().T, 4e-3)
        print(f"router of {rows}: cuBLAS {milliseconds(lambda: x @ w.T):.3f} ms, own {milliseconds(own):.3f} ms; back: cuBLAS {milliseconds(lambda: d @ w):.3f} ms, "
              f"own {milliseconds(product('product_nn', bf16(rows, 2880), d, w, offsets, 2880, 32)):.3f} ms", flush=True)


def time_lora():
    for rows, groups, width in [(65536, 32, 2880), (65536, 32, 5760), (16384, 32, 2880), (16384, 1, 2880), (16384, 1, 5120)]:
        offsets, x = offsets_of(sizes_of(rows, groups, 0.5)), bf16(rows, width)
        for nt in (1, 3, 8):
            a, z = bf16(groups, nt * 8, width), bf16(rows, nt * 8)
            splits = 1 if groups > 1 else 8
            out = torch.empty(splits, groups, nt * 8, width, device="cuda")
            down = lambda: driver.launch(LORA, f"lora_down_{nt}", (-(-rows // 32) + groups,), 256, [z, x, a, offsets, groups, rows, width])
            grad = lambda: driver.launch(LORA, f"lora_gradient_{nt}", (-(-width // 64), groups, splits), 256,
                                         [out, x, z, offsets, width, nt * 8, nt * 8 * width, 1, width, groups * nt * 8 * width, 1.0])
            gb = rows * width * 2 / 1e6
            a_ms, b_ms = milliseconds(down), milliseconds(grad)
            print(f"lora {rows} rows {groups} groups {width} rank {nt * 8}: down {a_ms:.3f} ms {gb / a_ms:.0f} GB/s, gradient {b_ms:.3f} ms {gb / b_ms:.0f} GB/s", flush=True)


check_route()
check_products()
check_lora()
time_products()
time_lora()
time_router()
print(f"{failures} failures")
sys.exit(failures > 0)
