// Pure functions of numbers: ticks, smoothing, thinning.
"use strict";
(() => {
  /** Round ticks between two numbers, and the digits after the point that tell them apart. */
  function ticks(low, high, about) {
    const raw = (high - low) / Math.max(2, about);
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= raw) || 10 * power;
    const first = Math.ceil(low / step);
    const count = Math.min(20, Math.max(0, Math.floor(high / step) - first));
    const at = Array.from({ length: count + 1 }, (_, n) => (first + n) * step);
    return { at, digits: Math.min(9, Math.max(0, -Math.floor(Math.log10(step) + 1e-9))), step };
  }

  /** Powers of ten between two numbers; 2 and 5 between them where there are few. */
  function logTicks(low, high, about) {
    const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
    const inside = (value) => value >= low && value <= high;
    const stride = Math.max(1, Math.ceil((last - first) / Math.max(2, about)));
    let at = [];
    for (let power = first; power <= last; power += stride) at.push(10 ** power);
    at = at.filter(inside);
    if (at.length >= 3) return at;
    const fine = [];
    for (let power = first; power <= last; power++) fine.push(...[1, 2, 5].map((n) => n * 10 ** power));
    const some = fine.filter(inside);
    return some.length >= 2 ? some : ticks(low, high, about).at.filter((value) => value > 0);
  }

  /** Exponential smoothing without the pull towards nought at the beginning, as TensorBoard does it. */
  function smooth(values, weight) {
    if (!(weight > 0)) return values;
    const out = new Float64Array(values.length);
    let [sum, norm] = [0, 0];
    for (let n = 0; n < values.length; n++) {
      const value = values[n];
      if (!Number.isFinite(value)) {
        out[n] = NaN;
        continue;
      }
      sum = sum * weight + (1 - weight) * value;
      norm = norm * weight + (1 - weight);
      out[n] = sum / norm;
    }
    return out;
  }

  /** The first index whose value is at least this, in numbers that grow. */
  function lowerBound(values, wanted) {
    let [low, high] = [0, values.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (values[middle] < wanted) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** The index whose value is nearest to this; -1 if there is none. */
  function nearest(values, wanted) {
    if (!values.length) return -1;
    const at = lowerBound(values, wanted);
    if (at === 0) return 0;
    if (at === values.length) return at - 1;
    return wanted - values[at - 1] <= values[at] - wanted ? at - 1 : at;
  }

  /**
   * Calls `to(x, y, isFirst)` for what can be seen of a line, in pixels: of the points in one column of pixels the
   * first, the least, the greatest and the last. A value that is no number breaks the line.
   */
  function trace(xs, ys, from, until, px, py, to) {
    let isFirst = true;
    let column = NaN;
    let [first, least, greatest, last] = [0, 0, 0, 0];
    const flush = () => {
      if (Number.isNaN(column)) return;
      const kept = least < greatest ? [first, least, greatest, last] : [first, greatest, least, last];
      let before = -1;
      for (const at of kept) {
        if (at === before) continue;
        to(px(xs[at]), py(ys[at]), isFirst);
        isFirst = false;
        before = at;
      }
      column = NaN;
    };
    for (let at = from; at < until; at++) {
      if (!Number.isFinite(ys[at])) {
        flush();
        continue;
      }
      const here = Math.round(px(xs[at]));
      if (here !== column) {
        flush();
        column = here;
        first = least = greatest = last = at;
        continue;
      }
      if (ys[at] < ys[least]) least = at;
      if (ys[at] > ys[greatest]) greatest = at;
      last = at;
    }
    flush();
  }

  Object.assign(board, { ticks, logTicks, smooth, lowerBound, nearest, trace });
})();
