"""GGUF files loaded by llama.cpp.

It rounds the bounds of YaRN's ramp to whole dimensions, as config.json says with `truncate: true`, and gpt-oss is published with false. So
files are checked of a model with `true`, of which both programs compute the same, and of one with `false`, where the difference is
llama.cpp's own. With matrices in BF16 or MXFP4 it rounds activations too (to bf16, and to 8 bits), and in a model of random weights that
sends some tokens to other experts, after which nothing is comparable. So of these types a model is checked that an adapter has taught a few
texts by heart. Keys and values are kept in f32 here.

Greedy tokens are those of llama.cpp; Apus is given them behind the prompt, and they are its own greedy tokens if each is the most probable
one of its logits there.
"""

import json

import numpy as np
from llama_cpp import Llama

from common import ADAPTER, IDS, TINY

TOKENS = 64
# The relative root mean square of the difference of logits, by the type of the file: with `truncate: true`, and with false. Found were
# 2e-6, 7e-2, 8e-2 and 7e-2, 7e-2, 0.15.
MOST = {"f32": (1e-5, 0.15), "bf16": (0.15, 0.15), "mxfp4": (0.15, 0.25)}
# Types whose greedy tokens have to be the same.
SAME = ("f32", "bf16")
# What is learnt by heart: answers of more than 64 tokens.
LESSONS = {
    "How is bread made?": "Flour, water, salt and a little yeast are mixed and left alone for an hour. Then the dough is folded, shaped and "
    "left alone again. A hot oven does the rest: in half an hour the crust is brown and the house smells of it.",
    "Tell me about swifts.": "A swift hardly ever lands. It eats, drinks and even sleeps on the wing, high above the roofs, and comes down only "
    "to its nest. In late summer the whole colony is gone within a few days, and the sky is quiet.",
    "Why do we have leap years?": "The earth needs a quarter of a day more than a year of whole days to go round the sun. After four years that "
    "makes one day, which is put at the end of February, so that spring stays where it was.",
}


def learnt(apus, base):
    """An adapter of attention and all experts that has learnt the lessons, and the prompts of these."""
    rows = apus.place("lessons.jsonl")
    messages = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in LESSONS.items()]
    rows.write_text("\n".join(json.dumps({"messages": turn}) for turn in messages))
    data = ["--model", base, "--dataset", rows, "--split_dataset_ratio", "0", "--current_date", "2025-08-05"]
    data += ["--template_backend", "native"]
    prepared, out = apus.place("prepared.jsonl"), apus.place("run")
    apus.run("data", *data, "--out", prepared)
    experts = [f"mlp.experts.{name}_proj" for name in ("gate_up", "down")]
    apus.run(
        *("sft", *data, "--device", "cpu", "--output_dir", out, "--add_version", "false", "--plot", "false"),
        *("--lora_rank", "16", "--lora_alpha", "32", "--target_modules", "all-linear", "--target_parameters", *experts),
        *("--learning_rate", "5e-3", "--max_steps", "120", "--per_device_train_batch_size", "3"),
        *("--gradient_accumulation_steps", "1", "--save_only_model", "true"),
    )
    prompts = []
    for row in map(json.loads, prepared.read_text().splitlines()):
        first = next(i for i, label in enumerate(row["labels"]) if label != -100)
        prompts.append(row["input_ids"][:first])
    return out / "checkpoint-120", prompts


def loaded(file):
    f32 = 0
    return Llama(
        str(file), n_ctx=512, n_batch=512, logits_all=True, flash_attn=False, swa_full=False, type_k=f32, type_v=f32, verbose=False
    )


def greedy(model, prompt):
    """All tokens of a prompt and what follows it, and their logits."""
    model.reset()
    model.eval(prompt)
    ids = list(prompt)
    for _ in range(TOKENS):
        ids.append(int(np.argmax(model.scores[len(ids) - 1])))
        model.eval(ids[-1:])
    return ids, np.array(model.scores[: len(ids)])


def compare(apus, report, at, model, directory, prompts, most, must):
    """Logits and greedy tokens of a file and of a directory with the same values. Returns the tokens of the file."""
    ours, theirs, same, answers = [], [], [], []
    for prompt in prompts:
        ids, logits = greedy(model, prompt)
        theirs.append(logits)
        ours.append(apus.logits(directory, ids))
        answers.append(ids[len(prompt) :])
        same.append(ours[-1].argmax(-1)[len(prompt) - 1 : -1] == np.array(ids[len(prompt) :]))
    report.near(f"{at}: logits", np.concatenate(ours), np.concatenate(theirs), most)
    first = [TOKENS if part.all() else int(np.argmin(part)) for part in same]
    report.check(f"{at}: greedy tokens", min(first) == TOKENS or not must, f"the first {first} of {TOKENS} the same")
    return answers


def run(apus, report, _args):
    rounded, published = (apus.copy("model_mxfp4", truncate=truncate) for truncate in (True, False))
    golden = ["--model", rounded, "--adapters", ADAPTER]
    merged = apus.export(*golden, "--merge_lora", "true")
    for name, words, directory in [("model", ["--model", rounded], rounded), ("merged", golden, merged)]:
        model = loaded(apus.gguf("f32", *words))
        compare(apus, report, f"llama.cpp, random {name}, f32", model, directory, [IDS], MOST["f32"][0], True)
    adapter, prompts = learnt(apus, published)
    for number, base in enumerate((rounded, published)):
        words = ["--model", base, "--adapters", adapter]
        dense = apus.export(*words, "--merge_lora", "true", "--experts_dtype", "bf16")
        packed = apus.export(*words, "--merge_lora", "true", "--quantize", "mxfp4")
        for outtype, most in MOST.items():
            at = f"llama.cpp, truncate {('true', 'false')[number]}, {outtype}"
            directory = packed if outtype == "mxfp4" else dense
            model = loaded(apus.gguf(outtype, *words))
            answers = compare(apus, report, at, model, directory, prompts, most[number], outtype in SAME)
            said = [model.detokenize(ids, special=True).decode(errors="replace") for ids in answers]
            heart = [f"<|message|>{answer[:80]}" in text for text, answer in zip(said, LESSONS.values())]
            report.check(f"{at}: says what was learnt", all(heart) or outtype not in SAME, f"{sum(heart)} of {len(heart)}")
    tokens(report, model)


def tokens(report, model):
    """Texts have the ids that the tokenizer of the model gives them."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return report.skip("llama.cpp, tokens of texts", "no tokenizers")
    tokenizer = Tokenizer.from_file(str(TINY / "model_mxfp4/tokenizer.json"))
    rows = (TINY / "chat_train.jsonl").read_text().splitlines()
    texts = [message["content"] for row in rows for message in json.loads(row)["messages"]]
    texts += [*LESSONS.values(), "It's 12345 O'CLOCK,\n\n  we'll see…  ", "naïve Ünïcode 日本語 🚀", "<|start|>user<|message|>x<|end|>"]
    wrong = []
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if model.tokenize(text.encode(), add_bos=False, special=True) != ids:
            wrong.append(text)
        elif model.detokenize(ids, special=True).decode() != text:
            wrong.append(text)
    report.check("llama.cpp, tokens of texts, there and back", not wrong, f"{len(texts)} texts, other ids for {wrong}")
    good = [model.token_eos(), model.token_bos()] == [742, 740] and model.metadata.get("tokenizer.chat_template")
    report.check("llama.cpp, special tokens and template", good)
