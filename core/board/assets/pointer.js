// What a chart answers to: pointer, touch and keys. The place of the pointer is shown in all charts of the group,
// the values in the one that it is in.
"use strict";
(() => {
  /** Begins to listen. */
  board.listen = (chart) => {
    const { plot, node, group } = chart;
    let start = null;
    const inside = (event) => event.clientX - plot.getBoundingClientRect().left;

    plot.addEventListener("pointermove", (event) => {
      if (!chart.view) return;
      const at = inside(event);
      chart.pointerY = event.clientY - plot.getBoundingClientRect().top;
      if (start !== null) chart.drag = [start, at];
      group.point(chart.view.back(at), chart);
      if (start !== null) chart.pointed();
    });
    plot.addEventListener("pointerleave", () => start === null && group.point(null, null));
    plot.addEventListener("pointerdown", (event) => {
      // A finger moves the pointer or the page; a mouse marks what to zoom into.
      if (event.pointerType === "touch" || event.button !== 0 || !chart.view) return;
      start = inside(event);
      plot.setPointerCapture(event.pointerId);
    });
    const end = (event) => {
      if (start === null) return;
      const [from, to] = [start, inside(event)].sort((a, b) => a - b);
      start = chart.drag = null;
      if (to - from > 5 && event.type === "pointerup") zoom(chart, chart.view.back(from), chart.view.back(to));
      else chart.pointed();
    };
    plot.addEventListener("pointerup", end);
    plot.addEventListener("pointercancel", end);
    plot.addEventListener("dblclick", () => group.set({ zoom: null }));

    node.addEventListener("keydown", (event) => {
      if (!chart.view || event.target !== node || event.ctrlKey || event.metaKey || event.altKey) return;
      const [low, high] = chart.view.x;
      const center = group.hover ?? (low + high) / 2;
      const around = (factor) => zoom(chart, center - (center - low) * factor, center + (high - center) * factor);
      const keys = {
        ArrowLeft: () => step(chart, event.shiftKey ? -10 : -1),
        ArrowRight: () => step(chart, event.shiftKey ? 10 : 1),
        Home: () => step(chart, -Infinity),
        End: () => step(chart, Infinity),
        "+": () => around(0.5),
        "=": () => around(0.5),
        "-": () => around(2),
        0: () => group.set({ zoom: null }),
        Escape: () => {
          group.point(null, null);
          group.set({ zoom: null });
        },
      };
      if (!keys[event.key]) return;
      event.preventDefault();
      keys[event.key]();
    });
    node.addEventListener("blur", () => group.source === chart && group.point(null, null));
    chart.pointed = () => pointed(chart);
  };

  function zoom(chart, from, to) {
    let [left, right] = [Infinity, -Infinity];
    for (const { x } of chart.lines) {
      if (x.length) [left, right] = [Math.min(left, x[0]), Math.max(right, x[x.length - 1])];
    }
    [from, to] = [Math.max(from, left), Math.min(to, right)];
    if (!(to > from)) return;
    chart.group.set({ zoom: from <= left && to >= right ? null : [from, to] });
  }

  /** Moves along the points of the first line. */
  function step(chart, by) {
    const line = chart.lines.find(({ x }) => x.length);
    if (!line) return;
    const [first, last] = [0, line.x.length - 1];
    const now = chart.group.hover === null ? (by > 0 ? -1 : last + 1) : board.nearest(line.x, chart.group.hover);
    const next = Math.min(last, Math.max(first, now + by));
    chart.pointerY = undefined;
    chart.group.point(line.x[next], chart);
    const rows = readings(chart).map(({ line, strong }) => `${line.label} ${board.number(strong)}`);
    chart.said.textContent = `${where(chart.group.axis, line.x[next])}: ${rows.join("; ")}`;
  }

  /** What each line says at the pointer. */
  function readings(chart) {
    const { hover } = chart.group;
    const [low, high] = chart.view.x;
    return chart.lines.flatMap((line) => {
      const at = board.nearest(line.x, hover);
      if (at < 0 || !Number.isFinite(line.y[at]) || line.x[at] < low || line.x[at] > high) return [];
      // A line that ended long before, or begins long after, has nothing to say here.
      if (Math.abs(line.x[at] - hover) > Math.max((high - low) * 0.02, gap(line.x, at))) return [];
      return [{ line, at, x: line.x[at], raw: line.y[at], strong: chart.values(line)[at] }];
    });
  }

  function gap(xs, at) {
    const left = at > 0 ? xs[at] - xs[at - 1] : 0;
    const right = at + 1 < xs.length ? xs[at + 1] - xs[at] : 0;
    return Math.max(left, right);
  }

  function where(axis, value) {
    if (axis === "time") return board.duration(value);
    if (axis === "step") return `step ${board.number(Math.round(value), 9)}`;
    return `${board.compact(value)} ${axis === "tokens" ? "tokens" : "epochs"}`;
  }

  /** Draws the pointer and what is marked, and fills the tip. */
  function pointed(chart) {
    const { plot, over, tip, view, group } = chart;
    const [width, height] = [plot.clientWidth, plot.clientHeight];
    const context = chart.prepare(over, width, height);
    tip.hidden = true;
    if (!view) return;
    const { box, px, py } = view;
    if (chart.drag) {
      const [from, to] = chart.drag.map((at) => Math.min(box.right, Math.max(box.left, at))).sort((a, b) => a - b);
      context.fillStyle = chart.color("--mark");
      context.fillRect(from, box.top, to - from, box.bottom - box.top);
    }
    if (group.hover === null) return;
    const found = readings(chart);
    const main = found[0];
    const at = Math.round(px(main ? main.x : group.hover)) + 0.5;
    if (at < box.left || at > box.right + 1) return;
    context.strokeStyle = chart.color("--pointer");
    context.beginPath();
    context.moveTo(at, box.top);
    context.lineTo(at, box.bottom);
    context.stroke();
    for (const { line, x, strong } of found) {
      context.fillStyle = chart.color(line.color);
      context.strokeStyle = chart.color("--surface");
      context.lineWidth = 1.5;
      context.beginPath();
      context.arc(px(x), py(strong), 3.5, 0, 7);
      context.fill();
      context.stroke();
    }
    if (group.source !== chart || !main) return;
    const y = chart.pointerY ?? py(main.strong);
    const near = [...found].sort((a, b) => Math.abs(py(a.strong) - y) - Math.abs(py(b.strong) - y)).slice(0, 10);
    const rows = found.filter((reading) => near.includes(reading)).map(({ line, x, raw, strong }) =>
      board.el("tr", {},
        board.el("td", {}, board.swatch(line.color, line.dash), line.label),
        board.el("td", { class: "value" }, board.even(strong, 5)),
        board.el("td", { class: "raw" }, strong === raw ? "" : board.even(raw, 5)),
        board.el("td", { class: "raw" }, x === main.x ? "" : where(group.axis, x))));
    board.fill(tip, board.el("b", {}, where(group.axis, main.x)), board.el("table", {}, rows));
    tip.hidden = false;
    const space = 14;
    const isLeft = at + space + tip.offsetWidth > width && at - space - tip.offsetWidth > -box.left;
    const left = isLeft ? at - space - tip.offsetWidth : Math.min(at + space, width - tip.offsetWidth);
    tip.style.transform = `translate(${Math.round(left)}px, ${Math.round(box.top + 4)}px)`;
  }

  /** A piece of a line in its colour. */
  board.swatch = (color, dash) => {
    const node = board.el("i", { class: dash ? "swatch dashed" : "swatch", "aria-hidden": "true" });
    node.style.setProperty("--c", `var(${color})`);
    return node;
  };
})();
