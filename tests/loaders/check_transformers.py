"""Directories loaded by transformers, adapters by PEFT."""

import json

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging

from common import ADAPTER, IDS, TEMPLATE, TINY

logging.set_verbosity_error()
logging.disable_progress_bar()

# Both compute in f32, in other orders of sums.
MOST = 1e-5
OPTIONS = {"attn_implementation": "eager", "experts_implementation": "eager", "dtype": torch.float32}


def load(model):
    """As a user does; without a card transformers unpacks what is packed. And whether a tensor was missing or left over."""
    loaded, info = AutoModelForCausalLM.from_pretrained(model, output_loading_info=True, **OPTIONS)
    wrong = [key for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in info[kind]]
    return loaded.float().eval(), wrong


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor([IDS]), use_cache=False).logits[0].numpy()


def run(apus, report, _args):
    packed, dense = apus.copy("model_mxfp4"), apus.copy("model_bf16")
    merging = ["--model", packed, "--adapters", ADAPTER, "--merge_lora", "true"]
    for name, words in [
        ("merged, touched layers in BF16", merging),
        ("merged, packed again", [*merging, "--quantize", "mxfp4"]),
        ("merged, all in BF16", [*merging, "--experts_dtype", "bf16"]),
        ("packed", ["--model", dense, "--quantize", "mxfp4"]),
        ("unpacked", ["--model", packed, "--experts_dtype", "bf16"]),
    ]:
        made = apus.export(*words)
        model, wrong = load(made)
        report.check(f"transformers, {name}: loads", not wrong, f"missing or left over: {wrong}" if wrong else "no tensor missing or left over")
        report.near(f"transformers, {name}: logits", apus.logits(made, IDS), logits(model), MOST)
        tokenizer = AutoTokenizer.from_pretrained(made)
        asked = [{"role": "user", "content": "Hello"}]
        text = tokenizer.apply_chat_template(asked, tokenize=False)
        good = text == "<|start|>user<|message|>Hello<|end|>" and tokenizer.chat_template == TEMPLATE
        generation = GenerationConfig.from_pretrained(made)
        said = json.loads((TINY / "model_mxfp4/generation_config.json").read_text())
        good = good and generation.eos_token_id == said["eos_token_id"]
        report.check(f"transformers, {name}: tokenizer, template, generation_config", good)
    base, _ = load(packed)
    adapted = PeftModel.from_pretrained(base, ADAPTER).eval()
    report.near("PEFT, the adapter on its base: logits", apus.logits(packed, IDS, "--adapters", ADAPTER), logits(adapted), MOST)
