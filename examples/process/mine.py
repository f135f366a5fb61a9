#!/usr/bin/env python3
"""One component of each kind that a process can be."""

import json
import random
import re

from apus_plugin import component, run


@component("dataset format", "ticket", facts={"columns": ["question", "replies"]}, include_bot=(False, "Whether replies of the bot count"))
def ticket(row, include_bot):
    """Tickets of a help desk: a question, and replies with their authors."""
    messages = [{"role": "user", "content": row["question"]}]
    for reply in row["replies"]:
        if reply["author"] == "bot" and not include_bot:
            continue
        role = "user" if reply["author"] == "customer" else "assistant"
        messages.append({"role": role, "content": reply["text"]})
    return [{"messages": messages}]


@component("loss scale", "code", weight=(2.0, "Weight of a block of code"))
def code(text, role, field, query, is_last, weight):
    """Weighs blocks of code."""
    parts = re.split(r"(```.*?```)", text, flags=re.S)
    return [[part, weight if part.startswith("```") else 1.0] for part in parts if part]


@component("schedule", "halving", every=(2, "Steps until it is halved"))
def halving(step, total, warmup, learning_rate, every):
    """Halves the learning rate every few steps."""
    return 0.5 ** (step // every)


@component("sampler", "short_first", epochs=(1, "Epochs that begin with short rows"))
def short_first(epoch, epochs):
    """From short rows to long ones in the first epochs, later in random order."""
    order = list(range(epoch["rows"]))
    random.Random(epoch["seed"] + epoch["number"]).shuffle(order)
    return sorted(order, key=epoch["tokens"].__getitem__) if epoch["number"] < epochs else order


@component("metric", "long_enough", words=(2, "Words of an answer that is long enough"))
class LongEnough:
    """The share of answers with enough words."""

    def __init__(self, words):
        self.words, self.found = words, []

    def update_answers(self, pairs):
        self.found += [len(pair["answer"].split()) >= self.words for pair in pairs]

    def compute(self):
        share = sum(self.found) / max(len(self.found), 1)
        self.found = []
        return {"long_enough": share}


@component("callback", "patience", steps=(3, "Steps to make"))
class Patience:
    """Stops after some steps, and counts them as a metric."""

    def __init__(self, steps):
        self.steps, self.seen = steps, 0

    def on_step_end(self, state, control):
        self.seen += 1
        return {"control": {"should_training_stop": self.seen >= self.steps, "metrics": {"seen": self.seen}}}

    def save_state(self):
        return self.seen

    def load_state(self, saved):
        self.seen = saved


@component("tracker", "lines", file=("lines.jsonl", "File in the folder of the run"))
class Lines:
    """Writes the numbers of each step as a line of JSON."""

    def __init__(self, file):
        self.file = file

    def start(self, run):
        self.out = open(f"{run['dir']}/{self.file}", "a")

    def log(self, step, values):
        print(json.dumps({"step": step, **values}), file=self.out)

    def finish(self, end):
        self.out.close()


run("mine")
