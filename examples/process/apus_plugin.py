"""A program's side of Apus's lines of JSON (docs/process-plugins.md). Copy this file beside your own."""

import json
import os
import sys
import traceback

FUNCTION_IS = {"dataset format": "convert", "loss scale": "segments", "schedule": "factor"}
MORE_OF_TRACKERS = ("text", "line", "system", "saved")
known = {}

def component(kind, name, facts=None, **options):
    """Makes a class a component, or a function the main method of one; an option is its default and its doc."""
    def register(made_by):
        known[kind, name] = (made_by, facts or {}, options)
        return made_by
    return register

def make(kind, name, given):
    made_by, facts, options = known[kind, name]
    options = {**{key: default for key, (default, _) in options.items()}, **given}
    if isinstance(made_by, type):
        made = made_by(**options)
    else:
        made = type(name, (), {FUNCTION_IS[kind]: lambda self, **with_: made_by(**with_, **options)})()
    methods = [method for method in dir(made) if not method.startswith("_")]
    if kind == "callback":
        events = [method for method in methods if method.startswith("on_")]
        facts = {"events": events, "state": "save_state" in methods, **facts}
    if kind == "metric":
        facts = {"answers": "update_answers" in methods, **facts}
    if kind == "tracker":
        facts = {"takes": [method for method in methods if method in MORE_OF_TRACKERS], **facts}
    return made, facts

def run(name, version="0.1.0"):
    answers, sys.stdout = sys.stdout, sys.stderr  # print() must not come between the answers
    made = {}
    for line in sys.stdin:
        asked = json.loads(line)
        for number in asked.get("forget", []):
            made.pop(number, None)
        try:
            if asked["do"] == "announce":
                ok = {"name": name, "version": version, "components": [
                    {"kind": kind, "name": called, "doc": (by.__doc__ or "").strip(),
                     "options": [{"name": key, "default": value, "doc": doc} for key, (value, doc) in options.items()]}
                    for (kind, called), (by, _, options) in known.items()]}
            elif asked["do"] == "make":
                made[asked["component"]], ok = make(asked["kind"], asked["name"], asked["options"])
            else:
                ok = getattr(made[asked["component"]], asked["method"])(**asked["with"])
            answer = {"id": asked["id"], "ok": ok}
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{os.path.basename(at.filename)}:{at.lineno}"
            answer = {"id": asked["id"], "error": f"{type(error).__name__}: {error} ({where})"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
