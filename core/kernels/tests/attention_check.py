"""Attention against a float64 version with explicit masks; gradients from torch's autograd of it."""
import math

import torch


class Case:
    """A packed batch and its launches; `lengths` are the sequences' lengths."""

    def __init__(self, h, lengths, q_heads, kv_heads, dim, window, hopper=False):
        self.main, self.block = (f"attention_d{dim}_hopper", 256) if hopper else (f"attention_d{dim}", 128)
        self.h, self.lengths, self.q, self.kv, self.dim, self.window = h, lengths, q_heads, kv_heads, dim, window
        self.tokens, self.module, self.tile = sum(lengths), f"attention_d{dim}", 128 if dim <= 64 else 64
        self.tiles = sum(-(-n // self.tile) for n in lengths)
        self.cu = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], device="cuda", dtype=torch.int32)
        new = lambda *shape: torch.randn(*shape, device="cuda").bfloat16()
        self.qkv, self.sinks, self.dout = new(self.tokens, (q_heads + 2 * kv_heads) * dim), new(q_heads), new(self.tokens, q_heads * dim)
        self.out, self.dqkv = torch.empty_like(self.dout), torch.full_like(self.qkv, math.nan)
        self.lse, self.delta = (torch.empty(q_heads, self.tokens, device="cuda") for _ in range(2))
        self.dsinks = torch.empty(q_heads, device="cuda")

    def parts(self, packed):
        d = self.dim
        return packed[:, : self.q * d], packed[:, self.q * d : (self.q + self.kv) * d], packed[:, (self.q + self.kv) * d :]

    def forward(self):
        h, stride = self.h, self.qkv.shape[1]
        h.launch(self.main, "attention_forward", (self.q, self.tiles), self.block, self.out, self.lse, *self.parts(self.qkv), self.sinks, self.cu, self.cu,
                 len(self.lengths), self.tokens, self.tokens, stride, stride, self.q * self.dim, self.q, self.kv, self.window, self.dim**-0.5)

    def backward(self, steps="delta kv q sink"):
        h, stride = self.h, self.qkv.shape[1]
        dq, dk, dv = self.parts(self.dqkv)
        common = [*self.parts(self.qkv), self.dout, self.lse, self.delta, self.cu, len(self.lengths), self.tokens, stride, self.q * self.dim, self.q, self.kv, self.window, self.dim**-0.5]
        if "delta" in steps:
            h.launch(self.module, "attention_delta", (-(-self.tokens * self.q // 128),), 128, self.delta, self.out, self.dout, self.tokens, self.q)
        if "kv" in steps:
            h.launch(self.main, "attention_backward_kv", (self.kv, self.tiles), self.block, dk, dv, *common)
        if "q" in steps:
            h.launch(self.main, "attention_backward_q", (self.q, self.tiles), self.block, dq, *common)
        if "sink" in steps:
            h.launch(self.module, "attention_sink_grad", (self.q,), 256, self.dsinks, self.lse, self.delta, self.sinks, self.tokens)

    def pairs(self):
        return sum(min(i + 1, self.window or i + 1) for n in self.lengths for i in range(n))


def reference(q, k, v, sinks, window):
    """q [Tq, Q, D], k and v [Tk, KV, D], float: out [Tq, Q, D] and lse [Q, Tq]."""
    (tq, heads, dim), tk, group = q.shape, k.shape[0], q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    distance = torch.arange(tk - tq, tk, device="cuda")[:, None] - torch.arange(tk, device="cuda")[None]
    hidden = (distance < 0) | (distance >= window) if window else distance < 0
    scores = torch.einsum("qhd,khd->hqk", q, k).mul(dim**-0.5).masked_fill(hidden, -math.inf)
    lse = torch.logaddexp(scores.logsumexp(-1), sinks[:, None])
    return torch.einsum("hqk,khd->qhd", (scores - lse[..., None]).exp(), v), lse


def compare(h, name, case):
    case.forward()
    case.backward()
    first = case.out.clone(), case.dqkv.clone(), case.dsinks.clone()
    leaf, sinks = case.qkv.double().requires_grad_(), case.sinks.double().requires_grad_()
    outs, lses, start = [], [], 0
    for n in case.lengths:
        q, k, v = (p[start : start + n].reshape(n, -1, case.dim) for p in case.parts(leaf))
        out, lse = reference(q, k, v, sinks, case.window)
        outs.append(out.reshape(n, -1))
        lses.append(lse)
        start += n
    out = torch.cat(outs)
    out.backward(case.dout.double())
    h.close(f"{name} out", case.out, out, 5e-3)
    h.close(f"{name} lse", case.lse, torch.cat(lses, 1), 1e-5)
    for part, got, want in zip(("dq", "dk", "dv"), case.parts(case.dqkv), case.parts(leaf.grad)):
        h.close(f"{name} {part}", got, want, 8e-3)
    h.close(f"{name} dsinks", case.dsinks, sinks.grad, 2e-2)  # a sum that cancels, of rounded outputs
    case.forward()
    case.backward()
    h.equal(f"{name} again: out", case.out, first[0])
    h.equal(f"{name} again: dqkv", case.dqkv, first[1])
    h.equal(f"{name} again: dsinks", case.dsinks, first[2])


BATCHES = [([1, 7, 130, 257, 64, 300], (8, 2), 0), ([1, 7, 130, 257, 64, 300], (8, 2), 128), ([333], (4, 4), 5),
           ([129, 700], (6, 1), 1), ([3] * 70, (2, 1), 2), ([1000], (8, 1), 77)]


def hopper():
    return torch.cuda.get_device_capability() == (9, 0)


def check(h):
    for dim, on_hopper in [(16, False), (32, False), (64, False), (128, False)] + [(64, True)] * hopper():
        for lengths, heads, window in BATCHES:
            compare(h, f"attention d{dim} {len(lengths)}x{max(lengths)} {heads} window {window} hopper {on_hopper}", Case(h, lengths, *heads, dim, window, on_hopper))
        cached(h, dim, on_hopper)
        case = Case(h, [200, 90], 4, 2, dim, 0, on_hopper)
        case.sinks.fill_(-math.inf)
        case.forward()
        q, k, v = (p[:200].double().reshape(200, -1, dim) for p in case.parts(case.qkv))
        h.close(f"attention d{dim} without sinks", case.out[:200], reference(q, k, v, case.sinks.double(), 0)[0].reshape(200, -1), 5e-3)


def cached(h, dim, on_hopper):
    for tq, tk, window, (heads, kv_heads) in [(1, 1, 0, (8, 2)), (1, 777, 0, (8, 2)), (1, 777, 128, (8, 1)), (5, 300, 40, (4, 4)), (150, 400, 0, (4, 2)), (150, 400, 64, (4, 2))]:
        q, k, v = (torch.randn(n, w * dim, device="cuda").bfloat16() for n, w in ((tq, heads), (tk, kv_heads), (tk, kv_heads)))
        sinks = torch.randn(heads, device="cuda").bfloat16()
        want = reference(*(t.double().reshape(t.shape[0], -1, dim) for t in (q, k, v)), sinks.double(), window)[0].reshape(tq, -1)
        tile, module, out = 128 if dim <= 64 else 64, f"attention_d{dim}", torch.empty_like(q)
        main, block = (module + "_hopper", 256) if on_hopper else (module, 128)
        h.launch(main, "attention_forward", (heads, -(-tq // tile)), block, out, None, q, k, v, sinks, None, None,
                 1, tq, tk, heads * dim, kv_heads * dim, heads * dim, heads, kv_heads, window, dim**-0.5)
        h.close(f"attention cached d{dim} {tq}/{tk} window {window}", out, want, 5e-3)


def time_all(h):
    for lengths, on_hopper in [(n, o) for n in ([4096] * 4, [16384], [4096], [512] * 32) for o in (False, True)[: 1 + hopper()]]:
        for window in (0, 128):
            case = Case(h, lengths, 64, 8, 64, window, on_hopper)
            flop, name = 4 * 64 * 64 * case.pairs(), f"{len(lengths)}x{lengths[0]} window {window}{' hopper' * on_hopper}"
            h.throughput(f"attention forward {name}", flop, case.forward)
            h.throughput(f"attention backward {name}", 2.5 * flop, case.backward)
            for step, share in (("delta", 0), ("kv", 2), ("q", 1.5), ("sink", 0)):
                h.throughput(f"    {step} alone, its own products", share * flop, lambda: case.backward(step))
    baseline(h)


def baseline(h):
    """torch's flash attention on the same shape, causal without sinks, keys repeated for each query head."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    q, k, v = (torch.randn(4, 64, 4096, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    flop, dout = 4 * 64 * 64 * 4 * 4096 * 4097 / 2, torch.randn_like(q)
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        with sdpa_kernel(backend):
            run = lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            h.throughput(f"torch {backend.name} forward", flop, run)
            out = run()
            h.throughput(f"torch {backend.name} backward", 2.5 * flop, lambda: torch.autograd.grad(out, (q, k, v), dout, retain_graph=True))
