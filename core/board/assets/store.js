// What the page knows of runs. A run's answer holds only what is new; here it is put to the rest.
"use strict";
(() => {
  /** Columns of numbers that grow at their end. */
  class Table {
    constructor() {
      this.rows = 0;
      this.columns = new Map();
    }

    append({ from, rows, columns }) {
      for (const [name, values] of Object.entries(columns)) {
        if (!this.columns.has(name)) this.columns.set(name, []);
        const column = this.columns.get(name);
        column.length = Math.min(column.length, from);
        while (column.length < from) column.push(NaN);
        for (const value of values) column.push(value === null ? NaN : value);
      }
      this.rows = from + rows;
    }

    names() {
      return [...this.columns.keys()];
    }

    get(name) {
      const column = this.columns.get(name);
      if (!column) return null;
      while (column.length < this.rows) column.push(NaN);
      return column;
    }

    /** The last number of a column. */
    last(name) {
      const column = this.columns.get(name) || [];
      for (let at = column.length - 1; at >= 0; at--) if (Number.isFinite(column[at])) return column[at];
      return undefined;
    }

    /** The least number of a column, and its row. */
    least(name) {
      let best = -1;
      const column = this.columns.get(name) || [];
      column.forEach((value, row) => {
        if (Number.isFinite(value) && (best < 0 || value < column[best])) best = row;
      });
      return best < 0 ? undefined : { value: column[best], row: best };
    }
  }

  /** A run. */
  class Run {
    constructor(id) {
      this.id = id;
      this.facts = { name: id, state: "running", info: {}, args: {}, summary: null, checkpoints: [], trouble: [] };
      this.version = 0;
      this.forget("");
    }

    forget(generation) {
      this.generation = generation;
      this.train = new Table();
      this.eval = new Table();
      this.system = new Table();
      this.samples = [];
      this.log = { text: "", to: undefined };
    }

    /** What to ask for. */
    cursor() {
      const known = { generation: this.generation, facts: this.facts.version || "" };
      for (const name of ["train", "eval", "system"]) known[name] = this[name].rows;
      known.samples = this.samples.length;
      if (this.log.to !== undefined) known.log = this.log.to;
      return known;
    }

    /** Takes in an answer. */
    apply(view) {
      if (view.generation !== this.generation) this.forget(view.generation);
      if (view.facts) this.facts = view.facts;
      for (const name of ["train", "eval", "system"]) this[name].append(view[name]);
      this.samples.length = Math.min(this.samples.length, view.samples.from);
      this.samples.push(...view.samples.items);
      if (view.log.from !== this.log.to) this.log.text = "";
      this.log.text = (this.log.text + view.log.text).slice(-500000);
      this.log.to = view.log.to;
      this.step = view.step;
      this.maxSteps = view.max_steps;
      this.remaining = view.remaining;
      this.version++;
    }

    get running() {
      return this.facts.state === "running";
    }

    /** Seconds from the start to the last thing that is known. */
    get seconds() {
      const summary = this.facts.summary || {};
      const last = Math.max(this.train.last("time") ?? 0, this.eval.last("time") ?? 0);
      return summary.train_runtime ?? (last > 0 ? last : this.system.last("time"));
    }
  }

  /** Numbers that a run may count its tokens by. */
  const TOKENS = ["num_input_tokens_seen", "train_tokens", "tokens"];

  /** Ways to lay out the x axis; each gives a column of a table, or null. */
  const AXES = {
    step: { label: "Step", unit: "step", of: (table) => table.get("step") },
    tokens: {
      label: "Tokens",
      unit: "tokens",
      of: (table) => TOKENS.map((name) => table.get(name)).find((column) => column) || null,
    },
    time: { label: "Time", unit: "time", of: (table) => table.get("time") },
    epoch: { label: "Epoch", unit: "epoch", of: (table) => table.get("epoch") },
  };

  /** Names of runs that tell them apart. */
  function labels(runs) {
    const names = new Map();
    for (const run of runs) names.set(run.facts.name, (names.get(run.facts.name) || 0) + 1);
    return new Map(runs.map((run) => [run.id, names.get(run.facts.name) > 1 ? run.id : run.facts.name]));
  }

  Object.assign(board, { Run, AXES, TOKENS, labels });
})();
