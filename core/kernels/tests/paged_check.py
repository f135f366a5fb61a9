"""Writing to pages, attention over pages and gathering, against float64 on rows side by side."""
import math

import torch

from attention_check import reference

PAGE, ROWS, NONE = 16, 8, -1
SHORT_SPAN, FEW_SPLITS, MOST_SPLITS, USUAL_SPLIT = 384, 8, 32, 512


def most_splits(positions, window):
    span = min(positions, window + PAGE - 1) if window else positions
    return 1 if span <= SHORT_SPAN else min(MOST_SPLITS, max(FEW_SPLITS, -(-span // USUAL_SPLIT)))


class Case:
    """Sequences of these lengths, with keys and values in pages in random order; what is not written is NaN."""

    def __init__(self, h, lengths, q_heads, kv_heads, dim, window=0, takers=None, sinks=True):
        self.h, self.lengths, self.q, self.kv, self.dim, self.window = h, lengths, q_heads, kv_heads, dim, window
        width, count, longest = kv_heads * dim, len(lengths), max(lengths)
        self.pages = max(1, -(-longest // PAGE)) + 1
        used = [-(-n // PAGE) for n in lengths]
        order = torch.randperm(sum(used) + 3, device="cuda", dtype=torch.int32)
        self.table, at = torch.full((count, self.pages), 1 << 30, device="cuda", dtype=torch.int32), 0
        for s, n in enumerate(used):
            self.table[s, :n], at = order[at : at + n], at + n
        self.keys, self.values = (torch.full((len(order) * PAGE, width), math.nan, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        self.k, self.v = ([torch.randn(n, width, device="cuda").bfloat16() for n in lengths] for _ in range(2))
        for s, n in enumerate(lengths):
            slots = self.slots(s, torch.arange(n, device="cuda"))
            self.keys[slots], self.values[slots] = self.k[s], self.v[s]
        self.packed = torch.randn(count, (q_heads + 2 * kv_heads) * dim, device="cuda").bfloat16()
        self.sinks = torch.randn(q_heads, device="cuda").bfloat16() if sinks else torch.full((q_heads,), -math.inf, device="cuda", dtype=torch.bfloat16)
        self.lens = torch.tensor(lengths, device="cuda", dtype=torch.int32)
        self.splits = most_splits(longest, window)
        self.takers = takers or self.splits
        self.blocks = kv_heads * -(-(q_heads // kv_heads) // ROWS)
        self.out = torch.full((count, q_heads * dim), math.nan, device="cuda", dtype=torch.bfloat16)
        self.partial = torch.full((count, q_heads, self.splits, dim), math.nan, device="cuda")
        self.weights = torch.full((count, q_heads, self.splits, 2), math.nan, device="cuda")
        self.done = torch.zeros(count, self.blocks, device="cuda", dtype=torch.int32)

    def slots(self, s, positions):
        return self.table[s].long()[positions // PAGE] * PAGE + positions % PAGE

    def run(self, first=0, count=None):
        """Sequences first..first + count."""
        n = len(self.lengths) if count is None else count
        part = lambda t: t[first : first + n]
        self.h.launch(f"attention_d{self.dim}", "paged_attention", (self.blocks, self.takers, n), 128, part(self.out), self.partial, self.weights, self.done,
                      part(self.packed), self.keys, self.values, self.sinks, part(self.table), part(self.lens), self.pages, self.packed.shape[1],
                      self.q, self.kv, self.window, self.splits, self.dim**-0.5)

    def want(self, s):
        if self.lengths[s] == 0:
            return torch.zeros(self.q * self.dim, device="cuda", dtype=torch.double)
        rows = lambda t: t.double().reshape(t.shape[0], -1, self.dim)
        q = self.packed[s : s + 1, : self.q * self.dim]
        return reference(rows(q), rows(self.k[s]), rows(self.v[s]), self.sinks.double(), self.window)[0].flatten()

    def size(self):
        """Bytes of keys and values that are seen."""
        return sum(min(n, self.window or n) for n in self.lengths) * self.kv * self.dim * 4


LENGTHS = [1, 15, 16, 17, 128, 0, 300, 383, 384, 385, 777, 1024, 1500]


def attend(h):
    for dim in (16, 32, 64, 128):
        for heads, window, sinks in [((8, 2), 0, True), ((8, 1), 128, True), ((4, 4), 5, False), ((32, 2), 0, True), ((6, 2), 600, False)]:
            case = Case(h, LENGTHS, *heads, dim, window, sinks=sinks)
            case.run()
            name = f"paged attention d{dim} {heads} window {window}"
            h.close(name, case.out, torch.stack([case.want(s) for s in range(len(LENGTHS))]), 5e-3)
            h.equal(f"{name} done", case.done, torch.zeros_like(case.done))
            whole = case.out.clone()
            for takers, first, count in [(1, 0, None), (3, 0, None), (case.takers, 9, 4), (2, 11, 1)]:
                case.takers = takers
                case.out.fill_(math.nan)
                case.run(first, count)
                part = slice(first, first + (count or len(LENGTHS)))
                h.equal(f"{name}: {takers} takers, sequences from {first}", case.out[part], whole[part])
    case = Case(h, [20000, 4097], 8, 1, 64)
    case.run()
    h.close("paged attention, long", case.out, torch.stack([case.want(0), case.want(1)]), 5e-3)


def write(h):
    for tokens, q, kv, dim in [(7, 4, 2, 16), (33, 8, 1, 64), (130, 3, 3, 32), (5, 2, 1, 128)]:
        heads = q + 2 * kv
        x = torch.randn(tokens, heads * dim, device="cuda").bfloat16()
        angle = torch.rand(300, dim // 2, device="cuda") * 6
        cos, sin = (1.3 * angle.cos()).contiguous(), (1.3 * angle.sin()).contiguous()
        pos = torch.randint(0, 300, (tokens,), device="cuda", dtype=torch.int32)
        slots = torch.randperm(200, device="cuda", dtype=torch.int32)[:tokens]
        want = torch.empty_like(x)
        h.launch("rope", "rope_apply", (-(-tokens * heads * dim // 16 // 256),), 256, want, x, cos, sin, pos, tokens, q, kv, dim, 0)
        slots[3] = NONE
        kept = slots != NONE
        k, v = want[:, q * dim : (q + kv) * dim], want[:, (q + kv) * dim :]
        for same in (False, True):
            y = x.clone() if same else torch.empty_like(x)
            keys, values = (torch.full((200, kv * dim), 7.0, device="cuda", dtype=torch.bfloat16) for _ in range(2))
            h.launch("paged", "paged_write", (-(-tokens * heads * dim // 16 // 128),), 128, y, keys, values, y if same else x, cos, sin, pos, slots.view(torch.int32), tokens, q, kv, dim)
            h.equal(f"paged_write {tokens} y", y, want)
            for name, pool, part in (("keys", keys, k), ("values", values, v)):
                expected = torch.full_like(pool, 7.0)
                expected[slots[kept].long()] = part[kept]
                h.equal(f"paged_write {tokens} {name}", pool, expected)


def gather(h):
    case = Case(h, [40, 1, 700, 16], 8, 2, 64)
    firsts, ends = [8, 0, 690, 0], [40, 1, 700, 16]
    counts = [end - first for first, end in zip(firsts, ends)]
    cu = torch.tensor([0, *torch.tensor(counts).cumsum(0)], device="cuda", dtype=torch.int32)
    rows, width = sum(counts), 128
    k, v = (torch.empty(rows, width, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    h.rows("paged", "paged_gather", rows, k, v, case.keys, case.values, case.table, cu, torch.tensor(firsts, device="cuda", dtype=torch.int32), 4, rows, case.pages, width)
    for name, found, parts in (("keys", k, case.k), ("values", v, case.v)):
        h.equal(f"paged_gather {name}", found, torch.cat([part[first:end] for part, first, end in zip(parts, firsts, ends)]))


def check(h):
    attend(h)
    write(h)
    gather(h)


def time_all(h):
    for count, length, window in [(1, 1000, 0), (1, 1000, 128), (1, 8000, 0), (1, 100000, 0), (32, 1024, 0), (32, 1024, 128), (256, 1024, 0), (256, 1024, 128), (256, 300, 0)]:
        case = Case(h, [length] * count, 64, 8, 64, window)
        case.takers = max(min(case.splits, FEW_SPLITS), min(case.splits, -(-1056 // (case.blocks * count))))
        h.replayed(f"paged_attention {count} x {length} window {window}", case.size(), case.run)
    for tokens in (1, 256):
        qkv, cos = torch.randn(tokens, 80 * 64, device="cuda").bfloat16(), torch.rand(4096, 32, device="cuda")
        pos, slots = (torch.arange(tokens, device="cuda", dtype=torch.int32) for _ in range(2))
        keys, values = (torch.zeros(256, 512, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        h.replayed(f"paged_write {tokens}", 2 * qkv.nbytes, lambda: h.launch("paged", "paged_write", (-(-tokens * 80 * 4 // 128),), 128, qkv, keys, values, qkv, cos, cos, pos, slots, tokens, 64, 8, 64))
