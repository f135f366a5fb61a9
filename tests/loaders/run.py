#!/usr/bin/env python3
"""Whether other programs load what `apus export` writes, and compute the same.

    pip install numpy safetensors torch transformers peft llama-cpp-python gguf
    python3 tests/loaders/run.py path/to/apus [--only files,llama_cpp] [--llama_cpp_source DIR]

Models are tests/goldens/tiny and what is exported of it, logits those of `apus infer --device cpu --dump_logits`, in f32. Each group of
checks needs some of the packages above; what is missing is said, with the checks that were left out for it:

  files         directories have the files, keys and tensors of the original: nothing but numpy
  transformers  directories loaded by AutoModelForCausalLM, and adapters by PEFT: logits
  vllm          the adapter alone by the rules of vLLM's loader, against PEFT: names, shapes, updates of every expert
  llama_cpp     GGUF files loaded by llama.cpp: greedy tokens, logits, tokens of texts
  converter     GGUF files against those of llama.cpp's own converter, which is in its source (--llama_cpp_source, as in the source
                distribution of llama-cpp-python): every tensor to the bit, every fact

The exit status is 1 where a check failed, 2 where nothing could be checked.
"""

import argparse
import importlib
import importlib.util
import sys
import tempfile
from pathlib import Path

GROUPS = {
    "files": ("check_files", ["numpy"]),
    "transformers": ("check_transformers", ["numpy", "safetensors", "torch", "transformers", "peft"]),
    "vllm": ("check_vllm", ["numpy", "safetensors", "torch", "transformers", "peft"]),
    "llama_cpp": ("check_llama_cpp", ["numpy", "llama_cpp"]),
    "converter": ("check_converter", ["numpy", "torch", "transformers", "gguf"]),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("apus", help="the binary")
    parser.add_argument("--only", default=",".join(GROUPS), help="groups of checks, with commas between them")
    parser.add_argument("--llama_cpp_source", type=Path, help="folder of llama.cpp's source, for `converter`")
    args = parser.parse_args()
    chosen = args.only.split(",")
    for unknown in [name for name in chosen if name not in GROUPS]:
        parser.error(f"--only {unknown}: expected some of {', '.join(GROUPS)}")
    if importlib.util.find_spec("numpy") is None:
        print("skipped all: no numpy")
        sys.exit(2)
    from common import Apus, Report

    report = Report()
    for group in chosen:
        module, packages = GROUPS[group]
        missing = [package for package in packages if importlib.util.find_spec(package) is None]
        if group == "converter" and args.llama_cpp_source is None:
            missing.append("--llama_cpp_source")
        if missing:
            report.skip(group, f"no {', '.join(missing)}")
            continue
        with tempfile.TemporaryDirectory() as folder:
            importlib.import_module(module).run(Apus(args.apus, Path(folder)), report, args)
    sys.exit(report.end())


if __name__ == "__main__":
    main()
