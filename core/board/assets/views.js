// Tables and texts of runs: how they stand, their samples, configurations and circumstances.
"use strict";
(() => {
  const { el, fill, once, number, even, count, duration, value } = board;

  const facts = (runs) => runs.map(({ run, label, color }) => [run.id, run.facts.version, label, color].join()).join(";");

  function bar(run) {
    const share = run.maxSteps ? Math.min(1, run.step / run.maxSteps) : 0;
    const node = el("progress", { max: 1, value: share, "aria-label": "Steps made" });
    node.className = run.facts.state;
    return node;
  }

  function best(run) {
    const least = run.eval.least("eval_loss");
    return least && { ...least, step: run.eval.get("step")?.[least.row] };
  }

  const memory = (run) => run.facts.summary?.["memory(GiB)"] ?? run.train.last("memory(GiB)");
  const speed = (run) => run.facts.summary?.tokens_per_second ?? run.train.last("tokens_per_second");
  const pace = (run) => run.train.last("train_speed(s/it)");

  function tile(title, main, more, extra) {
    return el("div", { class: "tile" }, el("span", {}, title), el("b", {}, main), more && el("small", {}, more), extra);
  }

  /** One run in a row of tiles, several in a table. */
  function overview(node, runs) {
    const signature = facts(runs) + runs.map(({ run }) => run.version).join();
    once(node, signature, () => [runs.map(problems), runs.length === 1 ? tiles(runs[0].run) : compared(runs)]);
  }

  /** What went wrong, above everything. */
  function problems({ run, label }) {
    const { state, why, trouble } = run.facts;
    const crashed = state === "crashed" && (why || "it says nothing more");
    return [
      crashed && el("p", { class: "alert crashed", role: "alert" }, el("b", {}, `${label} crashed: `), crashed),
      state === "gone" && el("p", { class: "alert gone" }, el("b", {}, `${label} is gone: `), why || "nothing is known of its end"),
      trouble.length > 0 && el("p", { class: "alert" }, el("b", {}, `${label}: `), trouble.join("; ")),
    ];
  }

  /** How busy the cards are. */
  function busy(run) {
    const names = run.system.names().filter((name) => /(^|\/)gpu\.\d+\.pct$/.test(name));
    const shares = names.map((name) => run.system.last(name)).filter(Number.isFinite);
    if (shares.length < 2) return shares.length === 1 && `card ${number(shares[0], 3)} % busy`;
    const [least, most] = [Math.min(...shares), Math.max(...shares)];
    return `${shares.length} cards ${number(least, 3)} to ${number(most, 3)} % busy`;
  }

  function tiles(run) {
    const evaluated = best(run);
    const lastEval = run.eval.last("eval_loss");
    const firstLoss = run.train.get("loss")?.find(Number.isFinite);
    const left = run.running && run.remaining ? `${run.remaining} left` : null;
    const each = run.facts.summary?.tokens_per_second_per_rank ?? run.train.last("tokens_per_second_per_rank");
    return el("div", { class: "tiles" },
      tile("Steps", run.maxSteps ? `${number(run.step, 9)} / ${number(run.maxSteps, 9)}` : number(run.step, 9),
        left || board.state(run.facts.state, run.facts.why), bar(run)),
      tile("Training loss", even(run.train.last("loss")), firstLoss !== undefined && `from ${even(firstLoss)}`),
      evaluated && tile("Evaluation loss", even(lastEval),
        evaluated.value < lastEval ? `best ${even(evaluated.value)} at step ${number(evaluated.step, 9)}` : "the best so far"),
      speed(run) !== undefined && tile("Tokens a second", number(speed(run)), [pace(run) !== undefined && `${number(pace(run), 3)} s a step`, each !== undefined && `${number(each)} a rank`].filter(Boolean).join(", ")),
      memory(run) !== undefined && tile("Peak memory", `${number(memory(run))} GiB`, busy(run)),
      run.seconds !== undefined && tile("Time", duration(run.seconds), run.facts.info.started && `since ${board.moment(run.facts.info.started)}`));
  }

  function compared(runs) {
    const head = ["Run", "State", "Steps", "Loss", "Eval loss", "Best", "Token acc", "Tokens/s", "Memory", "Time"];
    const row = ({ run, label, color }) => {
      const least = best(run);
      const left = run.running && run.remaining ? `${run.remaining} left` : null;
      return el("tr", {},
        el("th", { scope: "row" }, board.swatch(color), label),
        el("td", { class: "text" }, board.state(run.facts.state, run.facts.why), left && el("small", {}, left)),
        el("td", {}, run.maxSteps ? `${number(run.step, 9)} / ${number(run.maxSteps, 9)}` : number(run.step, 9), bar(run)),
        el("td", {}, even(run.train.last("loss"))),
        el("td", {}, even(run.eval.last("eval_loss"))),
        el("td", {}, least ? [even(least.value), el("small", {}, `step ${number(least.step, 9)}`)] : "–"),
        el("td", {}, even(run.train.last("token_acc"))),
        el("td", {}, number(speed(run))),
        el("td", {}, memory(run) === undefined ? "–" : `${number(memory(run))} GiB`),
        el("td", {}, duration(run.seconds ?? NaN)));
    };
    return el("div", { class: "scroll card", tabindex: "0", role: "region", "aria-label": "Runs compared" },
      el("table", { class: "numbers" }, el("thead", {}, el("tr", {}, head.map((name) => el("th", { scope: "col" }, name)))), el("tbody", {}, runs.map(row))));
  }

  /** Answers by prompt: before, on the way, after; runs below each other. */
  function samples(node, runs) {
    const signature = facts(runs) + runs.map(({ run }) => run.samples.length).join();
    once(node, signature, () => {
      const prompts = [...new Set(runs.flatMap(({ run }) => run.samples.map(({ prompt }) => prompt)))];
      if (!prompts.length) return el("p", { class: "empty" }, "No samples were generated. --sample_prompts asks for them.");
      return prompts.map((prompt) => el("section", { class: "prompt" }, el("h3", {}, prompt), runs.map((one) => answers(one, prompt, runs.length > 1))));
    });
  }

  /** More than these beside each other cannot be compared; the ones between are opened on demand. */
  const BESIDE = 4;

  function answers({ run, label, color }, prompt, isNamed) {
    const mine = run.samples.filter((sample) => sample.prompt === prompt);
    if (!mine.length) return null;
    const name = (sample, place) => {
      const start = Number(run.facts.info.resumed_at) || 0;
      const step = `step ${number(sample.step, 9)}`;
      if (place === 0 && sample.step <= start) return start ? `before · ${step}` : "before";
      return place === mine.length - 1 && !run.running ? `after · ${step}` : step;
    };
    const card = (sample, place) => el("blockquote", {}, el("small", {}, name(sample, place)), el("p", {}, sample.answer));
    const list = el("div", { class: "answers", tabindex: "0", role: "region", "aria-label": `Answers of ${label}` });
    const all = mine.map((sample, place) => [sample, place]);
    const some = all.filter((_, n) => n === 0 || n === all.length - 1 || (all.length <= BESIDE || n % Math.ceil(all.length / (BESIDE - 1)) === 0));
    fill(list, some.map((pair) => card(...pair)));
    const more = some.length < all.length && el("button", {
      type: "button", class: "toggle",
      onclick: () => {
        fill(list, all.map((pair) => card(...pair)));
        more.remove();
      },
    }, `All ${all.length} steps`);
    return el("div", { class: "of" }, isNamed && el("h4", {}, board.swatch(color), label), list, more);
  }

  /** Configurations beside each other. */
  class Configs {
    constructor() {
      this.different = el("input", { type: "checkbox", onchange: () => this.build() });
      this.different.checked = true;
      this.filter = el("input", { type: "search", placeholder: "Filter options", "aria-label": "Filter options", oninput: () => this.build() });
      this.label = el("label", {}, this.different, "Only what differs");
      this.table = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Configurations" });
      this.node = el("div", {}, el("div", { class: "controls" }, this.label, this.filter), this.table);
    }

    show(runs) {
      this.runs = runs;
      this.label.hidden = runs.length < 2;
      if (this.signature === facts(runs)) return;
      this.signature = facts(runs);
      this.build();
    }

    build() {
      const runs = this.runs;
      const keys = [...new Set(runs.flatMap(({ run }) => Object.keys(run.facts.args)))];
      const wanted = this.filter.value.trim().toLowerCase();
      const rows = keys.map((key) => {
        const values = runs.map(({ run: { facts: { args } } }) => value(Object.hasOwn(args, key) ? args[key] : undefined));
        return { key, values, differs: new Set(values).size > 1 };
      }).filter(({ key, values, differs }) =>
        (runs.length < 2 || differs || !this.different.checked) &&
        (!wanted || key.toLowerCase().includes(wanted) || values.some((text) => text.toLowerCase().includes(wanted))));
      if (!rows.length) {
        const isSame = runs.length > 1 && this.different.checked && !wanted && keys.length;
        fill(this.table, el("p", { class: "empty" }, isSame ? "The configurations are the same." : "There are no such options."));
        return;
      }
      fill(this.table, el("table", { class: runs.length > 1 ? "config beside" : "config" },
        runs.length > 1 && el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Option"), runs.map(({ label, color }) => el("th", { scope: "col" }, board.swatch(color), label)))),
        el("tbody", {}, rows.map(({ key, values, differs }) => el("tr", { class: differs && !this.different.checked && "differs" },
          el("th", { scope: "row" }, key), values.map((text) => el("td", { class: text === "none" || text === "–" || text === "[ ]" ? "none" : null }, text)))))));
    }
  }

  function pairs(rows) {
    return el("dl", {}, rows.filter(([, given]) => given !== undefined && given !== null && given !== "").map(([name, given]) =>
      [el("dt", {}, name), el("dd", {}, given)]));
  }

  /** Circumstances: command, machine, model, data, checkpoints. */
  function details(node, runs) {
    once(node, facts(runs), () => runs.map((one) => detail(one, runs.length > 1)));
  }

  function detail({ run, label, color }, isNamed) {
    const { info, args, summary, checkpoints, state, why, folder } = run.facts;
    const one = ([key, inner]) => (inner === true ? key : `${key} ${value(inner)}`);
    const known = ([, inner]) => inner !== null && inner !== false;
    const said = (given) => (given && typeof given === "object" ? Object.entries(given).filter(known).map(one).join(" · ") : given);
    const command = Array.isArray(info.command) ? info.command.map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : JSON.stringify(word))).join(" ") : info.command;
    return el("section", { class: "detail" },
      isNamed && el("h3", {}, board.swatch(color), label),
      pairs([
        ["State", [board.state(state), why && state !== "finished" ? ` ${why}` : ""]],
        ["Folder", el("code", {}, folder)],
        ["Command", command && el("code", {}, command)],
        ["Started", info.started && board.moment(info.started)],
        ["Ended", info.ended && board.moment(info.ended)],
        ["Went on from", args.resume_from_checkpoint],
        ["Machine", [info.host, ...machine(info.hardware, said)].filter(Boolean).join(" · ")],
        ["Version", [info.version ?? args.apus_version, info.git && `git ${said(info.git)}`].filter(Boolean).join(" · ")],
        ["Checkpoints", checkpoints.length ? checkpoints.map((step) => number(step, 9)).join(", ") : null],
        ["Best checkpoint", summary?.best_model_checkpoint],
        ["Last checkpoint", summary?.last_model_checkpoint],
        ["Tokens trained", summary?.train_tokens && count(summary.train_tokens)],
      ]),
      model(info.model, summary),
      dataset("Training data", summary?.train_dataset),
      dataset("Evaluation data", summary?.val_dataset));
  }

  /** Cards, processors and memory in words; what is not known is written as it is. */
  function machine(hardware, said) {
    if (!hardware || typeof hardware !== "object") return [hardware];
    const { hostname, cpu, memory_gib, accelerators, driver, ranks, ...rest } = hardware;
    const of = Array.isArray(ranks) ? ranks : [];
    const hosts = [...new Set(of.map(({ host }) => host))];
    const on = (host) => `${host}: ${of.filter((rank) => rank.host === host).map((rank) => rank.rank).join(", ")}`;
    const cards = (Array.isArray(accelerators) ? accelerators : []).map((card) => `${card.name}, ${number(card.memory_gib)} GiB`);
    return [
      ...new Set(cards.map((card) => (cards.length > 1 ? `${cards.filter((other) => other === card).length} × ${card}` : card))),
      driver && `driver ${driver}`,
      cpu?.brand && `${cpu.brand}, ${cpu.logical_count} threads`,
      memory_gib && `${number(memory_gib)} GiB of memory`,
      of.length > 1 && `${of.length} ranks (${hosts.map(on).join("; ")})`,
      said(rest),
    ];
  }

  function model(given, summary) {
    const groups = Array.isArray(given?.groups) ? given.groups : [];
    if (!groups.length) {
      const text = summary?.model_parameter_info;
      return text && [el("h4", {}, "Model"), el("p", {}, text)];
    }
    const whole = given.parameters || groups.reduce((sum, group) => sum + (group.parameters || 0), 0);
    const share = (part) => `${number((100 * part) / whole, 3)} %`;
    const row = (name, tensors, parameters) => el("tr", {},
      el("th", { scope: "row" }, name), el("td", {}, tensors === undefined ? "" : count(tensors)), el("td", {}, count(parameters)), el("td", {}, share(parameters)));
    return [
      el("h4", {}, "What is trained"),
      el("div", { class: "scroll" }, el("table", { class: "numbers" },
        el("thead", {}, el("tr", {}, ["Part", "Tensors", "Parameters", "Share"].map((name) => el("th", { scope: "col" }, name)))),
        el("tbody", {}, groups.map((group) => row(group.name, group.tensors, group.parameters || 0))),
        el("tfoot", {}, given.trainable !== undefined && row("Trained", undefined, given.trainable), row("Whole model", undefined, whole)))),
    ];
  }

  function dataset(title, text) {
    return text && [el("h4", {}, title), el("pre", { class: "scroll", tabindex: "0" }, text.trimEnd())];
  }

  /** The log of a run, line by line. */
  class Log {
    constructor() {
      this.filter = el("input", { type: "search", placeholder: "Filter lines", "aria-label": "Filter lines", oninput: () => this.build() });
      this.which = el("select", { "aria-label": "Run", onchange: () => this.build() });
      this.lines = el("ol", { class: "log", tabindex: "0", role: "log", "aria-label": "Log" });
      this.node = el("div", {}, el("div", { class: "controls" }, this.which, this.filter), this.lines);
    }

    show(runs) {
      this.runs = runs;
      const options = runs.map(({ run, label }) => [run.id, label]);
      if (this.which.signature !== String(options)) {
        this.which.signature = String(options);
        const before = this.which.value;
        fill(this.which, options.map(([id, label]) => el("option", { value: id }, label)));
        if (options.some(([id]) => id === before)) this.which.value = before;
        this.which.hidden = options.length < 2;
      }
      this.build();
    }

    build() {
      const { run } = this.runs.find(({ run }) => run.id === this.which.value) || this.runs[0] || {};
      if (!run) return;
      const wanted = this.filter.value.trim().toLowerCase();
      const signature = [run.id, run.log.to, run.log.text.length, wanted].join();
      if (this.signature === signature) return;
      this.signature = signature;
      const isAtEnd = this.lines.scrollHeight - this.lines.scrollTop - this.lines.clientHeight < 40;
      const all = run.log.text.split("\n").filter((line) => line && (!wanted || line.toLowerCase().includes(wanted)));
      const shown = all.slice(-2000).map((line) => {
        const [, time, level, text] = /^(\S+T\S+) +(\w+) (.*)$/s.exec(line) || [null, "", "", line];
        const short = time.replace(/^.*T(\d\d:\d\d:\d\d).*$/, "$1");
        return el("li", { class: level.toLowerCase() }, el("time", { title: time }, short), el("b", {}, level), el("span", {}, text));
      });
      fill(this.lines, shown.length ? shown : el("li", {}, el("span", { class: "empty" }, wanted ? "No line has this in it." : "This run keeps no log.")));
      if (isAtEnd) this.lines.scrollTop = this.lines.scrollHeight;
    }
  }

  Object.assign(board, { overview, samples, details, Configs, Log });
})();
