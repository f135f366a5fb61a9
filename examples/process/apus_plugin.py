"""A program's side of Apus's lines of JSON (docs/process-plugins.md). Copy this file beside your own."""

import json
import os
import sys
import traceback

FUNCTION_IS = {"dataset format": "convert", "loss scale": "segments", "schedule": "factor"}
MORE_OF_TRACKERS = ("text", "line", "system", "saved")
known, made = {}, {}

def component(kind, name, facts=None, **options):
    """Makes a class a component, or a function the main method of one; an option is its default and its doc."""
    def register(made_by):
        known[kind, name] = (made_by, facts or {}, options)
        return made_by
    return register

def describe(kind, name, made_by, options):
    options = [{"name": key, "default": value, "doc": doc} for key, (value, doc) in options.items()]
    return {"kind": kind, "name": name, "doc": (made_by.__doc__ or "").strip(), "options": options}

def make(kind, name, given):
    made_by, facts, options = known[kind, name]
    options = {**{key: default for key, (default, _) in options.items()}, **given}
    if not isinstance(made_by, type):
        return type(name, (), {FUNCTION_IS[kind]: staticmethod(lambda **with_: made_by(**with_, **options))}), facts
    methods = [name for name in dir(made_by) if not name.startswith("_")]
    more = {"callback": {"events": [name for name in methods if name[:3] == "on_"], "state": "save_state" in methods},
            "metric": {"answers": "update_answers" in methods},
            "tracker": {"takes": [name for name in methods if name in MORE_OF_TRACKERS]}}
    return made_by(**options), {**more.get(kind, {}), **facts}

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
    components = [describe(*key, made_by, options) for key, (made_by, _, options) in known.items()]
    announced = {"name": name, "version": version, "batches": True, "components": components}
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        for number in asked.get("forget", []):
            made.pop(number, None)
        said = {"ok": announced} if asked["do"] == "announce" else attempt(answer, asked)
        answers.write(json.dumps({"id": asked["id"], **said}) + "\n")
        answers.flush()
