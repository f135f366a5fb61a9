"""Steps of reference optimizers: pip install torch transformers schedulefree torchao galore-torch bitsandbytes numpy.

Writes one JSON file for each optimizer here. Starts and gradients are formulas of the element and the step, which the
tests know too, so the files hold the values after steps alone.
"""
import json
import math
import os
import warnings

warnings.simplefilter("ignore")
import torch

torch.compile = lambda function, **_: function
from schedulefree import AdamWScheduleFree
from torchao.optim import AdamW8bit
from transformers import Adafactor

STEPS, LR = 24, 0.02
HERE = os.path.dirname(os.path.abspath(__file__))


def start(shape):
    n = math.prod(shape)
    return torch.tensor([math.sin(1.3 * i + 0.5) for i in range(n)], dtype=torch.float32).reshape(shape)


def gradient(shape, step, value):
    n = math.prod(shape)
    noise = torch.tensor([math.cos(0.37 * i * (step + 1) + step) for i in range(n)], dtype=torch.float32).reshape(shape)
    return noise + 0.5 * value


def walk(make, shape, before_look=None, after_look=None):
    p = torch.nn.Parameter(start(shape))
    opt = make(p)
    found = []
    for step in range(STEPS):
        lr = LR * (1 - step / (2 * STEPS))
        for group in opt.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        p.grad = gradient(shape, step, p.data.clone())
        opt.step()
        if step in (0, 4, STEPS - 1):
            n = p.numel()
            picked = range(n) if n <= 64 else range(0, n, n // 37)
            entry = {"step": step + 1, "values": [p.data.flatten()[i].item() for i in picked]}
            if before_look:
                before_look(opt)
                entry["shown"] = [p.data.flatten()[i].item() for i in picked]
                after_look(opt)
            found.append(entry)
    return found


def write(name, reference, cases):
    runs = []
    for shape, options, make, *looks in cases:
        runs.append({"shape": shape, "options": options, "found": walk(make, shape, *looks)})
    path = os.path.join(HERE, name + ".json")
    with open(path, "w") as file:
        json.dump({"reference": reference, "lr": LR, "steps": STEPS, "runs": runs}, file, separators=(",", ":"))
        file.write("\n")
    print(name, len(runs), os.path.getsize(path))


shapes = [[4, 6], [6, 4], [5], [2, 3, 4]]

write("adafactor", "transformers.Adafactor", [
    (shape, options, lambda p, o=options: Adafactor([p], lr=LR, relative_step=False, **{
        "scale_parameter": False, "weight_decay": 0.0, **{k: v for k, v in o.items() if k in ("clip_threshold", "beta1", "scale_parameter", "weight_decay")},
        **({"decay_rate": -o["decay_rate"]} if "decay_rate" in o else {}),
    }))
    for shape in shapes
    for options in ({}, {"scale_parameter": True, "weight_decay": 0.1}, {"beta1": 0.9, "clip_threshold": 0.3, "decay_rate": 0.6})
])

write("schedule_free_adamw", "schedulefree.AdamWScheduleFree", [
    (shape, options, lambda p, o=options: (lambda opt: (opt.train(), opt)[1])(AdamWScheduleFree([p], lr=LR, foreach=False,
        betas=(o.get("beta1", 0.9), o.get("beta2", 0.999)), weight_decay=o.get("weight_decay", 0.0), warmup_steps=o.get("warmup_steps", 0), r=o.get("r", 0.0),
        weight_lr_power=o.get("weight_lr_power", 2.0))), lambda opt: opt.eval(), lambda opt: opt.train())
    for shape in [[4, 6], [5]]
    for options in ({}, {"beta1": 0.95, "beta2": 0.99, "weight_decay": 0.1}, {"warmup_steps": 10, "r": 1.0, "weight_lr_power": 1.0})
])


import torch.optim._muon as _muon


def float32_newton_schulz(grad, coefficients, steps, eps):
    """torch's formula without its cast to bfloat16."""
    a, b, c = coefficients
    x = grad.T if grad.size(0) > grad.size(1) else grad
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if grad.size(0) > grad.size(1) else x


_muon._zeropower_via_newtonschulz = float32_newton_schulz
write("muon", "torch.optim.Muon, its Newton-Schulz steps in float32", [
    (shape, options, lambda p, o=options: torch.optim.Muon([p], lr=LR, weight_decay=o.get("weight_decay", 0.1), momentum=o.get("momentum", 0.95),
        nesterov=o.get("nesterov", True), ns_steps=o.get("ns_steps", 5), adjust_lr_fn=o.get("adjust_lr", "match_rms_adamw")))
    for shape in [[4, 6], [6, 4]]
    for options in ({}, {"adjust_lr": "original", "weight_decay": 0.0}, {"momentum": 0.8, "nesterov": False, "ns_steps": 3})
])

write("adamw_8bit", "torchao.optim.AdamW8bit", [
    (shape, options, lambda p, o=options: AdamW8bit([p], lr=LR, betas=(o.get("beta1", 0.9), o.get("beta2", 0.999)), eps=1e-8,
        weight_decay=o.get("weight_decay", 0.0)))
    for shape in [[64, 72], [16, 16, 16], [32, 8]]
    for options in ({"beta2": 0.999, "weight_decay": 0.0}, {"beta1": 0.8, "beta2": 0.95, "weight_decay": 0.1})
])

from galore_torch.adamw import AdamW as GaLoreAdamW
from galore_torch.galore_projector import GaLoreProjector

with_signs_of_lapack = GaLoreProjector.get_orthogonal_matrix


def with_greatest_elements_positive(self, weights, rank, type):
    """A singular vector has no sign of its own."""
    def rows(m):
        return m * m.gather(1, m.abs().argmax(1, keepdim=True)).sign()
    found = with_signs_of_lapack(self, weights, rank, type)
    if type == "full":
        return [rows(found[0].T).T, rows(found[1])]
    return rows(found) if type == "right" else rows(found.T).T


GaLoreProjector.get_orthogonal_matrix = with_greatest_elements_positive
write("galore", "galore_torch.AdamW, the greatest element of each singular vector positive", [
    (shape, options, lambda p, o=options: GaLoreAdamW([{"params": [p], "rank": o["rank"], "update_proj_gap": o["update_proj_gap"],
        "scale": o.get("scale", 1.0), "proj_type": o.get("proj_type", "std")}], lr=LR, betas=(o.get("beta1", 0.9), o.get("beta2", 0.95)),
        eps=o.get("eps", 1e-8), weight_decay=o.get("weight_decay", 0.1), no_deprecation_warning=True))
    for shape in [[4, 6], [6, 4], [40, 56]]
    for options in (
        {"rank": 2, "update_proj_gap": 200},
        {"rank": 2, "update_proj_gap": 5, "scale": 0.25, "weight_decay": 0.0},
        {"rank": 2, "update_proj_gap": 7, "proj_type": "reverse_std"},
        {"rank": 2, "update_proj_gap": 7, "proj_type": "left"},
        {"rank": 2, "update_proj_gap": 7, "proj_type": "right"},
        # Right after a decomposition both sides leave a diagonal, beside which there is rounding alone: eps is far above it.
        {"rank": 2, "update_proj_gap": 7, "proj_type": "full", "beta1": 0.8, "beta2": 0.999, "eps": 1e-3},
    )
])
