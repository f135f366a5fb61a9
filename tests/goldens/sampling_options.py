"""Writes sampling_options.jsonl: what transformers' logits processors leave of logits, in the order in which its generation puts
them (`GenerationMixin._get_logits_processor`), for biases, the repetition penalty, temperature, top_k, top_p and min_p. Penalties on
presence and frequency are OpenAI's (https://platform.openai.com/docs/api-reference), which transformers does not have: they are
taken from the logits by their formula between the repetition penalty and the temperature, where vLLM has them.

Needs torch and transformers (written with the versions in the first row)."""

import json
import random

import torch
import transformers
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel
from transformers.generation.logits_process import LogitsProcessor, LogitsProcessorList, TemperatureLogitsWarper


class Counted(LogitsProcessor):
    def __init__(self, answer, presence, frequency):
        self.answer, self.presence, self.frequency = answer, presence, frequency

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        for token in set(self.answer):
            scores[:, token] -= self.answer.count(token) * self.frequency + self.presence
        return scores


def left(row):
    size = len(row["logits"])
    options = {key: row[key] for key in ["temperature", "top_p", "top_k", "min_p", "repetition_penalty"] if key in row}
    if "logit_bias" in row:
        options["sequence_bias"] = [[[token], bias] for token, bias in row["logit_bias"]]
    config = GenerationConfig(do_sample=True, **{"top_k": 0, **options})
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=4, n_head=1, vocab_size=size, bos_token_id=0, eos_token_id=0))
    ids = torch.tensor([row["prompt"] + row["answer"]])
    processors = model._get_logits_processor(
        generation_config=config, input_ids_seq_length=ids.shape[1], encoder_input_ids=ids, prefix_allowed_tokens_fn=None,
        logits_processor=LogitsProcessorList(), device="cpu")
    counted = Counted(row["answer"], row.get("presence_penalty", 0.0), row.get("frequency_penalty", 0.0))
    warpers = {"TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper", "MinPLogitsWarper"}
    before = [p for p in processors if type(p).__name__ not in warpers]
    after = [p for p in processors if type(p).__name__ in warpers]
    assert processors == before + after, [type(p).__name__ for p in processors]
    scores = LogitsProcessorList(before + [counted] + after)(ids, torch.tensor([row["logits"]]))
    return torch.softmax(scores.double(), -1)[0].tolist()


random.seed(16)
choices = {
    "temperature": [0.5, 0.7, 1.7],
    "top_k": [1, 3, 6],
    "top_p": [0.4, 0.9, 0.999],
    "min_p": [0.02, 0.1, 0.5, 1.0],
    "repetition_penalty": [0.8, 1.1, 1.5],
    "presence_penalty": [-1.0, 0.5, 2.0],
    "frequency_penalty": [-0.5, 0.3, 2.0],
}
with open("sampling_options.jsonl", "w") as out:
    out.write(json.dumps({"transformers": transformers.__version__, "torch": torch.__version__}) + "\n")
    for case in range(160):
        size = random.choice([5, 9, 17])
        logits = [round(random.gauss(0, 3), 2) for _ in range(size)]
        tokens = lambda most: [random.randrange(size) for _ in range(random.randrange(most + 1))]
        row = dict(logits=logits, prompt=[random.randrange(size)] + tokens(4), answer=tokens(6))
        # Each option alone, and then several together.
        names = list(choices) + ["logit_bias"]
        chosen = [names[case % len(names)]] if case < 5 * len(names) else random.sample(names, random.randrange(2, 7))
        for name in chosen:
            if name == "logit_bias":
                biased = random.sample(range(size), random.choice([1, 2, 4]))
                row[name] = [[token, random.choice([-100.0, -3.5, 0.25, 2.0, 100.0])] for token in biased]
            else:
                row[name] = random.choice(choices[name])
        row["probabilities"] = [round(p, 9) for p in left(row)]
        out.write(json.dumps(row) + "\n")
