"""A program's side of Apus's lines of JSON (docs/process-plugins.md). Copy this file beside your own."""

import json
import os
import sys
import traceback

FUNCTION_IS = {"dataset format": "convert", "loss scale": "segments", "schedule": "factor", "sampler": "order"}
MORE_OF_TRACKERS = ("text", "line", "system", "saved")
announced, known, made = [], {}, {}

def component(kind, name, facts=None, needs=(), **options):
    """Makes a class a component, or a function the main method of one; an option is its default and its doc."""
    def register(made_by):
        listed = [{"name": key, "default": value, "doc": doc} for key, (value, doc) in options.items()]
        doc = (made_by.__doc__ or "").strip()
        announced.append({"kind": kind, "name": name, "doc": doc, "needs": list(needs), "options": listed})
        known[kind, name] = (made_by, facts or {}, {key: default for key, (default, _) in options.items()})
        return made_by
    return register

def make(kind, name, given):
    made_by, facts, options = known[kind, name]
    options = {**options, **given}
    if not isinstance(made_by, type):
        return type(name, (), {FUNCTION_IS[kind]: staticmethod(lambda **with_: made_by(**with_, **options))}), facts
    methods = [name for name in dir(made_by) if not name.startswith("_")]
    more = {"callback": {"events": [name for name in methods if name[:3] == "on_"], "state": "save_state" in methods},
            "metric": {"answers": "update_answers" in methods},
            "sampler": {"length": "epoch_length" in methods, "state": "save_state" in methods},
            "tracker": {"takes": [name for name in methods if name in MORE_OF_TRACKERS]}}
    return made_by(**options), {"has": methods, **more.get(kind, {}), **facts}

def attempt(act, *args, **with_):
    try:
        return {"ok": act(*args, **with_)}
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        return {"error": f"{type(error).__name__}: {error} ({os.path.basename(at.filename)}:{at.lineno})"}

def answer(asked):
    if asked["do"] == "make":
        made[asked["component"]], facts = make(asked["kind"], asked["name"], asked["options"])
        return facts
    method = getattr(made[asked["component"]], asked["method"])
    return [attempt(method, **with_) for with_ in asked["batch"]] if "batch" in asked else method(**asked["with"])

def run(name, version="0.1.0"):
    answers, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
    os.dup2(2, 1)  # what is printed, also by programs that are started, must not come between the answers
    description = {"name": name, "version": version, "batches": True, "components": announced}
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        for number in asked.get("forget", []):
            made.pop(number, None)
        said = {"ok": description} if asked["do"] == "announce" else attempt(answer, asked)
        answers.write(json.dumps({"id": asked["id"], **said}) + "\n")
        answers.flush()
