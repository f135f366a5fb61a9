"""The Python way to prepare conversations: transformers' apply_chat_template and tokenizers, 2 processes.

    python3 benches/python_baseline.py conversations.jsonl MODEL_DIR [--processes 2] [--date 2025-08-05]

Prints rows a second (reading, rendering and tokenising; not starting Python or loading the tokenizer) and a
SHA-256 over the token ids of all rows. To compare with Apus on the same machine and data:

    apus data conversations.jsonl --model MODEL_DIR --dataset_shuffle false --current_date 2025-08-05 \
        --samples 0 --out prepared.jsonl
    python3 benches/python_baseline.py --ids prepared.jsonl

The second command prints the SHA-256 of the ids that Apus wrote: both must be the same. Needs transformers,
tokenizers and jinja2, but for --ids, which needs nothing.
"""

import argparse
import hashlib
import json
import multiprocessing
import time

tokenizer = None


def start(model, date):
    """Loads the tokenizer of a process; the template's date is fixed, as --current_date fixes Apus'."""
    global tokenizer
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    template = tokenizer.chat_template
    if "strftime_now" in template:
        head = "{%- macro strftime_now(format) -%}" + date + "{%- endmacro -%}\n"
        tokenizer.chat_template = head + template
    tokenizer.apply_chat_template([{"role": "user", "content": "warm"}])


def encode(line):
    text = tokenizer.apply_chat_template(json.loads(line)["messages"], tokenize=False)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def digest(rows):
    """SHA-256 over each row's ids, written as decimal numbers with spaces, and a line feed."""
    found = hashlib.sha256()
    for ids in rows:
        found.update((" ".join(map(str, ids)) + "\n").encode())
    return found.hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?")
    parser.add_argument("model", nargs="?")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--date", default="2025-08-05")
    parser.add_argument("--ids", metavar="FILE", help="only the SHA-256 of the ids in what apus data --out wrote")
    arguments = parser.parse_args()
    if arguments.ids:
        with open(arguments.ids, encoding="utf-8") as lines:
            print("sha256 of ids:", digest(json.loads(line)["input_ids"] for line in lines))
        return
    if not (arguments.file and arguments.model):
        parser.error("a file of conversations and a model directory are needed")
    with multiprocessing.Pool(arguments.processes, start, (arguments.model, arguments.date)) as pool:
        pool.map(abs, range(arguments.processes))
        began = time.perf_counter()
        with open(arguments.file, encoding="utf-8") as lines:
            rows = pool.map(encode, list(lines), chunksize=64)
        seconds = time.perf_counter() - began
    print(f"{len(rows)} rows in {seconds:.2f} s, {len(rows) / seconds:.0f} rows/s")
    print("sha256 of ids:", digest(rows))


if __name__ == "__main__":
    main()
