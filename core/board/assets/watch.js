// The page of `apus watch`: the list of runs, the ones that are shown, and asking for what is new.
"use strict";
(() => {
  const { el, fill, number, once } = board;
  const OFTEN = 2000;
  const SELDOM = 15000;

  const list = new Map();
  const known = new Map();
  const colors = new Map();
  const rows = new Map();
  const state = { shown: [], tab: "curves", version: 0, root: "", chosen: false, wanted: "" };

  const group = new board.Group({ smoothing: 0.9 });
  const curves = new board.Curves(group, board.training);
  const machine = new board.Group({ axis: "time" });
  const system = new board.Curves(machine, board.system);
  const configs = new board.Configs();
  const log = new board.Log();
  const overview = el("div");
  const controls = board.controls(group, curves, { axes: Object.keys(board.AXES), isFilter: true });
  const samples = el("div");
  const details = el("div");

  const tabs = {
    curves: { name: "Curves", nodes: [controls, curves.node], show: (runs) => { curves.show(runs); controls.reflect(runs); } },
    samples: { name: "Samples", nodes: [samples], show: (runs) => board.samples(samples, runs) },
    config: { name: "Config", nodes: [configs.node], show: (runs) => configs.show(runs) },
    system: { name: "System", nodes: [board.controls(machine, system), system.node], show: (runs) => system.show(runs) },
    log: { name: "Log", nodes: [log.node], show: (runs) => log.show(runs) },
    details: { name: "Details", nodes: [details], show: (runs) => board.details(details, runs) },
  };

  // The frame of the page.
  const alert = el("p", { class: "alert offline", role: "alert", hidden: true });
  const runs = el("ul", { class: "runs" });
  const nothing = el("li", { class: "empty" });
  const root = el("code");
  const filter = el("input", { type: "search", placeholder: "Filter runs", "aria-label": "Filter runs", oninput: () => {
    state.wanted = filter.value.trim().toLowerCase();
    drawList();
  } });
  // On a phone, the list opens and closes.
  const unfold = (isOpen) => {
    document.body.classList.toggle("open", isOpen);
    menu.setAttribute("aria-expanded", String(isOpen));
  };
  const menu = el("button", {
    type: "button", class: "menu", "aria-expanded": "false", "aria-controls": "side",
    onclick: () => unfold(!document.body.classList.contains("open")),
  }, "Runs");
  const bar = el("div", { class: "tabs", role: "tablist", "aria-label": "Views" });
  const panel = el("div", { class: "panel", role: "tabpanel", id: "panel" });
  for (const [id, { name }] of Object.entries(tabs)) {
    bar.append(el("button", { type: "button", role: "tab", id: `tab-${id}`, "aria-controls": "panel", onclick: () => open(id) }, name));
  }
  bar.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    const ids = Object.keys(tabs);
    open(ids[(ids.indexOf(state.tab) + by + ids.length) % ids.length]);
    document.getElementById(`tab-${state.tab}`).focus();
  });
  fill(document.getElementById("app"), menu,
    el("aside", { id: "side" }, el("header", {}, el("h1", {}, "apus"), root), filter, runs),
    el("main", {}, alert, overview, bar, panel));

  // The address says what is shown, so that it can be kept and shared.
  function readAddress() {
    const words = new URLSearchParams(location.hash.slice(1));
    if (words.has("tab") && tabs[words.get("tab")]) state.tab = words.get("tab");
    if (words.has("run")) [state.shown, state.chosen] = [words.getAll("run"), true];
  }
  function writeAddress() {
    const words = new URLSearchParams();
    if (state.chosen) state.shown.forEach((id) => words.append("run", id));
    words.set("tab", state.tab);
    history.replaceState(null, "", `#${words}`);
  }
  addEventListener("hashchange", () => {
    readAddress();
    open(state.tab);
    drawList();
    wake();
  });

  function open(id) {
    state.tab = id;
    for (const button of bar.children) {
      const isThis = button.id === `tab-${id}`;
      button.setAttribute("aria-selected", String(isThis));
      button.tabIndex = isThis ? 0 : -1;
    }
    panel.setAttribute("aria-labelledby", `tab-${id}`);
    fill(panel, tabs[id].nodes);
    writeAddress();
    draw();
  }

  function choose(id, isAlone) {
    state.chosen = true;
    if (isAlone) {
      state.shown = [id];
      unfold(false);
    } else if (state.shown.includes(id)) state.shown = state.shown.filter((other) => other !== id);
    else state.shown = [...state.shown, id];
    writeAddress();
    drawList();
    draw();
    wake();
  }

  function color(id) {
    if (!colors.has(id)) {
      const taken = new Set(state.shown.filter((other) => other !== id).map((other) => colors.get(other)));
      const free = [0, 1, 2, 3, 4, 5, 6, 7].find((n) => !taken.has(`--run-${n}`)) ?? colors.size % 8;
      colors.set(id, `--run-${free}`);
    }
    return colors.get(id);
  }

  /** Running ones first, then the latest. */
  function sorted() {
    const all = [...list.values()];
    const key = (run) => [run.state === "running" ? 0 : 1, -(Date.parse(run.started) || run.changed * 1000)];
    return all.sort((a, b) => key(a)[0] - key(b)[0] || key(a)[1] - key(b)[1] || a.id.localeCompare(b.id));
  }

  /** The line of a run in the list. It stays the same element, so that a click or the focus is never lost. */
  function row(id) {
    const check = el("input", { type: "checkbox", title: "Show beside others", onchange: () => choose(id, false) });
    const [name, path, how, when, steps, loss] = ["b", "small", "span", "span", "span", "span"].map((tag) => el(tag));
    const progress = el("progress", { max: 1, "aria-label": "Steps made" });
    const button = el("button", { type: "button", class: "run", title: `Show only ${id}`, onclick: () => choose(id, true) },
      name, path, el("span", { class: "line" }, how, when), el("span", { class: "line" }, steps, loss), progress);
    const node = el("li", {}, check, button);
    const update = (run) => {
      const isShown = state.shown.includes(id);
      node.className = isShown ? "shown" : "";
      check.checked = isShown;
      check.setAttribute("aria-label", `Show ${run.name} (${id})`);
      if (isShown) check.style.setProperty("--c", `var(${color(id)})`);
      name.textContent = run.name;
      path.textContent = id;
      path.hidden = id === run.name || id === ".";
      once(how, run.state, () => board.state(run.state));
      how.title = run.why || "";
      const age = () => board.ago(Date.now() / 1000 - run.changed);
      when.textContent = run.state === "running" ? (run.remaining ? `${run.remaining} left` : "") : age();
      steps.textContent = run.max_steps ? `${number(run.step, 9)} / ${number(run.max_steps, 9)}` : `step ${number(run.step, 9)}`;
      loss.textContent = run.loss === null ? "" : `loss ${board.even(run.loss)}`;
      progress.className = run.state;
      progress.value = run.max_steps ? Math.min(1, run.step / run.max_steps) : 0;
    };
    return { node, update };
  }

  function drawList() {
    const wanted = sorted().filter(({ id, name }) => `${id} ${name}`.toLowerCase().includes(state.wanted));
    const nodes = wanted.map((run) => {
      if (!rows.has(run.id)) rows.set(run.id, row(run.id));
      rows.get(run.id).update(run);
      return rows.get(run.id).node;
    });
    nothing.textContent = list.size ? "No run has this in its name." : "There are no runs here yet. They appear as they begin.";
    const now = nodes.length ? nodes : [nothing];
    if (now.length !== runs.children.length || now.some((node, n) => node !== runs.children[n])) fill(runs, now);
    const running = [...list.values()].filter((run) => run.state === "running").length;
    menu.textContent = `Runs: ${state.shown.length} of ${list.size} shown`;
    document.title = running ? `${running} running · apus` : "apus";
  }

  function shownRuns() {
    const there = state.shown.filter((id) => known.has(id)).map((id) => known.get(id));
    const names = board.labels(there);
    return there.map((run) => ({ run, label: names.get(run.id), color: color(run.id) }));
  }

  function draw() {
    const all = shownRuns();
    if (all.length) board.overview(overview, all);
    else {
      overview.signature = null;
      fill(overview, el("p", { class: "empty" }, list.size ? "Choose a run." : "Waiting for a run."));
    }
    panel.hidden = bar.hidden = !all.length;
    if (all.length) tabs[state.tab].show(all);
  }

  async function ask(path, words) {
    const answer = await fetch(`${path}?${new URLSearchParams(words)}`, { cache: "no-store" });
    if (answer.status === 404) return null;
    if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
    return answer.json();
  }

  async function fetchList() {
    const answer = await ask("api/runs", { since: state.version, epoch: state.epoch || "" });
    if (state.epoch !== answer.epoch) list.clear();
    Object.assign(state, { version: answer.version, root: answer.root, epoch: answer.epoch });
    root.title = answer.root;
    root.textContent = answer.root.split("/").filter((part) => part && part !== ".").at(-1) ?? answer.root;
    answer.runs.forEach((run) => list.set(run.id, run));
    answer.removed.forEach((id) => list.delete(id));
    if (!state.chosen && list.size) {
      const order = sorted();
      const running = order.filter((run) => run.state === "running").slice(0, 8);
      state.shown = (running.length ? running : order.slice(0, 1)).map((run) => run.id);
    }
    drawList();
  }

  /** Asks for what is new of the runs that are shown, one after the other, never twice at once. */
  let asked = Promise.resolve();
  function fetchShown() {
    asked = asked.catch(() => {}).then(fetchNew);
    return asked;
  }
  async function fetchNew() {
    let isNew = false;
    for (const id of [...state.shown]) {
      const run = known.get(id) || new board.Run(id);
      const listed = list.get(id);
      if (!listed || run.seen === listed.version) continue;
      const { version } = listed;
      let answer;
      do {
        answer = await ask("api/run", { id, ...run.cursor() });
        if (answer) run.apply(answer);
      } while (answer && answer.more);
      if (!answer) continue;
      run.seen = version;
      known.set(id, run);
      isNew = true;
    }
    if (isNew) draw();
  }

  let wake = () => {};
  document.addEventListener("visibilitychange", () => wake());

  async function follow() {
    for (;;) {
      try {
        await fetchList();
        await fetchShown();
        alert.hidden = true;
        document.documentElement.dataset.ready = "true";
      } catch (error) {
        alert.textContent = `apus watch does not answer (${error.message}). What is shown is the last that was known.`;
        alert.hidden = false;
      }
      await new Promise((go) => {
        wake = go;
        setTimeout(go, document.hidden ? SELDOM : OFTEN);
      });
    }
  }

  readAddress();
  open(state.tab);
  follow();
})();
