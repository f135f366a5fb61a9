"""Writes text_metrics.jsonl: words of jieba 0.42.1, and what ms-swift's `compute_rouge_bleu` (swift/metrics/nlg.py at
3602360) and sacrebleu 2.6.0 compute of pairs of texts.

    pip install jieba==0.42.1 rouge==1.0.1 nltk==3.10.4 sacrebleu==2.6.0 && python text_metrics.py
"""

import json
import random

import jieba
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge import Rouge
from sacrebleu.metrics import CHRF

jieba.setLogLevel(60)
random.seed(7)

PAIRS = [
    ("The quick brown fox jumps over the lazy dog.", "A quick brown dog jumps over the lazy fox."),
    ("the cat sat on the mat", "the cat is on the mat"),
    ("the cat sat on the mat", "the cat sat on the mat"),
    ("the the the the", "the cat the"),
    ("Paris is the capital of France. It lies on the Seine.", "The capital is Paris. Paris lies on the river Seine."),
    ("One sentence. Another one. A third.", "A third. One sentence. Another."),
    ("ends with dots...", "ends with . . . dots . "),
    ("a . . b", ". a .  . b"),
    ("price: 3.5% of v1.2.3, e-mail a_b@c.de", "price 3.5 % of v1.2, mail a-b@c.de"),
    ("line one\nline two\r\nline three", "line one\r\nline two\n\nline 3"),
    ("C++ and C# and AT&T", "c++ and c# and at&t"),
    ("Grüße aus Köln", "Grüsse aus Koeln"),
    ("ja", "nein"),
    ("short", "sh"),
    ("yes", "yes"),
    ("ab", "abc d"),
    ("z", ""),
    ("", "x y"),
    ("", ""),
    (" ", "a"),
    ("a", "..."),
    ("我们在学习自然语言处理。", "我们正在学习自然语言的处理。"),
    ("香蕉是什么颜色？香蕉是黄色的喵！", "喵~ 香蕉是黄色的喵！"),
    ("我来到北京清华大学", "他来到了网易杭研大厦"),
    ("今天天气很好，适合去公园散步。", "今天天气不错，适合去公园走走。"),
    ("你好，世界", "你好,世界!"),
    ("小明硕士毕业于中国科学院计算所，后在日本京都大学深造", "小明毕业于中国科学院，后来在京都大学学习"),
    ("T恤 和 卡拉OK，价格是 3.5 元。", "卡拉OK和T恤的价格是3.50元"),
    ("龦㐀 emoji 😀!", "㐀# 😀 emoji!"),
    ("こんにちは、世界", "こんばんは世界"),
    ("한국어 문장입니다", "한국어 문장"),
    ("😀😀😀", "😀"),
]

ENGLISH = "the a fox dog cat jumps over lazy quick river bank of sat mat sees and or not very old new . , ? 12 3.5%".split()
CHINESE = "我们 学习 自然 语言 处理 今天 天气 很 好 北京 大学 的 是 了 在 ， 。 公园 散步 喵 gpt-oss 1.5 研究 生命 起源".split()


def changed(words, pool):
    out = []
    for word in words:
        chance = random.random()
        if chance < 0.15:
            continue
        out.append(random.choice(pool) if chance < 0.3 else word)
    return out


for pool, space in [(ENGLISH, " "), (CHINESE, "")] * 30:
    words = [random.choice(pool) for _ in range(random.randint(1, 40))]
    PAIRS.append((space.join(words), space.join(changed(words, pool))))


def cut(text):
    return [word.strip(" ") for word in jieba.cut(text) if word.strip(" ")]


def nlg(reference, answer):
    reference, answer = cut(reference), cut(answer)
    if not reference or not answer or not [part for part in " ".join(answer).split(".") if part]:
        return {}
    scores = Rouge().get_scores(" ".join(answer), " ".join(reference))[0]
    found = {name: 100 * score["f"] for name, score in scores.items()}
    bleu = sentence_bleu([reference], answer, smoothing_function=SmoothingFunction().method3)
    return {**found, "bleu-4": 100 * bleu}


rows = []
for reference, answer in PAIRS:
    values = nlg(reference, answer)
    values["chrf"] = CHRF().corpus_score([answer], [[reference]]).score
    rows.append({"reference": reference, "answer": answer, "values": values})

means = {}
for name in ["rouge-1", "rouge-2", "rouge-l", "bleu-4"]:
    found = [row["values"][name] for row in rows if name in row["values"]]
    means[name] = sum(found) / len(found)
answers, references = [answer for _, answer in PAIRS], [[reference for reference, _ in PAIRS]]
means["corpus chrf"] = CHRF().corpus_score(answers, references).score
means["corpus chrf 4 1"] = CHRF(char_order=4, beta=1).corpus_score(answers, references).score

texts = sorted({text for pair in PAIRS for text in pair})
with open(__file__.replace(".py", ".jsonl"), "w", encoding="utf-8") as file:
    lines = rows + [{"text": text, "words": cut(text)} for text in texts] + [{"means": means}]
    for line in lines:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
