"""Directories have what the original has."""

import json

from common import ADAPTER, header

# Of config.json what says how weights are stored; the rest describes the model.
OF_STORAGE = {"quantization_config", "torch_dtype", "dtype"}


def inventory(model):
    """Names, types and shapes of all tensors of a directory."""
    found = {}
    for path in sorted(model.glob("*.safetensors")):
        names, _ = header(path)
        found.update({name: (entry["dtype"], entry["shape"]) for name, entry in names.items()})
    return found


def read(model, file):
    return json.loads((model / file).read_text())


def run(apus, report, _args):
    packed, dense = apus.copy("model_mxfp4"), apus.copy("model_bf16")
    merging = ["--adapters", ADAPTER, "--merge_lora", "true", "--max_shard_size", "200KB"]
    for name, original, words in [
        ("merged, touched layers in BF16", packed, [*merging]),
        ("merged, packed again", packed, [*merging, "--quantize", "mxfp4"]),
        ("merged, all in BF16", dense, [*merging]),
        ("packed", packed, ["--quantize", "mxfp4"]),
        ("unpacked", dense, ["--experts_dtype", "bf16"]),
    ]:
        base = dense if name == "packed" else packed if name == "unpacked" else original
        made = apus.export("--model", base, *words)
        files = {path.name for path in made.iterdir()}
        others = {path.name for path in original.iterdir() if not path.name.startswith("model")}
        index = len(list(made.glob("*.safetensors"))) < 2 or "model.safetensors.index.json" in files
        missing, more = others - files, {file for file in files - others if not file.startswith("model")}
        report.check(f"{name}: files", not missing and not more and index, f"missing {sorted(missing)}, more {sorted(more)}")
        same = [file for file in others - {"config.json"} if (made / file).read_bytes() == (base / file).read_bytes()]
        report.check(f"{name}: tokenizer, template, generation_config", len(same) == len(others) - 1, f"{len(same)} of {len(others) - 1} files byte for byte")
        ours, theirs = read(made, "config.json"), read(base, "config.json")
        differs = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)} - OF_STORAGE
        report.check(f"{name}: config.json", not differs, f"other values in {sorted(differs)}" if differs else "keys and values of the original")
        if "touched" in name:
            continue
        quantization = [read(model, "config.json").get("quantization_config") for model in (made, original)]
        report.check(f"{name}: quantization_config", quantization[0] == quantization[1], "as in the original")
        there, expected = inventory(made), inventory(original)
        report.check(f"{name}: tensors", there == expected, f"{len(there)} with names, types and shapes of the original")
        if "model.safetensors.index.json" in files:
            weights = read(made, "model.safetensors.index.json")["weight_map"]
            report.check(f"{name}: index", weights.keys() == there.keys() and set(weights.values()) <= files)
