"""Calls every endpoint of `apus deploy` with OpenAI's Python client, unchanged. `tests/deploy/clients.rs` starts the server and sets
BASE_URL, API_KEY, ADMIN_KEY and NO_REASONING (a logit_bias that keeps the tiny model from reasoning, so that it comes to its answer)."""

import json
import os

import openai

base, admin_key = os.environ["BASE_URL"], os.environ["ADMIN_KEY"]
no_reasoning = json.loads(os.environ["NO_REASONING"])
client = openai.OpenAI(base_url=base, api_key=os.environ["API_KEY"], max_retries=0)
user = [{"role": "user", "content": "hi"}]


def chat(**more):
    arguments = {"model": "tiny", "messages": user, "temperature": 0, "max_completion_tokens": 16} | more
    if "logit_bias" not in more:
        arguments.setdefault("extra_body", {"ignore_eos": True})
    return client.chat.completions.create(**arguments)


def fails(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


# Models.
assert [model.id for model in client.models.list()] == ["tiny", "cat"]
assert client.models.retrieve("cat").id == "cat"

# Chat, whole and streamed.
whole = chat(n=2, logprobs=True, top_logprobs=3, seed=1)
assert whole.object == "chat.completion" and len(whole.choices) == 2
assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
entries = whole.choices[0].logprobs.content
assert all(len(entry.top_logprobs) == 3 and entry.logprob <= 0 for entry in entries)
chunks = list(chat(stream=True, stream_options={"include_usage": True}))
text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
assert text == (whole.choices[0].message.content or ""), (text, whole)
assert chunks[-1].usage.completion_tokens == 16 and not chunks[-1].choices
assert chat(reasoning_effort="high").usage.prompt_tokens > 0
parts = [{"role": "system", "content": "be kind"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}]
assert chat(messages=parts).choices[0].finish_reason == "length"
vllm = chat(extra_body={"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "stop_token_ids": [3], "ignore_eos": True})
assert vllm.usage.completion_tokens <= 16
assert chat(model="cat").model == "cat"

# Schemas.
schema = {
    "type": "object",
    "properties": {"answer": {"enum": ["yes", "no"]}},
    "required": ["answer"],
    "additionalProperties": False,
}
form = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": schema, "strict": True}}
held = chat(response_format=form, logit_bias=no_reasoning, max_completion_tokens=200)
assert json.loads(held.choices[0].message.content)["answer"] in ("yes", "no"), held

# Calls of tools, whole, streamed, and by the client's own stream helper.
tools = [{"type": "function", "function": {"name": "judge", "description": "Judges.", "parameters": schema}}]
ask = {"tools": tools, "tool_choice": "required", "logit_bias": no_reasoning, "max_completion_tokens": 200}
called = chat(**ask)
assert called.choices[0].finish_reason == "tool_calls"
call = called.choices[0].message.tool_calls[0]
assert call.function.name == "judge" and json.loads(call.function.arguments)["answer"] in ("yes", "no")
pieces = [
    delta
    for chunk in chat(stream=True, **ask)
    if chunk.choices
    for delta in chunk.choices[0].delta.tool_calls or []
]
assert "".join(piece.function.arguments or "" for piece in pieces) == call.function.arguments
with client.chat.completions.stream(model="tiny", messages=user, temperature=0, **ask) as stream:
    final = stream.get_final_completion()
assert final.choices[0].message.tool_calls[0].function.arguments == call.function.arguments
history = user + [called.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "done"}]
assert chat(messages=history, tools=tools).usage.prompt_tokens > called.usage.prompt_tokens
assert chat(tools=tools, tool_choice="none").choices[0].message.tool_calls is None

# Completions.
text = client.completions.create(model="tiny", prompt=["a", "b"], max_tokens=4, temperature=0, logprobs=2, echo=True)
assert len(text.choices) == 2 and text.choices[0].text.startswith("a")
ids = client.completions.create(model="cat", prompt=[[5, 6], [7, 8]], max_tokens=4, temperature=0, logprobs=2, echo=True)
assert ids.choices[1].logprobs.token_logprobs[0] is None and len(ids.choices[1].logprobs.tokens) == 6
streamed = list(client.completions.create(model="tiny", prompt="a", max_tokens=4, temperature=0, stream=True))
assert "a" + "".join(chunk.choices[0].text for chunk in streamed if chunk.choices) == text.choices[0].text

# Responses.
response = client.responses.create(
    model="tiny",
    input="hi",
    instructions="be kind",
    temperature=0,
    max_output_tokens=16,
    reasoning={"effort": "low"},
    extra_body={"ignore_eos": True},
)
assert response.status == "incomplete" and response.usage.output_tokens == 16
shaped = {"type": "json_schema", "name": "verdict", "schema": schema}
bias = {"extra_body": {"logit_bias": no_reasoning}}
held = client.responses.create(model="tiny", input="hi", text={"format": shaped}, max_output_tokens=200, **bias)
assert json.loads(held.output_text)["answer"] in ("yes", "no")
open_end = {"max_output_tokens": 8, "extra_body": {"ignore_eos": True}}
kinds = [event.type for event in client.responses.create(model="tiny", input="hi", stream=True, **open_end)]
assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == "response.incomplete"
with client.responses.stream(model="tiny", input="hi", text={"format": shaped}, max_output_tokens=200, **bias) as stream:
    assert json.loads(stream.get_final_response().output_text)["answer"] in ("yes", "no")
function = {"type": "function", "name": "judge", "parameters": schema, "strict": True}
called = client.responses.create(
    model="tiny", input="hi", tools=[function], tool_choice="required", max_output_tokens=200, **bias
)
item = called.output[-1]
assert item.type == "function_call" and item.name == "judge"
back = [{"role": "user", "content": "hi"}, *[part.model_dump() for part in called.output]]
back.append({"type": "function_call_output", "call_id": item.call_id, "output": "done"})
assert client.responses.create(model="tiny", input=back, tools=[function], max_output_tokens=8).output is not None

# Errors are the client's own.
assert fails(openai.NotFoundError, lambda: chat(model="gpt-4")).code == "model_not_found"
assert fails(openai.BadRequestError, lambda: chat(temperature=9)).param == "temperature"
assert fails(openai.BadRequestError, lambda: chat(modalities=["audio"])).param == "modalities"
stranger = openai.OpenAI(base_url=base, api_key="other", max_retries=0)
assert fails(openai.AuthenticationError, lambda: stranger.models.list()).code == "invalid_api_key"

# Adapters, as vLLM has them.
admin = openai.OpenAI(base_url=base, api_key=admin_key, max_retries=0)
admin.post("/load_lora_adapter", body={"lora_name": "late", "lora_path": "late"}, cast_to=str)
assert chat(model="late").model == "late"
admin.post("/unload_lora_adapter", body={"lora_name": "late"}, cast_to=str)
fails(openai.NotFoundError, lambda: chat(model="late"))
refused = lambda: client.post("/load_lora_adapter", body={"lora_name": "x", "lora_path": "late"}, cast_to=str)
fails(openai.AuthenticationError, refused)

print("all checks passed")
