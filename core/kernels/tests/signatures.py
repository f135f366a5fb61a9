"""What each kernel takes, from kernels.json, which the Rust side writes from its table."""
import json, os

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "kernels.json")) as file:
    TABLE = json.load(file)
MODULES, KERNELS = TABLE["modules"], TABLE["kernels"]

# Types of Python, NumPy, torch and ctypes by which a parameter of a type is passed. torch has no arithmetic on u32.
PASSED = {
    "bf16*": {"torch.bfloat16"}, "float*": {"torch.float32"}, "double*": {"torch.float64"}, "uint8_t*": {"torch.uint8"},
    "u32*": {"torch.int32", "torch.uint32"},
    "int": {"int", "int32", "c_int"}, "i64": {"int64", "c_long", "c_longlong"}, "u32": {"uint32"}, "u64": {"uint64"},
    "float": {"float", "float32"}, "TensorMap": {"TensorMap"},
}


def kind(argument):
    dtype = str(getattr(argument, "dtype", ""))
    return dtype if dtype.startswith("torch.") else type(argument).__name__


def check(module, kernel, arguments):
    """Refuses arguments that the kernel does not take."""
    if kernel not in KERNELS or module not in KERNELS[kernel]["modules"]:
        raise TypeError(f"kernels.json has no kernel {kernel} in module {module}")
    parameters = KERNELS[kernel]["parameters"]
    if len(arguments) != len(parameters):
        raise TypeError(f"{kernel} takes {len(parameters)} arguments, found {len(arguments)}: {', '.join(parameters)}")
    for at, (parameter, argument) in enumerate(zip(parameters, arguments)):
        declared, _, null = parameter.partition(" or ")
        type_name = declared.removeprefix("const ").split(" ")[0]
        if argument is None and null:
            continue
        if kind(argument) not in PASSED[type_name]:
            raise TypeError(f"{kernel}: argument {at} is {parameter}, found {kind(argument)}")
