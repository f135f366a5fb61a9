"""Writes multi-turn conversations as jsonl, the same ones for the same arguments.

    python3 benches/make_conversations.py conversations.jsonl [--rows 10000] [--seed 1]

Texts are made of common words, names, numbers, some code and some Chinese, in lengths that are spread as
those of chats are: most turns are short, a few are long. Needs nothing but Python.
"""

import argparse
import json
import random

WORDS = (
    "the of and a to in is you that it he was for on are as with his they at be this have from or one had by "
    "word but not what all were we when your can said there use an each which she do how their if will up other "
    "about out many then them these so some her would make like him into time has look two more write go see "
    "number no way could people my than first water been call who its now find long down day did get come made "
    "may part model training gradient learning rate tokenizer function variable memory kernel attention expert "
    "router optimizer checkpoint evaluation dataset conversation assistant analysis harbour country railway "
    "temperature pressure molecule enzyme theorem integral polynomial matrix determinant probability estimate"
).split()
CHINESE = "我们今天讨论一下这个问题的解决方法首先需要了解数据的结构然后选择合适的模型进行训练最后评估结果"
CODE = (
    "```python\ndef {name}(x, y={number}):\n    total = 0\n    for i in range(x):\n        total += i * y\n"
    "    return total\n```\n"
)


def sentence(rng):
    words = [rng.choice(WORDS) for _ in range(rng.randint(5, 24))]
    if rng.random() < 0.3:
        words.insert(rng.randrange(len(words)), str(rng.randint(0, 99999)))
    return " ".join(words).capitalize() + rng.choice([".", ".", ".", "?", "!", ":"])


def text(rng, mean):
    parts = []
    for _ in range(max(1, int(rng.lognormvariate(0, 0.8) * mean))):
        kind = rng.random()
        if kind < 0.05:
            parts.append(CODE.format(name=rng.choice(WORDS), number=rng.randint(1, 999)))
        elif kind < 0.1:
            start = rng.randrange(len(CHINESE) - 12)
            parts.append(CHINESE[start : start + rng.randint(4, 12)] + "。")
        else:
            parts.append(sentence(rng))
    return rng.choice([" ", " ", "\n\n"]).join(parts)


def conversation(rng):
    messages = []
    if rng.random() < 0.3:
        messages.append({"role": "system", "content": text(rng, 2)})
    for _ in range(rng.randint(2, 6)):
        messages.append({"role": "user", "content": text(rng, 2)})
        messages.append({"role": "assistant", "content": text(rng, 6)})
    return {"messages": messages}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--rows", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with open(arguments.file, "w", encoding="utf-8") as out:
        for _ in range(arguments.rows):
            out.write(json.dumps(conversation(rng), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
