"""Writes the files of tests/cases/parquet that are not copies of what others wrote (datasets 5, pyarrow 21 or later)."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Json, List, Value

FOLDER = "../../cases/parquet"


def write(name, table):
    pq.write_table(table, f"{FOLDER}/{name}.parquet")


def function(name, properties, **more):
    parameters = {"type": "object", "properties": properties, **more}
    return {"type": "function", "function": {"name": name, "description": "d", "parameters": parameters}}


def called(arguments):
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    return {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "content": "r"},
            {"role": "assistant", "content": "done"},
        ]
    }


tools = [
    function("f", {"a": {"type": "integer", "default": 5}}, required=["a"]),
    function("g", {"b": {"type": "string", "enum": ["x", "y"]}, "a": {"type": "integer"}}),
]
messages = [{"role": "user", "content": "Say hi"}, {"role": "assistant", "content": "Hi"}]
write("padded_default", pa.Table.from_pylist([{"messages": messages, "tools": tools}]))
rows = [called({"a": None, "b": {"c": 1}}), called({"a": 2, "b": {"d": "x"}, "e": [None, 1]})]
write("padded_arguments", pa.Table.from_pylist(rows))
rows = [called(json.dumps({"a": None, "n": 123456789012345678901234567890}))]
write("arguments_text", pa.Table.from_pylist(rows))
picture = {"path": "x", "bytes": b"\x89PNG\r\n\x1a\n\x00"}
write("no_text", pa.table({"query": ["q", "q"], "response": ["a", "a"], "picture": [picture] * 2}))
write("twice", pa.table([pa.array([text]) for text in "qab"], names=["query", "response", "response"]))
blocks = json.dumps([{"type": "text", "text": "q"}])
row = {"messages": [{"role": "user", "content": blocks}, {"role": "assistant", "content": json.dumps("[1] a")}]}
features = Features({"messages": List({"role": Value("string"), "content": Json()})})
Dataset.from_list([row], features=features).to_parquet(f"{FOLDER}/ds_json_content.parquet")
