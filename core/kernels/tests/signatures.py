"""What each kernel takes, from kernels.json, which the Rust side writes from its table."""
import json, numbers, os

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "kernels.json")) as file:
    TABLE = json.load(file)
MODULES, KERNELS = TABLE["modules"], TABLE["kernels"]

# torch has no arithmetic on u32.
POINTERS = {"bf16*": "torch.bfloat16", "float*": "torch.float32", "double*": "torch.float64", "uint8_t*": "torch.uint8", "u32*": "torch.int32"}
INTEGERS = {"int": range(-2**31, 2**31), "i64": range(-2**63, 2**63), "u32": range(2**32), "u64": range(2**64)}


def fits(kind, argument):
    if kind in POINTERS:
        return str(getattr(argument, "dtype", "")) == POINTERS[kind]
    if kind in INTEGERS:
        return isinstance(argument, numbers.Integral) and int(argument) in INTEGERS[kind]
    return isinstance(argument, numbers.Real) if kind == "float" else type(argument).__name__ == kind


def types(module, kernel, arguments):
    """The types of a kernel's parameters; refuses arguments that it does not take."""
    if kernel not in KERNELS or module not in KERNELS[kernel]["modules"]:
        raise TypeError(f"kernels.json has no kernel {kernel} in module {module}")
    parameters = KERNELS[kernel]["parameters"]
    if len(arguments) != len(parameters):
        raise TypeError(f"{kernel} takes {len(parameters)} arguments, found {len(arguments)}: {', '.join(parameters)}")
    found = []
    for at, (parameter, argument) in enumerate(zip(parameters, arguments)):
        declared, _, null = parameter.partition(" or ")
        kind = declared.removeprefix("const ").split(" ")[0]
        if not (argument is None and null) and not fits(kind, argument):
            raise TypeError(f"{kernel}: argument {at} is {parameter}, found {getattr(argument, 'dtype', argument)!r}")
        found.append(kind)
    return found
