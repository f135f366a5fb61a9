#!/usr/bin/env python3
"""Compares the logits of Apus with those of transformers, and of PEFT for an adapter.

Needs torch and transformers (5.x), and peft for --adapter. For example:

    apus model new --arch gpt-oss-20b --format mxfp4 --seed 1 --out random-20b
    apus infer --model random-20b --input_ids 1,22,333,4444,55555 --dump_logits logits.safetensors
    python3 tests/compare_with_transformers.py random-20b logits.safetensors

With an adapter that Apus trained, its logits come from `apus infer --model random-20b --adapters CKPT ...`
and go with `--adapter CKPT` here. With --apus the script runs Apus by itself.

The experts are dequantised and run expert by expert ("eager"), so no kernels are downloaded. Weights are
cast to --dtype after loading. In bfloat16 two right implementations differ: roundings add up, and where two
experts score alike a token may take another one. What is judged is the root mean square of the difference
relative to that of the logits, and how often the most probable token is the same.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile

TOLERANCE = {"float32": (1e-4, 1.0), "bfloat16": (0.1, 0.8)}


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="model directory")
    parser.add_argument("logits", nargs="?", help="what --dump_logits wrote")
    parser.add_argument("--adapter", help="adapter directory, loaded through PEFT")
    parser.add_argument("--apus", help="the binary, to write the logits with")
    parser.add_argument("--input_ids", default="1,22,333,444,55,666,7,88,99,111,222,5")
    parser.add_argument("--dtype", default="bfloat16", choices=sorted(TOLERANCE))
    parser.add_argument("--device", default=None, help="cuda or cpu")
    parser.add_argument("--tolerance", type=float, help="largest relative root mean square")
    args = parser.parse_args()
    if not args.logits and not args.apus:
        parser.error("give the logits, or --apus to make them")
    return args


def run_apus(args, path):
    command = [args.apus, "infer", "--model", args.model]
    command += ["--input_ids", args.input_ids, "--dump_logits", path]
    if args.adapter:
        command += ["--adapters", args.adapter]
    subprocess.run(command, check=True)


def reference(args, ids):
    """Logits [T, V] of transformers, in float32."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    options = {"attn_implementation": "eager", "experts_implementation": "eager"}
    config = AutoConfig.from_pretrained(args.model)
    if getattr(config, "quantization_config", None):
        from transformers import Mxfp4Config

        skipped = config.quantization_config.get("modules_to_not_convert")
        options["quantization_config"] = Mxfp4Config(
            dequantize=True, modules_to_not_convert=skipped
        )
    if importlib.util.find_spec("accelerate"):
        options["device_map"] = device
    dtype = getattr(torch, args.dtype)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype, **options)
    model = model.to(device=device, dtype=dtype).eval()
    if args.adapter:
        try:
            from peft import PeftModel
        except ImportError:
            sys.exit("--adapter needs peft, which is not installed: pip install 'peft>=0.18'")
        model = PeftModel.from_pretrained(model, args.adapter).eval()
    with torch.no_grad():
        batch = torch.tensor([ids], device=device)
        return model(input_ids=batch, use_cache=False).logits[0].float().cpu()


def main():
    args = arguments()
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as folder:
        path = args.logits or os.path.join(folder, "logits.safetensors")
        if not args.logits:
            run_apus(args, path)
        written = load_file(path)
    ours, ids = written["logits"].float(), written["input_ids"].tolist()
    theirs = reference(args, ids)[:, : ours.shape[1]]
    if ours.shape != theirs.shape:
        sys.exit(f"shapes differ: {tuple(ours.shape)} and {tuple(theirs.shape)}")
    gap = ours - theirs
    scale = theirs.pow(2).mean().sqrt().item()
    relative = gap.pow(2).mean().sqrt().item() / scale
    same = (ours.argmax(-1) == theirs.argmax(-1)).float().mean().item()
    print(f"tokens {len(ids)}, logits rms {scale:.4f}, in {args.dtype}")
    print(f"difference: rms {relative:.2e} relative, largest {gap.abs().max().item():.2e}")
    print(f"same most probable token: {same:.1%}")
    most, least = TOLERANCE[args.dtype]
    most = most if args.tolerance is None else args.tolerance
    good = relative <= most and same >= least
    print("agree" if good else f"DIFFER: at most {most:g} and at least {least:.0%} expected")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
