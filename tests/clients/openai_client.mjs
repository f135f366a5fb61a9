// Calls every endpoint of `apus deploy` with OpenAI's JavaScript client, unchanged. `tests/deploy/clients.rs` starts the server and sets
// BASE_URL, API_KEY, ADMIN_KEY, NO_REASONING and CLIENTS, the folder with node_modules.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const { BASE_URL, API_KEY, ADMIN_KEY, NO_REASONING, CLIENTS } = process.env;
const { OpenAI } = createRequire(CLIENTS + "/")("openai");
const client = new OpenAI({ baseURL: BASE_URL, apiKey: API_KEY, maxRetries: 0 });
const messages = [{ role: "user", content: "hi" }];
const bias = JSON.parse(NO_REASONING);
const chat = (more) =>
  client.chat.completions.create({
    model: "tiny",
    messages,
    temperature: 0,
    max_completion_tokens: 16,
    ignore_eos: !more.logit_bias,
    ...more,
  });

const names = [];
for await (const model of client.models.list()) names.push(model.id);
assert.deepEqual(names, ["tiny", "cat"]);
assert.equal((await client.models.retrieve("cat")).id, "cat");

const whole = await chat({ n: 2, logprobs: true, top_logprobs: 3 });
assert.equal(whole.choices.length, 2);
assert.ok((whole.choices[0].logprobs.content ?? []).every((entry) => entry.top_logprobs.length === 3));
let text = "";
let usage;
for await (const chunk of await chat({ stream: true, stream_options: { include_usage: true } })) {
  text += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(text, whole.choices[0].message.content ?? "");
assert.equal(usage.completion_tokens, 16);
assert.equal((await chat({ model: "cat" })).model, "cat");

const schema = {
  type: "object",
  properties: { answer: { enum: ["yes", "no"] } },
  required: ["answer"],
  additionalProperties: false,
};
const held = await chat({
  response_format: { type: "json_schema", json_schema: { name: "verdict", schema, strict: true } },
  logit_bias: bias,
  max_completion_tokens: 200,
});
assert.ok(["yes", "no"].includes(JSON.parse(held.choices[0].message.content).answer));

const tools = [{ type: "function", function: { name: "judge", parameters: schema } }];
const ask = { tools, tool_choice: "required", logit_bias: bias, max_completion_tokens: 200 };
const called = await chat(ask);
const [call] = called.choices[0].message.tool_calls;
assert.equal(called.choices[0].finish_reason, "tool_calls");
assert.ok(["yes", "no"].includes(JSON.parse(call.function.arguments).answer));
const stream = client.chat.completions.stream({ model: "tiny", messages, temperature: 0, ...ask });
const final = await stream.finalChatCompletion();
assert.equal(final.choices[0].message.tool_calls[0].function.arguments, call.function.arguments);
const result = { role: "tool", tool_call_id: call.id, content: "done" };
assert.ok((await chat({ messages: [...messages, called.choices[0].message, result], tools })).usage.prompt_tokens > 0);

const completion = await client.completions.create({ model: "tiny", prompt: "a", max_tokens: 4, temperature: 0, echo: true, logprobs: 1 });
assert.ok(completion.choices[0].text.startsWith("a"));
let pieces = "a";
for await (const chunk of await client.completions.create({ model: "tiny", prompt: "a", max_tokens: 4, temperature: 0, stream: true })) {
  pieces += chunk.choices[0]?.text ?? "";
}
assert.equal(pieces, completion.choices[0].text);

const openEnd = { model: "tiny", input: "hi", max_output_tokens: 16, ignore_eos: true };
const response = await client.responses.create({ ...openEnd, instructions: "be kind" });
assert.equal(response.status, "incomplete");
const format = { type: "json_schema", name: "verdict", schema };
const shaped = await client.responses.create({ model: "tiny", input: "hi", text: { format }, max_output_tokens: 200, logit_bias: bias });
assert.ok(["yes", "no"].includes(JSON.parse(shaped.output_text).answer));
const kinds = [];
for await (const event of await client.responses.create({ ...openEnd, stream: true })) {
  kinds.push(event.type);
}
assert.equal(kinds[0], "response.created");
assert.equal(kinds.at(-1), "response.incomplete");

await assert.rejects(chat({ model: "gpt-4" }), (error) => error.status === 404 && error.code === "model_not_found");
await assert.rejects(chat({ temperature: 9 }), (error) => error.status === 400 && error.param === "temperature");
const stranger = new OpenAI({ baseURL: BASE_URL, apiKey: "other", maxRetries: 0 });
await assert.rejects(stranger.models.list(), (error) => error.status === 401);

const admin = new OpenAI({ baseURL: BASE_URL, apiKey: ADMIN_KEY, maxRetries: 0 });
await admin.post("/load_lora_adapter", { body: { lora_name: "late", lora_path: "late" } });
assert.equal((await chat({ model: "late" })).model, "late");
await admin.post("/unload_lora_adapter", { body: { lora_name: "late" } });
await assert.rejects(chat({ model: "late" }), (error) => error.status === 404);

// A client that leaves a stream cancels its answer.
const left = await chat({ stream: true, max_completion_tokens: 3000 });
for await (const _ of left) break;

console.log("all checks passed");
