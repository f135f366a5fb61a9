"""Compares logits of Apus with transformers, and of an adapter through PEFT.

For machines with torch, transformers 5 and (for --adapter) peft:

    apus model new --arch gpt-oss-20b --out M
    apus infer --model M --device cuda --input_ids 1,2,3,... --dump_logits base.safetensors
    python tests/compare_with_transformers.py M base.safetensors
    apus infer --model M --adapters CKPT --device cuda --input_ids 1,2,3,... --dump_logits tuned.safetensors
    python tests/compare_with_transformers.py M tuned.safetensors --adapter CKPT

Both sides compute in bf16, so single logits differ by roundings, and by whole expert outputs where two router logits
are nearly equal; the tolerance is on the root mean square over all logits. Exits with 1 beyond it.
"""

import argparse
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, Mxfp4Config


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint directory")
    parser.add_argument("logits", help="file written by apus infer --dump_logits")
    parser.add_argument("--adapter", help="adapter folder written by apus sft")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--tolerance", type=float, default=0.05, help="RMS of the difference over RMS of the logits")
    args = parser.parse_args()

    found = load_file(args.logits)
    ids = found["input_ids"].long()[None].to(args.device)
    options = dict(dtype=getattr(torch, args.dtype), attn_implementation="eager", device_map=args.device)
    if getattr(AutoConfig.from_pretrained(args.model), "quantization_config", None):
        options["quantization_config"] = Mxfp4Config(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(args.model, **options)
    if args.dtype == "float32":
        model = model.float()
    if args.adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, args.adapter)
    model.eval()
    with torch.no_grad():
        expected = model(input_ids=ids).logits[0].float().cpu()
    apus = found["logits"].float()
    difference = apus - expected
    rms = expected.square().mean().sqrt().item()
    relative = difference.square().mean().sqrt().item() / rms
    same = (apus.argmax(-1) == expected.argmax(-1)).float().mean().item()
    cosine = torch.nn.functional.cosine_similarity(apus, expected, dim=-1).min().item()
    print(
        f"{ids.shape[1]} tokens: RMS of the logits {rms:.4f}, RMS of the difference over it {relative:.5f}, "
        f"greatest difference {difference.abs().max().item():.4f}, least cosine {cosine:.6f}, same first choice {same:.3f}"
    )
    return 0 if relative <= args.tolerance else 1


if __name__ == "__main__":
    sys.exit(main())
