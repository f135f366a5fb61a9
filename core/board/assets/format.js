// How numbers and times are written, and a short way to make elements. Text only ever enters the page through
// createTextNode, so that nothing a run wrote can become markup.
"use strict";
const board = {};

(() => {
  /** A number in few digits: 1.052, 5,210, 2e-5. */
  function number(value, digits = 4) {
    if (value === null || value === undefined || !Number.isFinite(value)) return "–";
    const size = Math.abs(value);
    if (size === 0) return "0";
    if (size < 1e-3 || size >= 1e7) {
      return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
    }
    const after = Math.min(6, Math.max(0, digits - 1 - Math.floor(Math.log10(size))));
    return value.toLocaleString("en-US", { maximumFractionDigits: after });
  }

  /** A number in always as many digits, for columns of them. */
  function even(value, digits = 4) {
    if (!Number.isFinite(value) || value === 0 || Math.abs(value) < 1e-3 || Math.abs(value) >= 1e4) return number(value, digits);
    return value.toPrecision(digits);
  }

  /** A count, with all of its digits. */
  function count(value) {
    return Number.isFinite(value) ? value.toLocaleString("en-US", { maximumFractionDigits: 0 }) : "–";
  }

  /** Seconds as people say them. */
  function duration(seconds) {
    if (!Number.isFinite(seconds)) return "–";
    if (seconds < 10) return `${number(seconds, 2)} s`;
    if (seconds < 60) return `${Math.round(seconds)} s`;
    const s = Math.round(seconds);
    const two = (n) => String(n).padStart(2, "0");
    if (s < 3600) return `${Math.floor(s / 60)} min ${two(s % 60)} s`;
    if (s < 86400) return `${Math.floor(s / 3600)} h ${two(Math.floor(s / 60) % 60)} min`;
    return `${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24} h`;
  }

  /** How long ago that was. */
  function ago(seconds) {
    if (seconds < 90) return "just now";
    if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
    if (seconds < 129600) return `${Math.round(seconds / 3600)} h ago`;
    return `${Math.round(seconds / 86400)} days ago`;
  }

  /** A moment, in the reader's time. */
  function moment(text) {
    const date = new Date(text);
    if (Number.isNaN(date.getTime())) return text || "–";
    const two = (n) => String(n).padStart(2, "0");
    const time = `${two(date.getHours())}:${two(date.getMinutes())}`;
    if (date.toDateString() === new Date().toDateString()) return time;
    return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${time}`;
  }

  /** A value of a configuration on one line. */
  function value(given) {
    if (given === undefined) return "–";
    if (given === null) return "none";
    if (typeof given === "string") return given;
    if (Array.isArray(given)) return given.length ? given.map(value).join(", ") : "[ ]";
    if (typeof given === "object") {
      const { name, ...rest } = given;
      const more = Object.entries(rest).map(([key, inner]) => `${key} ${value(inner)}`).join(", ");
      return name === undefined ? `{ ${more} }` : name + (more ? ` (${more})` : "");
    }
    return String(given);
  }

  /** What is there of what may be left out. */
  function kept(children) {
    return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false && child !== "");
  }

  /** An element. Properties beginning with "on" are listeners, "class" and others are attributes. */
  function el(tag, properties = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, given] of Object.entries(properties)) {
      if (given === undefined || given === null || given === false) continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), given);
      else node.setAttribute(name, given === true ? "" : given);
    }
    node.append(...kept(children));
    return node;
  }

  /** Puts these in place of what a node holds. */
  function fill(node, ...children) {
    node.replaceChildren(...kept(children));
  }

  /** Builds what a node holds again only if what it is built from has changed: a selection of text stays. */
  function once(node, signature, build) {
    if (node.signature === signature) return;
    node.signature = signature;
    fill(node, build());
  }

  const STATES = {
    running: ["●", "running"],
    finished: ["✓", "finished"],
    interrupted: ["‖", "interrupted"],
    crashed: ["✕", "crashed"],
    gone: ["○", "gone"],
  };

  /** How a run stands, by shape, colour and word. */
  function state(name, why) {
    const [sign, word] = STATES[name] || ["?", name];
    return el("span", { class: `state ${name}`, title: why || undefined }, el("i", { "aria-hidden": "true" }, sign), word);
  }

  Object.assign(board, { number, even, count, duration, ago, moment, value, el, fill, once, state });
})();
