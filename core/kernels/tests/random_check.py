"""The counter-based generator against a NumPy version of the rule in src/philox.cuh and src/random.cu."""
import numpy as np, torch

LOW = np.uint64(0xFFFFFFFF)


def philox(seed, stream, blocks):
    blocks, stream = np.asarray(blocks, dtype=np.uint64), np.asarray(stream, dtype=np.uint64)
    full = lambda v: np.full_like(blocks, v)
    c = [blocks & LOW, blocks >> np.uint64(32), full(stream & LOW), full(stream >> np.uint64(32))]
    k = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        high, low = lambda p: p >> np.uint64(32), lambda p: p & LOW
        c = [high(b) ^ c[1] ^ np.uint64(k[0]), low(b), high(a) ^ c[3] ^ np.uint64(k[1]), low(a)]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return np.stack(c, -1)


def words(seed, stream, first, count):
    index = np.arange(first, first + count, dtype=np.uint64)
    return np.take_along_axis(philox(seed, stream, index // 4), (index % 4).astype(np.int64)[:, None], 1)[:, 0]


def token_words(seed, stream, keys, width):
    """The words of tokens with these examples and places, [rows, width]."""
    columns = np.arange(width, dtype=np.uint64)[None]
    example, place = (keys[:, i : i + 1].astype(np.uint64) for i in (0, 1))
    streams = np.broadcast_to(np.uint64(stream) | example << np.uint64(32), (len(keys), width))
    blocks = philox(seed, streams, place << np.uint64(32) | columns // np.uint64(4))
    return np.take_along_axis(blocks, np.broadcast_to(columns % np.uint64(4), (len(keys), width)).astype(np.int64)[..., None], 2)[..., 0]


def check(h):
    assert [hex(v) for v in philox(0, 0, [0])[0]] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]
    for count, seed, stream, first in [(5, 42, 7, 0), (5003, 2**40 + 9, 2**33 + 1, 16), (4096, 1, 2, 2**36)]:
        w = words(seed, stream, first, count + 1)
        y, z = torch.empty(count, device="cuda"), torch.empty(count, device="cuda", dtype=torch.bfloat16)
        args = count, seed, stream, first
        even = w[: (count + 1) // 2 * 2].reshape(-1, 2)
        u1, u2 = ((even[:, 0] >> np.uint64(8)) + np.uint64(1)) * 2.0**-24, (even[:, 1] >> np.uint64(8)) * 2.0**-24
        r, a = np.sqrt(-2 * np.log(u1)), 2 * np.pi * u2
        normal = np.stack([r * np.cos(a), r * np.sin(a)], -1).reshape(-1)[:count]
        want = torch.from_numpy((np.float64(np.float32(0.5)) + np.float64(np.float32(0.02)) * normal).astype(np.float32)).cuda()
        h.elements("random", "fill_normal_f32", count, y, *args, 0.5, 0.02)
        h.elements("random", "fill_normal_bf16", count, z, *args, 0.5, 0.02)
        h.close(f"fill_normal_f32 {count}", y, want, 1e-9)
        h.equal(f"fill_normal_bf16 {count}", z, want.bfloat16())
        raw = philox(seed, stream, (first + np.arange((count + 15) // 16 * 16, dtype=np.uint64)[::16]) // np.uint64(16)).astype("<u4")
        byte = raw.view(np.uint8).reshape(-1)[:count].astype(np.int64)
        for low, span in ((0, 256), (118, 5)):
            b = torch.empty(count, device="cuda", dtype=torch.uint8)
            h.elements("random", "fill_bytes", count, b, *args, low, span)
            h.equal(f"fill_bytes {count} {low}", b.long(), torch.from_numpy(low + (byte * span >> 8)).cuda())
    for rows, width, seed in [(5, 101, 42), (300, 2880, 2**40 + 9), (7, 4096, 1)]:
        keys = np.random.default_rng(width).integers(0, 2**32, (rows, 2), dtype=np.uint64)
        keep = torch.from_numpy(token_words(seed, 0x64726F70, keys, width) >= int(0.3 * 2**32)).cuda()
        on_card = torch.from_numpy(keys.astype(np.uint32).view(np.int32)).cuda()
        x = torch.randn(rows, width, device="cuda")
        y, z = torch.empty_like(x), torch.empty_like(x, dtype=torch.bfloat16)
        grid, rest = (rows, -(-width // 1024)), (on_card, width, seed, int(0.3 * 2**32), 1 / 0.7)
        h.launch("random", "dropout_f32", grid, 256, y, x, *rest)
        h.close(f"dropout_f32 {rows} x {width}", y, torch.where(keep, x.double() / 0.7, 0), 1e-6)
        h.launch("random", "dropout_bf16", grid, 256, z, x.bfloat16(), *rest)
        h.close(f"dropout_bf16 {rows} x {width}", z, torch.where(keep, x.bfloat16().double() / 0.7, 0))
