"""GGUF files against those of llama.cpp's own converter.

It recognises a tokenizer by the ids of a text, so that the model has the real vocabulary of gpt-oss here, with random weights.
"""

import gzip
import json
import subprocess
import sys

from gguf import GGUFReader

from common import TINY

# What the converter makes up: another spelling of the name of the folder, and a word for its size.
ITS_OWN = {"general.name", "general.size_label"}
SPECIAL = {"bos_token": "<|startoftext|>", "eos_token": "<|return|>", "pad_token": "<|endoftext|>"}


def contents(file):
    reader = GGUFReader(file)
    fields = reader.fields.items()
    facts = {key: (field.types, field.contents()) for key, field in fields if not key.startswith("GGUF.")}
    found = {t.name: (t.tensor_type, t.shape.tolist(), t.data.tobytes()) for t in reader.tensors}
    return facts, found


def differing(ours, theirs):
    return sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))


def run(apus, report, args):
    tokenizer = apus.place("tokenizer")
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_bytes(gzip.decompress((TINY.parent / "harmony/tokenizer.json.gz").read_bytes()))
    said = {**SPECIAL, "tokenizer_class": "PreTrainedTokenizerFast"}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(said))
    (tokenizer / "chat_template.jinja").write_text("{{ messages }}")
    config = json.loads((TINY / "model_mxfp4/config.json").read_text())
    config.update(vocab_size=201088, eos_token_id=200002, pad_token_id=199999)
    arch = apus.place("arch.json")
    arch.write_text(json.dumps(config))
    for form, outtype, theirs in [("mxfp4", "mxfp4", "bf16"), ("bf16", "bf16", "bf16"), ("bf16", "f32", "f32")]:
        model = apus.place("random")
        apus.run("model", "new", "--arch", arch, "--format", form, "--tokenizer", tokenizer, "--output_dir", model)
        out = apus.place("converted.gguf")
        script = args.llama_cpp_source / "convert_hf_to_gguf.py"
        line = [sys.executable, script, model, "--outfile", out, "--outtype", theirs]
        done = subprocess.run(line, capture_output=True, text=True)
        if done.returncode != 0:
            report.check(f"converter, {outtype}", False, done.stderr[-500:])
            continue
        ours, theirs = contents(apus.gguf(outtype, "--model", model)), contents(out)
        facts = [key for key in differing(ours[0], theirs[0]) if key not in ITS_OWN]
        report.check(f"converter, {outtype}: facts", not facts, f"{len(ours[0])}, other: {facts}")
        tensors = differing(ours[1], theirs[1])
        report.check(f"converter, {outtype}: tensors", not tensors, f"{len(ours[1])} to the bit, other: {tensors}")
