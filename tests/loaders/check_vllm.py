"""The adapter alone by the rules of vLLM's loader (vllm/lora/utils.py and model_manager.py), which needs a card to run.

A name ends in lora_A.weight or lora_B.weight behind base_model.model.; what is between them is the module. A module with experts has two,
`experts` for down and `experts.base_layer` for gate and up, and both must be there. A is read as [experts, rank, inputs], B as [outputs, rank,
experts].
"""

import json

import numpy as np
import torch
from peft import PeftModel

from check_transformers import MOST, load, logits
from common import IDS, TINY, tensors

PREFIX, ENDS = "base_model.model.", (".lora_A.weight", ".lora_B.weight")


def modules(adapter):
    """Pairs by module, and names that vLLM would not read."""
    pairs, unknown = {}, []
    for name, value in tensors(adapter / "adapter_model.safetensors").items():
        end = next((end for end in ENDS if name.endswith(end)), None)
        if end is None or not name.startswith(PREFIX):
            unknown.append(name)
            continue
        pairs.setdefault(name[len(PREFIX) : -len(end)], {})[end] = value
    return {module: [pair.get(end) for end in ENDS] for module, pair in pairs.items()}, unknown


def update(pair, experts, scale):
    """What is added to the matrices of experts, [experts, outputs, inputs], as vLLM stacks a pair."""
    a, b = pair
    a = a.reshape(experts, -1, a.shape[-1])
    b = b.reshape(b.shape[0], -1, experts).transpose(2, 0, 1)
    return scale * np.einsum("eor,eri->eoi", b.astype(np.float64), a.astype(np.float64))


def only_down(apus):
    """The adapter of attention and experts without its pairs of gate and up, as PEFT writes one of down alone."""
    from safetensors.numpy import save_file

    golden, out = TINY / "adapter_grad_attn_experts", apus.place("only-down")
    out.mkdir()
    config = json.loads((golden / "adapter_config.json").read_text())
    config["target_parameters"] = [name for name in config["target_parameters"] if name.endswith("down_proj")]
    (out / "adapter_config.json").write_text(json.dumps(config))
    kept = {name: value for name, value in tensors(golden / "adapter_model.safetensors").items() if ".base_layer." not in name}
    save_file(kept, out / "adapter_model.safetensors", metadata={"format": "pt"})
    return out


def run(apus, report, _args):
    packed = apus.copy("model_mxfp4")
    config = json.loads((packed / "config.json").read_text())
    experts, hidden, inner = config["num_local_experts"], config["hidden_size"], config["intermediate_size"]
    heads = [config[key] * config["head_dim"] for key in ("num_attention_heads", "num_key_value_heads")]
    linears = {"q_proj": (hidden, heads[0]), "k_proj": (hidden, heads[1]), "v_proj": (hidden, heads[1]), "o_proj": (heads[0], hidden)}
    for name, adapter in [
        ("attention", TINY / "adapter_grad_attn"),
        ("attention, rsLoRA", TINY / "adapter_grad_attn_rslora"),
        ("attention and experts", TINY / "adapter_grad_attn_experts"),
        ("attention and down of experts", only_down(apus)),
    ]:
        made = apus.export("--model", packed, "--adapters", adapter, "--to_vllm", "true")
        said = json.loads((made / "adapter_config.json").read_text())
        rank, scale = said["r"], said["lora_alpha"] / (said["r"] ** 0.5 if said["use_rslora"] else said["r"])
        pairs, wrong = modules(made)
        for module, pair in pairs.items():
            last = module.rsplit(".", 1)[-1]
            sizes = linears.get(last) or {"experts": (inner, hidden), "base_layer": (hidden, 2 * inner)}.get(last)
            times = 1 if last in linears else experts
            good = sizes is not None and all(part is not None for part in pair)
            if not good or [pair[0].shape, pair[1].shape] != [(rank * times, sizes[0]), (sizes[1], rank * times)]:
                wrong.append(module)
            partner = {"experts": module + ".base_layer", "base_layer": module.removesuffix(".base_layer")}.get(last, module)
            wrong.extend([] if partner in pairs else [partner])
        report.check(f"vLLM, {name}: names and shapes", not wrong, f"wrong: {wrong}" if wrong else f"{len(pairs)} pairs")
        base, _ = load(packed)
        before = {key: value.clone() for key, value in base.state_dict().items() if ".experts." in key}
        adapted = PeftModel.from_pretrained(base, made).eval()
        report.near(f"vLLM, {name}: logits through PEFT", apus.logits(packed, IDS, "--adapters", adapter), logits(adapted), MOST)
        merged = adapted.merge_and_unload().state_dict()
        far = 0.0
        for module, pair in pairs.items():
            last = module.rsplit(".", 1)[-1]
            if last in linears:
                continue
            key = module.removesuffix(".base_layer") + (".gate_up_proj" if last == "base_layer" else ".down_proj")
            expected = (merged[key] - before[key]).to(torch.float64).numpy().transpose(0, 2, 1)
            far = max(far, np.abs(update(pair, experts, scale) - expected).max())
        if any(".experts" in module for module in pairs):
            report.check(f"vLLM, {name}: updates of experts as PEFT merges them", far < 1e-5, f"largest difference {far:.1e}")
