"""Loads the fatbins, launches kernels as kernels.json declares them, compares and times."""
import traceback

import cupy, numpy as np, torch

import signatures
from driver import milliseconds


NUMBERS = {"int": np.int32, "i64": np.int64, "u32": np.uint32, "u64": np.uint64, "float": np.float32}


class Harness:
    def __init__(self, folder):
        self.folder, self.modules, self.passed, self.failed = folder, {}, 0, 0

    def kernel(self, module, name):
        if module not in self.modules:
            self.modules[module] = cupy.RawModule(path=f"{self.folder}/{module}.fatbin")
        return self.modules[module].get_function(name)

    def launch(self, module, name, grid, block, *args):
        types = signatures.types(module, name, args)
        values = [NUMBERS[kind](a) if kind in NUMBERS else np.uint64(0 if a is None else a.data_ptr()) for kind, a in zip(types, args)]
        self.kernel(module, name)(tuple(grid) + (1,) * (3 - len(grid)), (block, 1, 1), tuple(values))

    def rows(self, module, name, rows, *args):
        self.launch(module, name, (-(-rows // 4),), 128, *args)

    def elements(self, module, name, count, *args):
        self.launch(module, name, (-(-count // 2048),), 256, *args)

    def verdict(self, good, name, text):
        self.passed, self.failed = self.passed + good, self.failed + (not good)
        if not good:
            print(f"FAILED {name}: {text}", flush=True)

    def close(self, name, got, want, tolerance=4e-3):
        """Relative error in the Frobenius norm; 4e-3 is the rounding of one bf16."""
        got, want = got.detach().double(), want.detach().double()
        error = ((got - want).norm() / want.norm().clamp(min=1e-30)).item()
        self.verdict(error <= tolerance, name, f"relative error {error:.2e}, allowed {tolerance:.0e}")

    def equal(self, name, got, want):
        wrong = (got != want).sum().item()
        self.verdict(wrong == 0, name, f"{wrong} of {want.numel()} differ")

    def guard(self, test):
        before = self.failed
        try:
            test(self)
            torch.cuda.synchronize()
        except Exception:
            traceback.print_exc()
            self.verdict(False, test.__name__, "raised")
        print(f"{test.__module__}.{test.__name__}: {'ok' if self.failed == before else 'FAILED'}", flush=True)

    def bandwidth(self, name, size, run):
        ms = milliseconds(run)
        print(f"{name:30} {ms:8.3f} ms {size / ms / 1e6:8.0f} GB/s", flush=True)

    def replayed(self, name, size, run, launches=20):
        """Time of a launch within a CUDA graph, for kernels of microseconds."""
        run()
        stream = torch.cuda.Stream()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream), cupy.cuda.ExternalStream(stream.cuda_stream):
            for _ in range(launches):
                run()
        us = milliseconds(graph.replay) / launches * 1e3
        print(f"{name:44} {us:8.1f} us {size / us / 1e3:8.0f} GB/s", flush=True)

    def throughput(self, name, flop, run):
        ms = milliseconds(run)
        print(f"{name:44} {ms:8.3f} ms {flop / ms / 1e9:8.1f} TFLOP/s", flush=True)
