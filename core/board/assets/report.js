// The report: everything that is known of its runs, below each other.
"use strict";
(() => {
  const { el, fill } = board;
  const given = JSON.parse(document.getElementById("data").textContent);
  const runs = given.runs.map((view) => {
    const run = new board.Run(view.id);
    run.apply(view);
    return run;
  });
  const names = board.labels(runs);
  const all = runs.map((run, n) => ({ run, label: names.get(run.id), color: `--run-${n % 8}` }));
  const hidden = new Set();

  const group = new board.Group({ smoothing: 0.9 });
  const curves = new board.Curves(group, board.training);
  const machine = new board.Group({ axis: "time" });
  const system = new board.Curves(machine, board.system);
  const configs = new board.Configs();
  const log = new board.Log();
  const places = Object.fromEntries(["overview", "samples", "details"].map((name) => [name, el("div")]));
  const controls = board.controls(group, curves, { axes: Object.keys(board.AXES), isFilter: runs.length > 0 });

  const title = runs.length === 1 ? all[0].label : `${runs.length} runs`;
  const sections = [
    ["curves", "Curves", [controls, curves.node]],
    ["samples", "Samples", [places.samples], () => runs.some((run) => run.samples.length)],
    ["config", "Configuration", [configs.node]],
    ["details", runs.length === 1 ? "The run" : "The runs", [places.details]],
    ["system", "System", [board.controls(machine, system), system.node], () => runs.some((run) => run.system.rows)],
    ["log", "Log", [log.node], () => runs.some((run) => run.log.text)],
  ].filter(([, , , isThere]) => !isThere || isThere());

  const legend = runs.length > 1 && el("div", { class: "which", role: "group", "aria-label": "Runs shown" }, all.map(({ run, label, color }) => {
    const button = el("button", {
      type: "button", "aria-pressed": "true",
      onclick: () => {
        if (!hidden.delete(run.id)) hidden.add(run.id);
        button.setAttribute("aria-pressed", String(!hidden.has(run.id)));
        show();
      },
    }, board.swatch(color), label);
    return button;
  }));

  fill(document.getElementById("app"),
    el("header", { class: "top" },
      el("h1", {}, title), runs.length === 1 && board.state(runs[0].facts.state, runs[0].facts.why),
      el("nav", { "aria-label": "Sections" }, sections.map(([id, name]) => el("a", { href: `#${id}` }, name)))),
    el("main", {}, places.overview, legend,
      sections.map(([id, name, nodes]) => el("section", { class: "part", id }, el("h2", {}, name), nodes)),
      el("footer", {}, `Written by apus ${given.version}.`, given.thinned ? ` ${given.thinned}` : "")));

  function show() {
    const shown = all.filter(({ run }) => !hidden.has(run.id));
    board.overview(places.overview, all);
    curves.show(shown);
    system.show(shown);
    controls.reflect(all);
    board.samples(places.samples, shown);
    configs.show(shown);
    board.details(places.details, shown);
    log.show(shown);
  }
  show();
  document.documentElement.dataset.ready = "true";
})();
