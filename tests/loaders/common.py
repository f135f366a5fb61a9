"""What all checks need: the binary, tensors of files, and a table of results."""

import json
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np

TINY = Path(__file__).resolve().parent.parent / "goldens/tiny"
ADAPTER = TINY / "adapter_grad_attn_experts"
# Longer than the sliding window of the tiny model, with tokens from all over its vocabulary.
IDS = [int(i) for i in np.random.default_rng(7).integers(0, 740, 40)]
TEMPLATE = "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor %}"


class Apus:
    """The binary, and a folder for what it writes."""

    def __init__(self, binary, folder):
        self.binary, self.folder = binary, folder
        self.made = 0

    def place(self, name):
        """A path that nothing is at."""
        self.made += 1
        return self.folder / f"{self.made}-{name}"

    def run(self, *words):
        done = subprocess.run([self.binary, *map(str, words)], capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"apus {' '.join(map(str, words))}\n{done.stderr}")

    def export(self, *words):
        out = self.place("export")
        self.run("export", *words, "--output_dir", out)
        return out

    def gguf(self, outtype, *words):
        """The one file of an export."""
        (file,) = self.export("--to_gguf", "true", "--outtype", outtype, *words).iterdir()
        return file

    def logits(self, model, ids, *words):
        """Logits [T, V] in f32."""
        path = self.place("logits.safetensors")
        ids = ",".join(map(str, ids))
        self.run("infer", "--model", model, "--device", "cpu", "--input_ids", ids, "--dump_logits", path, *words)
        return tensors(path)["logits"]

    def copy(self, model, **changes):
        """A copy of a tiny model with a template of its own, whose config.json has other values."""
        to = self.place(model)
        shutil.copytree(TINY / model, to)
        (to / "chat_template.jinja").write_text(TEMPLATE)
        config = json.loads((to / "config.json").read_text())
        rope = config.get("rope_parameters") or config["rope_scaling"]
        for key, value in changes.items():
            (rope if key in rope else config)[key] = value
        (to / "config.json").write_text(json.dumps(config))
        return to


class Report:
    """Prints a row for each check, and counts."""

    def __init__(self):
        self.good, self.bad, self.skipped = 0, 0, []

    def check(self, name, good, said=""):
        self.good, self.bad = self.good + bool(good), self.bad + (not good)
        print(f"{'ok' if good else 'FAILED':7} {name}{': ' if said else ''}{said}", flush=True)

    def near(self, name, ours, theirs, most, said=""):
        """The difference of logits, as its root mean square relative to that of the logits."""
        ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        if ours.shape != theirs.shape:
            return self.check(name, False, f"shapes {ours.shape} and {theirs.shape}")
        far = np.sqrt(((ours - theirs) ** 2).mean() / (theirs**2).mean())
        same = (ours.argmax(-1) == theirs.argmax(-1)).mean()
        self.check(name, far <= most, f"rms {far:.1e} (at most {most:g}), same most probable token {same:.0%}{said}")

    def skip(self, name, why):
        self.skipped.append(name)
        print(f"skipped {name}: {why}", flush=True)

    def end(self):
        print(f"{self.good} passed, {self.bad} failed, {len(self.skipped)} skipped")
        return 1 if self.bad else 0 if self.good else 2


def header(path):
    """Names, types and shapes of a file of safetensors, and where its tensors begin."""
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        names = json.loads(file.read(size))
    names.pop("__metadata__", None)
    return names, 8 + size


def tensors(path):
    """The tensors of a file, BF16 widened to f32."""
    names, begin = header(path)
    raw = Path(path).read_bytes()
    found = {}
    for name, entry in names.items():
        start, end = entry["data_offsets"]
        part = raw[begin + start : begin + end]
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(part, "<u2").astype("<u4") << 16).view("<f4")
        else:
            values = np.frombuffer(part, {"F32": "<f4", "U8": "u1", "I64": "<i8", "I32": "<i4", "U32": "<u4"}[entry["dtype"]])
        found[name] = values.reshape(entry["shape"])
    return found
