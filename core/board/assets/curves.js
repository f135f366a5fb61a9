// All curves of some runs: which charts there are, in which order, and the controls above them.
"use strict";
(() => {
  const FIRST = ["loss", "token_acc", "grad_norm", "learning_rate", "aux_loss"];
  const SPEED = ["tokens_per_second", "train_speed(s/it)", "tokens_per_second_per_rank", "collectives(s/it)", "memory(GiB)", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second"];
  /** Numbers without noise: smoothing would only bend them. */
  const STEADY = /^(learning_rate.*|memory\(GiB\)|train_speed\(s\/it\))$/;
  const HIDDEN = new Set(["step", "time", "epoch", ...board.TOKENS]);

  /** By a name from a log, which may be that of something every object has, such as `constructor`. */
  const LABELS = new Map(Object.entries({
    "cpu.pct": ["Processor busy", "%"],
    "cpu.threads": ["Threads", ""],
    "mem.pct": ["Memory of the machine", "%"],
    "mem.process_mib": ["Memory of the process", "MiB"],
    "mem.process_pct": ["Memory of the process", "%"],
    "mem.available_mib": ["Memory that is free", "MiB"],
    "gpu.pct": ["GPU busy", "%"],
    "gpu.mem_mib": ["GPU memory", "MiB"],
    "gpu.mem_pct": ["GPU memory", "%"],
    "gpu.temp": ["GPU temperature", "°C"],
    "gpu.power": ["GPU power", "W"],
  }));

  /** Charts of these runs by section: `[section, [{key, title, unit, smooth, lines(run)}]]`. */
  function training(runs) {
    const train = new Set();
    const others = new Set();
    for (const run of runs) run.train.names().forEach((name) => HIDDEN.has(name) || train.add(name));
    for (const run of runs) {
      for (const name of run.eval.names()) {
        if (name.startsWith("eval_") && !train.has(name.slice(5))) others.add(name);
      }
    }
    const rank = (order) => (a, b) => {
      const [x, y] = [order.indexOf(a), order.indexOf(b)];
      return (x < 0 ? 99 : x) - (y < 0 ? 99 : y) || a.localeCompare(b);
    };
    const chart = (name) => ({
      key: name,
      title: name,
      smooth: !STEADY.test(name),
      lines: (run) => [
        { table: run.train, name, smooth: true },
        { table: run.eval, name: name.startsWith("eval_") ? name : `eval_${name}`, dash: !name.startsWith("eval_"), marks: true },
      ],
    });
    const isSpeed = (name) => SPEED.includes(name);
    const mine = [...train].filter((name) => !isSpeed(name)).sort(rank(FIRST));
    const evaluated = [...others].filter((name) => !isSpeed(name)).sort();
    const speed = [...train, ...others].filter(isSpeed).sort(rank(SPEED));
    return [
      ["Training", mine.map(chart)],
      ["Evaluation", evaluated.map(chart)],
      ["Speed and memory", speed.map(chart)],
    ];
  }

  /** What a system metric is of: `{key, part}`, the chart of its kind and which host, card or rank it belongs to there. Names of
      hosts other than that of rank 0 stand before a slash. */
  function place(name) {
    const rank = /^rank\.(\d+)\.(.+)$/.exec(name);
    if (rank) return { key: `mem.${rank[2]}`, part: `rank ${rank[1]}` };
    const [, host = "", rest] = /^(?:(.*)\/)?([^/]*)$/s.exec(name);
    const card = /^gpu\.(\d+)\.(.+)$/.exec(rest);
    if (card) return { key: `gpu.${card[2]}`, part: `${host} GPU ${card[1]}`.trim() };
    return { key: rest, part: host };
  }

  /** The same for system metrics; cards of all hosts share a chart, and so do hosts and ranks. */
  function system(runs) {
    const charts = new Map();
    for (const run of runs) {
      for (const name of run.system.names()) {
        if (name === "time") continue;
        const { key, part } = place(name);
        const [title, unit] = LABELS.get(key) || [key, ""];
        if (!charts.has(key)) charts.set(key, { key, title, unit, smooth: true, names: new Map() });
        charts.get(key).names.set(name, part);
      }
    }
    for (const chart of charts.values()) {
      chart.lines = (run) => {
        const parts = [...chart.names].filter(([name]) => run.system.get(name));
        return parts.map(([name, part], nth) => ({
          table: run.system, name, smooth: true, part: parts.length > 1 ? part : "", nth,
        }));
      };
    }
    const order = [...LABELS.keys()].reverse();
    const sorted = [...charts.values()].sort((a, b) => order.indexOf(b.key) - order.indexOf(a.key));
    return [["Cards", sorted.filter(({ key }) => key.startsWith("gpu."))], ["Machine", sorted.filter(({ key }) => !key.startsWith("gpu."))]];
  }

  /** A grid of charts that follows the runs it is given. */
  class Curves {
    /** `arrange`: `board.training` or `board.system`. */
    constructor(group, arrange) {
      Object.assign(this, { group, arrange, charts: new Map(), sections: new Map(), wanted: "" });
      this.node = board.el("div", { class: "curves" });
      this.empty = board.el("p", { class: "empty" });
      group.addEventListener("change", () => this.axis !== group.axis && this.show(this.runs || []));
    }

    /** Only charts whose name has this in it. */
    filter(text) {
      this.wanted = text.trim().toLowerCase();
      this.show(this.runs);
    }

    /** `runs`: `[{run, label, color}]`. */
    show(runs) {
      this.runs = runs;
      this.axis = this.group.axis;
      const wanted = new Set();
      const nodes = [];
      for (const [title, charts] of this.arrange(runs.map(({ run }) => run))) {
        const shown = charts.filter(({ title }) => title.toLowerCase().includes(this.wanted));
        const filled = shown.flatMap((chart) => {
          const lines = runs.flatMap((one) => this.lines(one, chart));
          return lines.length ? [{ ...chart, lines }] : [];
        });
        if (!filled.length) continue;
        if (!this.sections.has(title)) {
          const grid = board.el("div", { class: "grid" });
          this.sections.set(title, { grid, node: board.el("section", {}, board.el("h3", {}, title), grid) });
        }
        const section = this.sections.get(title);
        nodes.push(section.node);
        filled.forEach(({ key, title, unit, smooth, lines }, place) => {
          wanted.add(key);
          if (!this.charts.has(key)) this.charts.set(key, new board.Chart(this.group, { title, unit, smooth }));
          const chart = this.charts.get(key);
          if (section.grid.children[place] !== chart.node) section.grid.insertBefore(chart.node, section.grid.children[place] || null);
          chart.show(lines);
        });
      }
      for (const [key, chart] of this.charts) {
        if (wanted.has(key)) continue;
        chart.remove();
        this.charts.delete(key);
      }
      this.empty.textContent = this.wanted ? "No curve has this in its name." : "Nothing was logged yet.";
      const now = nodes.length ? nodes : [this.empty];
      if (now.length !== this.node.children.length || now.some((node, n) => node !== this.node.children[n])) {
        board.fill(this.node, now);
      }
    }

    lines({ run, label, color }, chart) {
      return chart.lines(run).flatMap(({ table, name, dash, marks, smooth, part, nth = 0 }) => {
        const y = table.get(name);
        const x = board.AXES[this.group.axis].of(table);
        if (!y || !x || !y.some(Number.isFinite)) return [];
        const known = knownPlaces(x, y);
        return [{
          key: `${run.id} ${name}`,
          label: [label, dash && "eval", part].filter(Boolean).join(" · "),
          color: nth > 0 && this.runs.length === 1 ? `--run-${nth % 8}` : color,
          dash: dash ? [5, 4] : null,
          marks,
          smooth,
          ...known,
        }];
      });
    }
  }

  /** Leaves out rows that have no place on the x axis. */
  function knownPlaces(x, y) {
    if (x.every(Number.isFinite)) return { x, y };
    const rows = [...x.keys()].filter((row) => Number.isFinite(x[row]));
    return { x: rows.map((row) => x[row]), y: rows.map((row) => y[row]) };
  }

  /** The controls of a group: smoothing, x axis, logarithm, zoom, filter. */
  function controls(group, curves, { axes = [], isFilter = false } = {}) {
    const shown = board.el("output", {}, group.smoothing.toFixed(2));
    const slider = board.el("input", {
      type: "range", min: 0, max: 0.99, step: 0.01, value: group.smoothing, "aria-label": "Smoothing",
      oninput: () => {
        shown.textContent = Number(slider.value).toFixed(2);
        group.set({ smoothing: Number(slider.value) });
      },
    });
    const choices = board.el("div", { class: "choice", role: "group", "aria-label": "Horizontal axis" }, axes.map((axis) =>
      board.el("button", { type: "button", "data-axis": axis, onclick: () => group.set({ axis }) }, board.AXES[axis].label)));
    const log = board.el("button", { type: "button", class: "toggle", title: "Logarithmic vertical axis", onclick: () => group.set({ log: !group.log }) }, "Log");
    const whole = board.el("button", { type: "button", class: "toggle", onclick: () => group.set({ zoom: null }) }, "Reset zoom");
    const filter = isFilter && board.el("input", {
      type: "search", placeholder: "Filter curves", "aria-label": "Filter curves", oninput: () => curves.filter(filter.value),
    });
    const reflect = () => {
      for (const button of choices.children) button.setAttribute("aria-pressed", String(button.dataset.axis === group.axis));
      log.setAttribute("aria-pressed", String(group.log));
      whole.hidden = !group.zoom;
    };
    group.addEventListener("change", reflect);
    reflect();
    const node = board.el("div", { class: "controls" },
      board.el("label", {}, "Smoothing", slider, shown), axes.length > 1 && choices, log, whole, filter);
    /** Hides what no run can be laid out by. */
    node.reflect = (runs) => {
      for (const button of choices.children) {
        const axis = board.AXES[button.dataset.axis];
        button.hidden = !runs.some(({ run }) => axis.of(run.train));
      }
    };
    return node;
  }

  Object.assign(board, { Curves, training, system, controls });
})();
