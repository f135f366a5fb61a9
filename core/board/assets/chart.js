// A chart of lines on a canvas. Charts of one group share smoothing, x axis, zoom and the place of the pointer.
"use strict";
(() => {
  /** What charts share. */
  class Group extends EventTarget {
    constructor({ smoothing = 0, axis = "step" } = {}) {
      super();
      Object.assign(this, { smoothing, axis, log: false, zoom: null, hover: null, source: null });
    }

    /** Changes some of it; every chart draws itself again. */
    set(changes) {
      if ("axis" in changes && changes.axis !== this.axis) Object.assign(this, { zoom: null, hover: null });
      Object.assign(this, changes);
      this.dispatchEvent(new Event("change"));
    }

    /** Moves the pointer of all charts. */
    point(hover, source) {
      if (hover === this.hover && source === this.source) return;
      Object.assign(this, { hover, source });
      this.dispatchEvent(new Event("hover"));
    }
  }

  const FONT = '11px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';
  const TIMES = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];

  function compact(value) {
    const size = Math.abs(value);
    for (const [unit, sign] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
      if (size >= unit) return board.number(value / (unit === 1e4 ? 1e3 : unit), 4) + sign;
    }
    return board.number(value, 5);
  }

  function clock(seconds) {
    const s = Math.round(seconds);
    if (s === 0) return "0";
    if (s < 60) return `${s}s`;
    if (s < 3600) return s % 60 ? `${Math.floor(s / 60)}m${s % 60}s` : `${s / 60}m`;
    if (s < 172800) return s % 3600 ? `${Math.floor(s / 3600)}h${Math.round((s % 3600) / 60)}m` : `${s / 3600}h`;
    return `${board.number(s / 86400, 3)}d`;
  }

  /** Charts whose place on the screen is watched: what cannot be seen is not drawn. */
  const seen = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        const chart = entry.target.chart;
        chart.visible = entry.isIntersecting;
        if (chart.visible && chart.stale) chart.later();
      }
    },
    { rootMargin: "200px" },
  );
  const sized = new ResizeObserver((entries) => entries.forEach((entry) => entry.target.chart.changed()));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    document.querySelectorAll("figure.chart").forEach((node) => node.chart.changed());
  });
  addEventListener("beforeprint", () => {
    document.querySelectorAll("figure.chart").forEach((node) => node.chart.stale && node.chart.draw());
  });

  class Chart {
    /** `smooth`: whether the group's smoothing is meant for it. */
    constructor(group, { title, unit = "", smooth = true }) {
      Object.assign(this, { group, title, unit, smooth, lines: [], visible: false, stale: true });
      this.base = board.el("canvas");
      this.over = board.el("canvas", { class: "over" });
      this.tip = board.el("div", { class: "tip", hidden: true });
      this.said = board.el("p", { class: "unseen", "aria-live": "polite" });
      this.plot = board.el("div", { class: "plot" }, this.base, this.over, this.tip);
      this.legend = board.el("span", { class: "legend" });
      const enlarge = board.el("button", {
        type: "button",
        class: "quiet",
        title: "Enlarge",
        "aria-label": `Enlarge ${title}`,
        "aria-pressed": "false",
        onclick: () => enlarge.setAttribute("aria-pressed", String(this.node.classList.toggle("wide"))),
      }, "⤢");
      this.node = board.el("figure", { class: "chart", tabindex: "0", role: "group" },
        board.el("figcaption", {}, board.el("b", {}, title), unit && board.el("small", {}, unit), this.legend, enlarge),
        this.plot, this.said);
      this.node.chart = this.plot.chart = this;
      this.onchange = () => this.changed();
      this.onhover = () => this.visible && this.pointed();
      group.addEventListener("change", this.onchange);
      group.addEventListener("hover", this.onhover);
      seen.observe(this.node);
      sized.observe(this.plot);
      board.listen(this);
    }

    /** Takes it away. */
    remove() {
      this.group.removeEventListener("change", this.onchange);
      this.group.removeEventListener("hover", this.onhover);
      seen.unobserve(this.node);
      sized.unobserve(this.plot);
      this.node.remove();
    }

    /** Gives it its lines: `{key, label, color, dash, marks, smooth, x, y}`; `x` grows. */
    show(lines) {
      const before = new Map(this.lines.map((line) => [line.key, line]));
      for (const line of lines) line.cache = before.get(line.key)?.cache;
      this.lines = lines;
      const kinds = new Set(lines.map((line) => Boolean(line.dash)));
      board.fill(this.legend, kinds.size > 1 && [
        board.el("i", { class: "full" }), "train", board.el("i", { class: "dashed" }), "eval",
      ]);
      const last = lines.slice(0, 6).map((line) => `${line.label} ${board.number(line.y.findLast(Number.isFinite))}`);
      this.node.setAttribute("aria-label", `${this.title}, line chart. Last values: ${last.join("; ")}`);
      this.changed();
    }

    /** Something it shows has changed. */
    changed() {
      this.stale = true;
      if (this.visible) this.later();
    }

    later() {
      if (this.frame) return;
      this.frame = requestAnimationFrame(() => {
        this.frame = 0;
        this.draw();
      });
    }

    /** The values of a line as they are drawn strongly; smoothed ones are kept until something changes. */
    values(line) {
      const weight = this.smooth && line.smooth ? this.group.smoothing : 0;
      if (!weight) return line.y;
      const known = line.cache;
      if (known && known.weight === weight && known.length === line.y.length && known.y === line.y) return known.values;
      line.cache = { weight, length: line.y.length, y: line.y, values: board.smooth(line.y, weight) };
      return line.cache.values;
    }

    /** The part of a line that lies in the range, and one point on each side of it. */
    part(line, [low, high]) {
      const from = board.lowerBound(line.x, low);
      const until = board.lowerBound(line.x, high);
      return [Math.max(0, from - 1), Math.min(line.x.length, until + 2)];
    }

    ranges() {
      let [left, right] = [Infinity, -Infinity];
      for (const { x } of this.lines) {
        if (!x.length) continue;
        left = Math.min(left, x[0]);
        right = Math.max(right, x[x.length - 1]);
      }
      if (left > right) return null;
      if (left === right) [left, right] = [left - 0.5, right + 0.5];
      const x = this.group.zoom || [left, right];
      let [low, high, positive] = [Infinity, -Infinity, Infinity];
      for (const line of this.lines) {
        const [from, until] = this.part(line, x);
        const strong = this.values(line);
        for (let at = from; at < until; at++) {
          // Outside of a zoom, points only lend their line.
          if (this.group.zoom && (line.x[at] < x[0] || line.x[at] > x[1])) continue;
          for (const value of strong === line.y ? [line.y[at]] : [line.y[at], strong[at]]) {
            if (!Number.isFinite(value)) continue;
            if (value < low) low = value;
            if (value > high) high = value;
            if (value > 0 && value < positive) positive = value;
          }
        }
      }
      if (low > high) return null;
      // Shares are read against the whole.
      if (this.unit === "%" && !this.group.zoom && low >= 0 && high <= 100) [low, high] = [0, 100];
      const log = this.group.log && high > 0;
      if (log) {
        low = Math.max(low, positive);
        const margin = Math.max(1.02, (high / low) ** 0.05);
        return { x, y: [low / margin, high * margin], log };
      }
      const near = Math.max(Math.abs(low), Math.abs(high)) * 1e-9;
      const margin = high - low > near ? (high - low) * 0.06 : Math.abs(low) * 0.05 || 0.5;
      return { x, y: [low - margin, high + margin], log };
    }

    draw() {
      this.stale = false;
      const [width, height] = [this.plot.clientWidth, this.plot.clientHeight];
      if (!width || !height) return;
      const context = this.prepare(this.base, width, height);
      const ranges = this.ranges();
      this.view = null;
      if (!ranges) {
        context.fillStyle = this.color("--muted");
        context.textAlign = "center";
        context.fillText("nothing to show here", width / 2, height / 2);
        this.pointed();
        return;
      }
      const { x, y, log } = ranges;
      const about = Math.max(2, Math.floor(height / 42));
      const even = log ? null : board.ticks(y[0], y[1], about);
      const rows = log ? board.logTicks(y[0], y[1], about) : even.at;
      const names = rows.map((value) => this.written(value, even));
      const left = Math.ceil(Math.max(24, ...names.map((name) => context.measureText(name).width))) + 10;
      const box = { left, right: width - 8, top: 6, bottom: height - 20 };
      const px = (value) => box.left + ((value - x[0]) / (x[1] - x[0])) * (box.right - box.left);
      const place = log ? Math.log : (value) => value;
      const [low, high] = [place(y[0]), place(y[1])];
      const py = (value) => box.bottom - ((place(value) - low) / (high - low)) * (box.bottom - box.top);
      this.view = { box, px, py, x, log, back: (at) => x[0] + ((at - box.left) / (box.right - box.left)) * (x[1] - x[0]) };

      context.lineWidth = 1;
      context.strokeStyle = this.color("--grid");
      context.fillStyle = this.color("--muted");
      context.textBaseline = "middle";
      context.textAlign = "right";
      rows.forEach((value, n) => {
        const at = Math.round(py(value)) + 0.5;
        context.beginPath();
        context.moveTo(box.left, at);
        context.lineTo(box.right, at);
        context.stroke();
        context.fillText(names[n], box.left - 6, at);
      });
      context.textBaseline = "alphabetic";
      context.textAlign = "center";
      let free = -Infinity;
      for (const [value, name] of this.columns(x, Math.max(2, Math.floor((box.right - box.left) / 48)))) {
        const half = context.measureText(name).width / 2;
        const at = Math.min(Math.max(px(value), box.left + half - 4), width - half - 2);
        if (at - half < free) continue;
        context.fillText(name, at, height - 5);
        free = at + half + 10;
      }
      this.trace(context);
      this.pointed();
    }

    /** The lines: faint as they are, strong as they are smoothed. */
    trace(context) {
      const { box, px, py, log } = this.view;
      context.save();
      context.beginPath();
      context.rect(box.left, box.top - 4, box.right - box.left + 4, box.bottom - box.top + 8);
      context.clip();
      context.lineJoin = "round";
      const faint = this.lines.length > 4 ? 0.16 : 0.28;
      for (const isStrong of [false, true]) {
        for (const line of this.lines) {
          const strong = this.values(line);
          if (!isStrong && strong === line.y) continue;
          const values = isStrong ? strong : line.y;
          const shown = log ? (at) => (at > 0 ? py(at) : NaN) : py;
          context.globalAlpha = isStrong ? 1 : faint;
          context.lineWidth = isStrong ? 1.75 : 1;
          context.strokeStyle = context.fillStyle = this.color(line.color);
          context.setLineDash(isStrong && line.dash ? line.dash : []);
          const [from, until] = this.part(line, this.view.x);
          const path = new Path2D();
          const dots = new Path2D();
          board.trace(line.x, values, from, until, px, shown, (x, y, isFirst) => {
            if (isFirst) path.moveTo(x, y);
            else path.lineTo(x, y);
            dots.moveTo(x + 2.5, y);
            dots.arc(x, y, 2.5, 0, 7);
          });
          context.stroke(path);
          context.setLineDash([]);
          const room = (box.right - box.left) / Math.max(1, until - from);
          if (isStrong && ((line.marks && room > 8) || until - from === 1)) context.fill(dots);
        }
      }
      context.restore();
    }

    /** A canvas of the right size for the screen, emptied. */
    prepare(canvas, width, height) {
      const dense = devicePixelRatio || 1;
      const [w, h] = [Math.round(width * dense), Math.round(height * dense)];
      if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
      const context = canvas.getContext("2d");
      context.setTransform(dense, 0, 0, dense, 0, 0);
      context.clearRect(0, 0, width, height);
      context.font = FONT;
      return context;
    }

    columns(range, about) {
      if (this.group.axis === "time") {
        const raw = (range[1] - range[0]) / about;
        const step = TIMES.find((time) => time >= raw) || Math.ceil(raw / 86400) * 86400;
        const out = [];
        for (let at = Math.ceil(range[0] / step) * step; at <= range[1] && out.length < 40; at += step) out.push([at, clock(at)]);
        if (step > 1) return out;
      }
      return board.ticks(range[0], range[1], about).at.map((value) => [value, compact(value)]);
    }

    /** A value as the y axis writes it. */
    written(value, even) {
      if (!even) return compact(value);
      const size = Math.max(Math.abs(even.at[0] ?? 0), Math.abs(even.at.at(-1) ?? 0));
      if (size < 1e-3 || size >= 1e5) return compact(Math.abs(value) < even.step / 2 ? 0 : value);
      return value.toLocaleString("en-US", { minimumFractionDigits: even.digits, maximumFractionDigits: even.digits });
    }

    /** A colour of the theme. */
    color(name) {
      return getComputedStyle(this.node).getPropertyValue(name).trim();
    }
  }

  Object.assign(board, { Group, Chart, compact });
})();
