"""What a format and a loss scale in Python cost: `apus data` with them beside `apus data` with the built-in ones.

    python3 benches/process_plugin.py MODEL_DIR [--apus target/release/apus] [--rows 10000] [--short] [--runs 5]

The same conversations are written twice: as `messages` for the built-in format with the loss scale `ignore_empty_think`, and as
tickets for the format and the scale of examples/process/mine.py. Both are read, converted, weighed and tokenised, in turn.
A third way is the same with a scale that is told where a piece stands (the need `piece`): its whole text and its channel go along.
Prints the medians of wall time, and of the CPU time of Apus and the program together, both with everything from the start of
the process to its end. With --short a conversation has three rounds of a sentence each, else those of make_conversations.py.
MODEL_DIR needs a tokenizer, no weights.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time

import make_conversations

MINE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "examples", "process", "mine.py")


def short(i):
    for t in range(3):
        yield f"Question {t} about number {i * 7 % 991 + t}: what follows from it, and why?"
        yield f"From {i} follows {i + t}, since each step adds the same amount and nothing else changes. That is all there is to it."


PLACED = """
import sys

sys.path.insert(0, {folder!r})
import apus_plugin

run, apus_plugin.run = apus_plugin.run, lambda *_: None
import mine

@apus_plugin.component("loss scale", "placed", needs=["piece"])
def placed(text, role, field, query, is_last, **where):
    return mine.code(text, role, field, query, is_last, 2.0)

run("placed")
"""


def texts(rows, is_short):
    rng = random.Random(1)
    for i in range(rows):
        if is_short:
            yield list(short(i))
        else:
            conversation = make_conversations.conversation(rng)["messages"]
            yield [message["content"] for message in conversation if message["role"] != "system"]


def write(folder, rows, is_short):
    files = [os.path.join(folder, name) for name in ("messages.jsonl", "tickets.jsonl")]
    with open(files[0], "w", encoding="utf-8") as messages, open(files[1], "w", encoding="utf-8") as tickets:
        for turns in texts(rows, is_short):
            roles = ["user", "assistant"] * len(turns)
            row = {"messages": [{"role": role, "content": text} for role, text in zip(roles, turns)]}
            messages.write(json.dumps(row, ensure_ascii=False) + "\n")
            authors = ["anna", "customer"] * len(turns)
            replies = [{"author": author, "text": text} for author, text in zip(authors, turns[1:])]
            tickets.write(json.dumps({"question": turns[0], "replies": replies}, ensure_ascii=False) + "\n")
    return files


def run(words):
    began = time.monotonic()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    wall = time.monotonic() - began
    if status:
        sys.exit(f"{' '.join(words)}\n{said.decode()}")
    return wall, used.ru_utime + used.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--apus", default="target/release/apus")
    parser.add_argument("--rows", type=int, default=10000)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        messages, tickets = write(folder, arguments.rows, arguments.short)
        common = ["--model", arguments.model]
        ways = {
            "built in": [messages, *common, "--loss_scale", "ignore_empty_think"],
            "a process": [tickets, *common, "--plugin", f"cmd:{MINE}", "--dataset_format", "ticket", "--loss_scale", "default+code"],
        }
        program = os.path.join(folder, "placed.py")
        with open(program, "w", encoding="utf-8") as file:
            file.write(PLACED.format(folder=os.path.dirname(MINE)))
        plugin = f"cmd:{sys.executable} {program}"
        ways["with places"] = [tickets, *common, "--plugin", plugin, "--dataset_format", "ticket", "--loss_scale", "default+placed"]
        times = {way: [] for way in ways}
        for _ in range(arguments.runs):
            for way, words in ways.items():
                times[way].append(run([arguments.apus, "data", *words]))
    medians = {way: [statistics.median(column) for column in zip(*runs)] for way, runs in times.items()}
    for way, (wall, cpu) in medians.items():
        print(f"{way}: {wall:.2f} s, {cpu:.2f} s of CPU")
    for way in ("a process", "with places"):
        print(f"{way}: {medians[way][0] / medians['built in'][0]:.2f} times as long")


if __name__ == "__main__":
    main()
