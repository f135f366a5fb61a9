"""Writes sampling.jsonl: what transformers' RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper
and TopPLogitsWarper leave of logits, in this order, by their definitions in transformers/generation/logits_process.py
(v4.55), without torch."""

import json
import math
import random


def softmax(scores):
    most = max(scores)
    weights = [math.exp(score - most) for score in scores]
    return [weight / sum(weights) for weight in weights]


def penalise(logits, said, penalty):
    # score < 0 is multiplied by the penalty, any other is divided; a token counts once, however often it was said
    changed = [logit * penalty if logit < 0 else logit / penalty for logit in logits]
    return [changed[i] if i in said else logits[i] for i in range(len(logits))]


def warp(logits, temperature, top_k, top_p):
    scores = [logit / temperature for logit in logits]
    if top_k:
        # scores < torch.topk(scores, top_k)[0][..., -1] are removed
        floor = sorted(scores, reverse=True)[min(top_k, len(scores)) - 1]
        scores = [score if score >= floor else -math.inf for score in scores]
    if top_p < 1.0:
        # sorted ascending; removed where the cumulative probability <= 1 - top_p, but for the last one
        order = sorted(range(len(scores)), key=lambda i: scores[i])
        probabilities = softmax(scores)
        below = 0.0
        for i in order[:-1]:
            below += probabilities[i]
            if below <= 1 - top_p:
                scores[i] = -math.inf
    return softmax(scores)


random.seed(13)
with open("sampling.jsonl", "w") as out:
    for case in range(72):
        logits = [round(random.gauss(0, 3), 2) for _ in range(random.choice([4, 9, 17]))]
        if case % 6 == 5:
            logits[1] = logits[2]
        temperature = [1.0, 0.5, 1.7][case % 3]
        top_k = [0, 1, 3, 50][case // 3 % 4]
        top_p = [1.0, 0.9, 0.4, 0.05, 0.999, 0.63][case // 12]
        row = dict(logits=logits, temperature=temperature, top_k=top_k, top_p=top_p)
        row["probabilities"] = [round(p, 9) for p in warp(logits, temperature, top_k, top_p)]
        out.write(json.dumps(row) + "\n")
    for case in range(24):
        logits = [round(random.gauss(0, 3), 2) for _ in range(random.choice([4, 9, 17]))]
        said = [random.randrange(len(logits)) for _ in range(random.choice([1, 3, 8]))]
        penalty = [1.1, 1.3, 2.0, 0.8][case % 4]
        row = dict(logits=logits, temperature=[1.0, 0.7][case % 2], top_k=[0, 3][case // 2 % 2], top_p=[1.0, 0.9][case // 12])
        row.update(said=said, repetition_penalty=penalty)
        shaped = warp(penalise(logits, said, penalty), row["temperature"], row["top_k"], row["top_p"])
        row["probabilities"] = [round(p, 9) for p in shaped]
        out.write(json.dumps(row) + "\n")
