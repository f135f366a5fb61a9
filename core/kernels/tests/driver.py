"""Launches kernels through the CUDA driver, for what cupy has no arguments for: tensor maps and large shared memory."""
import ctypes, os

import torch

import signatures

cuda = ctypes.CDLL("libcuda.so.1")
NUMBERS = {"int": ctypes.c_int, "i64": ctypes.c_int64, "u32": ctypes.c_uint32, "u64": ctypes.c_uint64, "float": ctypes.c_float}


class TensorMap(ctypes.Structure):
    _fields_ = [("words", ctypes.c_uint64 * 16)]


def checked(status, what):
    if status:
        raise RuntimeError(f"{what}: CUDA error {status}")


def tensor_map(t, box_rows):
    """Boxes of `box_rows` rows and 64 columns of a bf16 matrix, 128-byte swizzle, zeros out of bounds."""
    if t is None:
        return TensorMap()
    rows, columns = t.shape
    assert t.is_contiguous() and t.dtype == torch.bfloat16
    buffer = ctypes.create_string_buffer(192)
    at = (ctypes.addressof(buffer) + 63) & ~63
    sizes, pitch = (ctypes.c_uint64 * 2)(columns, rows), (ctypes.c_uint64 * 1)(columns * 2)
    box, steps = (ctypes.c_uint32 * 2)(64, box_rows), (ctypes.c_uint32 * 2)(1, 1)
    checked(cuda.cuTensorMapEncodeTiled(ctypes.c_void_p(at), 9, 2, ctypes.c_void_p(t.data_ptr()), sizes, pitch, box, steps, 0, 3, 3, 0), "tensor map")
    return TensorMap.from_buffer_copy((ctypes.c_char * 128).from_address(at))


class Driver:
    def __init__(self):
        torch.zeros(1, device="cuda")
        self.functions = {}

    def function(self, path, name, shared):
        if (path, name) not in self.functions:
            module, function = ctypes.c_void_p(), ctypes.c_void_p()
            checked(cuda.cuModuleLoad(ctypes.byref(module), path.encode()), path)
            checked(cuda.cuModuleGetFunction(ctypes.byref(function), module, name.encode()), name)
            self.functions[path, name] = [function, 48 * 1024]
        known = self.functions[path, name]
        if shared > known[1]:
            checked(cuda.cuFuncSetAttribute(known[0], 8, shared), "shared memory")
            known[1] = shared
        return known[0]

    def value(self, kind, argument):
        if kind in NUMBERS:
            return NUMBERS[kind](argument)
        return argument if kind == "TensorMap" else ctypes.c_void_p(0 if argument is None else argument.data_ptr())

    def launch(self, path, name, grid, block, args, shared=0):
        types = signatures.types(os.path.splitext(os.path.basename(path))[0], name, args)
        values = [self.value(kind, argument) for kind, argument in zip(types, args)]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        grid = tuple(grid) + (1,) * (3 - len(grid))
        checked(cuda.cuLaunchKernel(self.function(path, name, shared), *grid, block, 1, 1, shared, stream, pointers, None), name)


def milliseconds(run, repeats=10):
    for _ in range(3):
        run()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / repeats
