"""Sampling against the same steps in float64: the kept set, the token that a number draws, log-probabilities, changed logits."""
import math

import numpy as np, torch

from random_check import philox

CHUNK, BINS, CANDIDATES, STATE, THREADS = 1024, 2048, 4096, 32, 256
SEEN = 1 << 31
NAMES = ["temperature", "top_k", "top_p", "min_p", "repetition", "frequency", "presence", "masked"]
PLAIN = dict(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, repetition=1.0, frequency=0.0, presence=0.0, masked=0)


def words(vocab):
    return STATE + -(-vocab // CHUNK) * 8 + 3 * BINS + CANDIDATES


class Case:
    def __init__(self, h, logits, rows, listed=None, mask=None, numbers=None, takers=None, logprobs=True):
        """`rows` are parameters by name, `listed` token -> (bias, count) of each row."""
        self.h, self.logits, (self.count, self.vocab) = h, logits.clone(), logits.shape
        self.given, self.rows = logits, [PLAIN | row for row in rows]
        self.parameters = torch.tensor([[float(row[name]) for name in NAMES] for row in self.rows], device="cuda", dtype=torch.float64)
        self.numbers = numbers or [(7, 2**33 + s, s) for s in range(self.count)]
        halves = [[half for n in row for half in (n & 0xFFFFFFFF, n >> 32)] for row in self.numbers]
        self.halves = torch.tensor(np.array(halves, dtype=np.uint32).view(np.int32), device="cuda")
        self.work = torch.zeros(self.count, words(self.vocab), device="cuda", dtype=torch.int32)
        self.mask, self.listed = mask, listed
        self.lists = [None] * 5
        if listed:
            flat = [(token, *entry) for row in listed for token, entry in sorted(row.items())]
            offsets = np.cumsum([0, *map(len, listed)])
            integers = lambda values: torch.tensor(np.array(values, dtype=np.uint32).view(np.int32), device="cuda")
            bias = torch.tensor([entry[1] for entry in flat], device="cuda", dtype=torch.float32)
            self.lists = [integers(offsets), integers([entry[0] for entry in flat]), bias, integers([entry[2] for entry in flat]), torch.zeros_like(bias)]
        self.tokens, self.flags = (torch.full((self.count,), -1, device="cuda", dtype=torch.int32) for _ in range(2))
        self.logprobs = torch.full((self.count,), math.nan, device="cuda") if logprobs else None
        self.takers = takers or -(-self.vocab // (CHUNK * THREADS // 32))

    def first(self):
        self.h.launch("sample", "sample_first", (self.takers, self.count), THREADS, self.tokens, self.logprobs, self.flags, self.logits, self.work,
                      self.parameters, self.halves, self.mask, *self.lists, self.vocab)

    def narrow(self, steps="bins floor draw"):
        offsets, listed, _, _, saved = self.lists
        if "bins" in steps:
            self.h.launch("sample", "sample_bins", (self.takers, self.count), THREADS, self.work, self.logits, self.parameters, self.vocab)
        if "floor" in steps:
            self.h.launch("sample", "sample_floor", (self.takers, self.count), THREADS, self.work, self.logits, self.parameters, self.vocab)
        if "draw" in steps:
            self.h.launch("sample", "sample_draw", (self.takers, self.count), THREADS, self.tokens, self.logprobs, self.flags, self.work, self.logits,
                          self.parameters, self.halves, offsets, listed, saved, self.vocab)

    def run(self):
        self.first()
        self.narrow()

    def changed(self, s):
        x, p = self.given[s].cpu().numpy().copy(), self.rows[s]
        f = np.float32
        for token, (bias, count) in (self.listed[s] if self.listed else {}).items():
            x[token] += f(bias)
            if count & SEEN and p["repetition"] != 1:
                x[token] = x[token] * f(p["repetition"]) if x[token] < 0 else x[token] / f(p["repetition"])
            if count & ~SEEN:
                x[token] -= f(p["frequency"]) * f(count & ~SEEN)
                x[token] -= f(p["presence"])
        if p["masked"]:
            bits = np.unpackbits(self.mask[s].cpu().numpy().view(np.uint8), bitorder="little")[: self.vocab]
            x[bits == 0] = -np.inf
        return x

    def compare(self, name):
        self.run()
        state = self.work.cpu().numpy()
        kept_wrong = drawn_wrong = 0
        for s, p in enumerate(self.rows):
            x = self.changed(s)
            if not np.array_equal(x, self.logits[s].cpu().numpy()):
                kept_wrong += 1
                continue
            token = self.tokens[s].item()
            if p["temperature"] == 0:
                drawn_wrong += token != int(x.argmax())
                continue
            order, kept = np.exp((x - x.max()).astype(np.float64) / p["temperature"]), x > -np.inf
            unsure = np.zeros(len(x), dtype=bool)
            if 0 < p["top_k"] < len(x):
                kept &= x >= np.partition(x, -p["top_k"])[-p["top_k"]]
            if p["top_p"] < 1:
                sums = order * kept / (order * kept).sum()
                ranks = np.lexsort((np.arange(len(x)), sums))  # the last is the most probable, of equal ones that of greater place
                below = np.cumsum(sums[ranks])
                gone = below <= 1 - p["top_p"]
                gone[-1] = False
                unsure[ranks] = np.abs(below - (1 - p["top_p"])) < 1e-9  # rounding decides
                kept[ranks[gone]] = False
            floor, tie = state[s, 14:15].view(np.float32)[0], state[s, 15]
            found = (x > floor) | ((x == floor) & (np.arange(len(x)) >= tie)) & (x > -np.inf)
            # Weights below 2^-41 are nothing.
            wrong = (found != kept) & (order > 1e-12)
            kept_wrong += (wrong & ~unsure).any() or wrong.sum() > 1
            kept = np.where(wrong, found, kept)
            if p["min_p"] > 0:
                kept &= order >= p["min_p"]
            cumulative, (seed, number, place) = np.cumsum(order * kept), self.numbers[s]
            w = philox(seed, number, [place])[0]
            unit = float((int(w[0]) << 32 | int(w[1])) >> 11) / 2**53
            target, slack = unit * cumulative[-1], 2e-6 * cumulative[-1]
            before = cumulative[token] - (order * kept)[token]
            drawn_wrong += not (kept[token] and before <= target + slack and target <= cumulative[token] + slack)
        self.h.verdict(kept_wrong == 0, f"{name} kept", f"{kept_wrong} of {self.count} rows")
        self.h.verdict(drawn_wrong == 0, f"{name} drawn", f"{drawn_wrong} of {self.count} rows")
        self.h.equal(f"{name} flags", self.flags, torch.zeros_like(self.flags))
        if self.logprobs is not None:
            want = self.given.double().log_softmax(-1).gather(1, self.tokens.long()[:, None])[:, 0]
            self.h.close(f"{name} logprobs", self.logprobs, want, 1e-6)
        work = self.work
        left = torch.cat([work[:, :5], work[:, STATE + -(-self.vocab // CHUNK) * 8 :][:, : 3 * BINS]], 1)
        self.h.equal(f"{name} workspace", left, torch.zeros_like(left))


ROWS = [dict(temperature=0), dict(), dict(temperature=0.7), dict(top_k=1), dict(top_k=50), dict(top_p=0.9), dict(top_p=1e-9), dict(min_p=0.05),
        dict(top_k=40, top_p=0.8), dict(top_k=700, top_p=0.95, min_p=0.02, temperature=1.3), dict(temperature=0.05, top_k=900),
        dict(temperature=1e-300, top_p=0.5), dict(temperature=1e300), dict(temperature=30, top_p=0.5), dict(temperature=2, top_p=0.999)]


def check(h):
    for vocab in (7, 1000, 4096, 4099, 201088):
        for name, make in [("normal", lambda *s: torch.randn(*s, device="cuda") * 1.1), ("peaked", lambda *s: torch.randn(*s, device="cuda") * 5),
                           ("ties", lambda *s: (torch.randn(*s, device="cuda") * 2).round() / 2), ("equal", lambda *s: torch.full(s, 3.25, device="cuda")),
                           ("narrow", lambda *s: torch.randn(*s, device="cuda") * 1e-3)]:
            Case(h, make(len(ROWS), vocab), ROWS).compare(f"sample {name} {vocab}")
            Case(h, make(len(ROWS), vocab), ROWS, takers=3, logprobs=False).compare(f"sample {name} {vocab}, 3 takers")
    changes(h)
    bad(h)
    alone(h)


def changes(h):
    vocab = 9000
    logits = torch.randn(4, vocab, device="cuda") * 3
    listed = [{0: (0.0, SEEN | 2), 5: (-100.0, 0), 4095: (1.5, SEEN | 1), 4096: (0.0, SEEN), 8999: (5.0, 3)}, {}, {7: (100.0, 0)},
              {int(t): (float(b), int(c) | SEEN) for t, b, c in zip(torch.randperm(vocab)[:900], torch.randn(900), torch.randint(0, 4, (900,)))}]
    bits = torch.randint(-2**31, 2**31, (4, -(-vocab // 32)), device="cuda", dtype=torch.int64).int()
    rows = [dict(repetition=1.3, frequency=0.4, presence=0.7, temperature=0), dict(masked=1), dict(top_p=0.9), dict(repetition=0.8, frequency=-0.2, presence=1.1, masked=1, top_k=30)]
    Case(h, logits, rows, listed, bits).compare("sample changed logits")


def bad(h):
    logits = torch.randn(5, 5000, device="cuda")
    logits[1, 4500], logits[2, 3], logits[3, :] = math.nan, math.inf, -math.inf
    for row in (dict(temperature=0), dict(), dict(top_k=5, top_p=0.5)):
        case = Case(h, logits, [row] * 5)
        case.run()
        h.equal(f"sample bad {row}", case.flags.cpu(), torch.tensor([0, 1, 1, 1, 0]).int())


def alone(h):
    """A row's token does not depend on the others, nor on how many blocks share it; draws follow the softmax."""
    logits = torch.randn(1, 3000, device="cuda").repeat(64, 1) * 2
    rows = [dict(top_p=0.9), dict(), dict(top_k=5), dict(min_p=0.1)] * 16
    case = Case(h, logits, rows)
    case.run()
    for takers in (1, 2):
        other = Case(h, logits, rows, takers=takers)
        other.run()
        h.equal(f"sample {takers} takers", other.tokens, case.tokens)
    one = Case(h, logits[5:6], rows[5:6], numbers=case.numbers[5:6])
    one.run()
    h.equal("sample alone", one.tokens, case.tokens[5:6])
    count, vocab = 20000, 40
    logits = torch.randn(1, vocab, device="cuda")
    for row in (dict(), dict(top_k=10), dict(top_p=0.7)):
        case = Case(h, logits.repeat(count, 1), [row] * count, numbers=[(11, s, 3) for s in range(count)])
        case.run()
        p = logits[0].double().softmax(-1)
        if "top_k" in row:
            p = p * (p >= p.sort().values[-10])
        if "top_p" in row:
            order = p.sort(descending=True)
            p[order.indices[order.values.cumsum(0) - order.values >= row["top_p"]]] = 0
        p = p / p.sum()
        seen = torch.bincount(case.tokens.long(), minlength=vocab).double()
        there = p > 0
        square = ((seen - count * p)[there] ** 2 / (count * p)[there]).sum().item()
        free = there.sum().item() - 1
        h.verdict(seen[~there].sum() == 0 and square < free + 4.5 * math.sqrt(2 * free), f"sample chi-square {row}", f"{square} of {free}")


def time_all(h):
    vocab = 201088
    for count in (1, 32, 256):
        takers = max(2, min(25, 1056 // count))
        logits = torch.randn(count, vocab, device="cuda") * 1.1
        for what, row in (("greedy", dict(temperature=0)), ("plain", dict()), ("top_p", dict(top_p=0.95)), ("top_k", dict(top_k=50)), ("top_k top_p", dict(top_k=50, top_p=0.9)), ("min_p", dict(min_p=0.05))):
            case = Case(h, logits, [row] * count, takers=takers, logprobs=what == "greedy")
            h.replayed(f"sample {count} {what}", logits.nbytes, case.first if what in ("greedy", "plain") else case.run)
        case = Case(h, logits, [dict(top_p=0.95)] * count, takers=takers, logprobs=False)
        case.run()
        for step in ("bins", "floor", "draw"):
            h.replayed(f"    {step}", logits.nbytes, lambda: case.narrow(step))
