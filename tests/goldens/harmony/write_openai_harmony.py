"""Conversations of openai-harmony 0.0.8: tool schemas and turns beyond those of openai_harmony.jsonl.

    pip install openai-harmony==0.0.8
    python write_openai_harmony.py > openai_harmony_more.jsonl

The library's vocabulary is made from tokenizer.json.gz, so that nothing has to be downloaded.
"""

import base64
import gzip
import json
import os
import random
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


def vocabulary(folder):
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    letters.update({chr(0x100 + i): byte for i, byte in enumerate(others)})
    with gzip.open(HERE / "tokenizer.json.gz") as file:
        words = json.load(file)["model"]["vocab"]
    ranks = sorted((rank, word) for word, rank in words.items() if rank < 199998)
    with open(folder / "o200k_base.tiktoken", "wb") as file:
        for rank, word in ranks:
            file.write(base64.b64encode(bytes(letters[c] for c in word)) + b" %d\n" % rank)


folder = Path(tempfile.mkdtemp())
vocabulary(folder)
os.environ["TIKTOKEN_ENCODINGS_BASE"] = str(folder)

import openai_harmony as oh  # noqa: E402

ENCODING = oh.load_harmony_encoding("HarmonyGptOss")
DATE = "2025-08-05"


def harmony(messages, tools):
    out = [oh.Message.from_role_and_content(
        oh.Role.SYSTEM, oh.SystemContent.new().with_conversation_start_date(DATE))]
    developer = oh.DeveloperContent.new()
    instructions = messages and messages[0]["role"] in ("system", "developer")
    if instructions and messages[0]["content"]:
        developer = developer.with_instructions(messages[0]["content"])
    if tools:
        functions = [tool["function"] for tool in tools]
        developer = developer.with_function_tools([
            oh.ToolDescription.new(f["name"], f.get("description") or "", f.get("parameters"))
            for f in functions])
    if developer.instructions is not None or developer.tools:
        out.append(oh.Message.from_role_and_content(oh.Role.DEVELOPER, developer))
    name = None
    for message in messages[1:] if instructions else messages:
        role, content = message["role"], message.get("content")
        if role == "user":
            out.append(oh.Message.from_role_and_content(oh.Role.USER, content))
        elif role == "tool":
            text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
            author = oh.Author.new(oh.Role.TOOL, f"functions.{name}")
            out.append(oh.Message.from_author_and_content(author, text)
                       .with_channel("commentary").with_recipient("assistant"))
        else:
            def say(text, channel):
                return oh.Message.from_role_and_content(oh.Role.ASSISTANT, text).with_channel(channel)
            if message.get("thinking"):
                out.append(say(message["thinking"], "analysis"))
            calls = message.get("tool_calls") or []
            if calls and content:
                out.append(say(content, "commentary"))
            for call in calls:
                name = call["function"]["name"]
                text = json.dumps(call["function"]["arguments"], ensure_ascii=False)
                out.append(say(text, "commentary").with_recipient(f"functions.{name}")
                           .with_content_type("json"))
            if not calls:
                out.append(say(content, "final"))
    return oh.Conversation.from_messages(out)


def row(id, messages, tools=None):
    conversation = harmony(messages, tools)
    training = ENCODING.render_conversation_for_training(conversation)
    completion = ENCODING.render_conversation_for_completion(conversation, oh.Role.ASSISTANT)
    return {"id": id, "date": DATE, "messages": messages, "tools": tools,
            "training_text": ENCODING.decode(training), "training_ids": training,
            "completion_text": ENCODING.decode(completion), "completion_ids": completion}


def schema(rng, depth):
    """Any schema, with what the renderer looks at and some of what it does not."""
    made = {}
    kinds = ["string", "number", "integer", "boolean", "null", "array", "object", "thing"]
    if rng.random() < 0.85:
        made["type"] = rng.choice(kinds)
        if rng.random() < 0.15:
            made["type"] = rng.sample(kinds[:5], rng.randint(0, 3))
    if rng.random() < 0.2 and depth:
        made["oneOf"] = [schema(rng, depth - 1) for _ in range(rng.randint(0, 3))]
    if rng.random() < 0.05:
        made["oneOf"] = "no list"
    if made.get("type") == "object" and depth and rng.random() < 0.9:
        names = rng.sample(["a", "b", "long_name", "é", "x-y", "items"], rng.randint(0, 4))
        made["properties"] = {name: schema(rng, depth - 1) for name in names}
        made["required"] = [name for name in names if rng.random() < 0.5]
    if made.get("type") == "array" and depth and rng.random() < 0.8:
        made["items"] = schema(rng, depth - 1)
    if rng.random() < 0.2:
        made["enum"] = rng.choice([["a", "b"], [1, 2], [], ["a", 1, None]])
    if rng.random() < 0.4:
        made["description"] = rng.choice(["what it is", "two\nlines", "", "a // b", "<|end|>", "d"])
    if rng.random() < 0.3:
        made["default"] = rng.choice(["a", 1, 1.5, None, True, {"k": [1, "é"]}, "", [], "q\"q"])
    if rng.random() < 0.15:
        made["nullable"] = rng.choice([True, False, "yes"])
    if rng.random() < 0.1:
        made["title"] = "Title"
    if rng.random() < 0.15:
        made["examples"] = rng.choice([["one", 2, "three"], [], [1]])
    return made


def tool(name, description, parameters):
    function = {"name": name}
    if description is not None:
        function["description"] = description
    if parameters is not None:
        function["parameters"] = parameters
    return {"type": "function", "function": function}


def call(name, arguments, **more):
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": {
        "name": name, "arguments": arguments}}], **more}


def say(text, **more):
    return {"role": "assistant", "content": text, **more}


def main():
    ask = {"role": "user", "content": "q"}
    plain = [ask, say("a")]
    for i in range(60):
        rng = random.Random(i)
        tools = [tool(f"f{n}", rng.choice([None, "", "does it", "one\ntwo\n"]),
                      rng.choice([None, {}] + [schema(rng, 3)] * 8)) for n in range(rng.randint(1, 3))]
        print(json.dumps(row(f"schema_{i}", plain, tools), ensure_ascii=False))
    result = {"role": "tool", "content": "r"}
    turns = {
        "preamble": [ask, call("f", {"x": 1}, content="Looking.", thinking="why"), result, say("a")],
        "preamble_last": [ask, call("f", {}, content="Looking.", thinking="why")],
        "text_then_call": [ask, call("f", {}, content="Looking.")],
        "two_calls": [ask, call("f", {"x": 1}), result, call("g", {}, thinking="t"), result,
                      say("a", thinking="u")],
        "two_turns_calls": [ask, call("f", {}, thinking="1"), result, say("a", thinking="2"), ask,
                            call("f", {}, thinking="3"), result, say("b", thinking="4")],
        "call_open": [ask, say("a", thinking="1"), ask, call("f", {}, thinking="2"), result],
        "three_turns": [ask, say("a", thinking="1"), ask, say("b", thinking="2"), ask,
                        say("c", thinking="3")],
        "user_last": [ask, say("a", thinking="1"), ask],
        "markers_everywhere": [
            {"role": "system", "content": "<|start|>system"},
            {"role": "user", "content": "<|constrain|><|return|><|reserved_200013|>"},
            call("f", {"<|call|>": ["<|end|>"]}, thinking="<|channel|>final<|message|>"),
            {"role": "tool", "content": {"<|endofprompt|>": "<|startoftext|>"}},
            say("<|reserved_200014|><|endoftext|>")],
        "empty_answer": [ask, say("")],
        "result_list": [ask, call("f", {}), {"role": "tool", "content": [1, {"a": None}]}, say("a")],
        "result_empty": [ask, call("f", {}), {"role": "tool", "content": ""}, say("a")],
        "instructions_blank": [{"role": "system", "content": "s\n\n"}, *plain],
    }
    f = [tool("f", "d", {"type": "object", "properties": {}}), tool("g", "d <|end|>", None)]
    for id, messages in turns.items():
        print(json.dumps(row(id, messages, f), ensure_ascii=False))


main()
