"""The Python way to prepare conversations: transformers' apply_chat_template and tokenizers, 2 processes.

    python3 benches/python_baseline.py conversations.jsonl MODEL_DIR [--apus target/release/apus] [--runs 3]

A row is read, rendered by the model's chat template, tokenised, and labelled: the assistant's turns from behind
`<|start|>assistant` to the token that ends them, everything else -100. Prints rows a second, the median of all
runs, and a SHA-256 over the token ids and one over which tokens are trained. Starting Python, loading the
tokenizer and compiling the template are not counted: the clock starts when all processes are ready.

With --apus the same is asked of `apus data` (loss scale default), whose own clock likewise leaves out the start;
the hashes must be the same, or the script fails. MODEL_DIR needs tokenizer.json, tokenizer_config.json and
chat_template.jinja, no weights; nothing is downloaded. Needs transformers, tokenizers and jinja2.

    python3 benches/python_baseline.py --rows prepared.jsonl

prints the hashes of what `apus data --out prepared.jsonl` wrote, and needs nothing but Python.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

IGNORED = -100
tokenizer = start = assistant = None


def ready(model, date, barrier):
    """Loads the tokenizer of a process; the template's date is fixed, as --current_date fixes Apus'."""
    global tokenizer, start, assistant
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    template = tokenizer.chat_template
    if "strftime_now" in template:
        head = "{%- macro strftime_now(format) -%}" + date + "{%- endmacro -%}\n"
        tokenizer.chat_template = head + template
    start, assistant = tokenizer.convert_tokens_to_ids(["<|start|>", "assistant"])
    encode('{"messages": [{"role": "user", "content": "warm"}, {"role": "assistant", "content": "warm"}]}')
    barrier.wait()


def encode(line):
    text = tokenizer.apply_chat_template(json.loads(line)["messages"], tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    labels = [IGNORED] * len(ids)
    at = 0
    while at < len(ids):
        try:
            end = ids.index(start, at + 1)
        except ValueError:
            end = len(ids)
        if ids[at + 1] == assistant:
            labels[at + 2 : end] = ids[at + 2 : end]
        at = end
    return ids, labels


def digests(rows):
    """SHA-256 of each row's ids, as decimal numbers with spaces between and a line feed behind; and of 1 for
    each token that has a label and 0 for others, with a line feed behind each row."""
    ids_found, trained_found = hashlib.sha256(), hashlib.sha256()
    for ids, labels in rows:
        ids_found.update((" ".join(map(str, ids)) + "\n").encode())
        trained_found.update(("".join("01"[label != IGNORED] for label in labels) + "\n").encode())
    return ids_found.hexdigest(), trained_found.hexdigest()


def read(path):
    with open(path, encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            yield row["input_ids"], row["labels"]


def python(arguments):
    """Rows a second of each run, and the hashes."""
    barrier = multiprocessing.Barrier(arguments.processes + 1)
    speeds = []
    with multiprocessing.Pool(arguments.processes, ready, (arguments.model, arguments.date, barrier)) as pool:
        barrier.wait()
        for _ in range(arguments.runs):
            began = time.perf_counter()
            with open(arguments.file, encoding="utf-8") as lines:
                rows = pool.map(encode, list(lines), chunksize=64)
            speeds.append(len(rows) / (time.perf_counter() - began))
    return speeds, digests(rows)


def apus(arguments):
    """The same of apus."""
    command = [arguments.apus, "data", arguments.file, "--tokenizer", arguments.model, "--samples", "0"]
    command += ["--dataset_shuffle", "false", "--current_date", arguments.date]
    speeds = []
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "prepared.jsonl")
        for run in range(arguments.runs):
            extra = ["--out", out] if run == 0 else []
            said = subprocess.run(command + extra, check=True, capture_output=True, text=True).stderr
            speeds.append(float(re.search(r"prepared in .*, (\d+) rows/s", said).group(1)))
        return speeds, digests(read(out))


def show(name, speeds, hashes):
    runs = ", ".join(f"{speed:.0f}" for speed in speeds)
    print(f"{name}: {statistics.median(speeds):.0f} rows/s (runs: {runs})")
    print(f"  sha256 of ids:     {hashes[0]}\n  sha256 of trained: {hashes[1]}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", help="conversations, as make_conversations.py writes them")
    parser.add_argument("model", nargs="?", help="folder with tokenizer and chat template")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--date", default="2025-08-05")
    parser.add_argument("--apus", metavar="BINARY", help="run this as well and compare")
    parser.add_argument("--rows", "--ids", metavar="FILE", help="only the hashes of what apus data --out wrote")
    arguments = parser.parse_args()
    if arguments.rows:
        print("sha256 of ids:     %s\nsha256 of trained: %s" % digests(read(arguments.rows)))
        return
    if not (arguments.file and arguments.model):
        parser.error("a file of conversations and a model directory are needed")
    os.environ["HF_HUB_OFFLINE"] = "1"
    speeds, hashes = python(arguments)
    show("python", speeds, hashes)
    if arguments.apus:
        own_speeds, own_hashes = apus(arguments)
        show("apus", own_speeds, own_hashes)
        print(f"apus is {statistics.median(own_speeds) / statistics.median(speeds):.1f} times as fast")
        if hashes != own_hashes:
            sys.exit("the hashes differ")


if __name__ == "__main__":
    main()
