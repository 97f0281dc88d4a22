// Runs inside a dashboard's frame: keeps controls and address in step, follows the page's theme,
// tells the page around it what to do, and says so when the numbers cannot be refreshed.
(() => {
  "use strict";
  const MIN_SPAN = 10 * 60 * 1000;
  const MINUTE = 60 * 1000;
  const DAY = 24 * 60 * MINUTE;
  const DEFAULT_PRESET = "24h";
  const ORDER = ["range", "since", "until", "source", "outcome"];

  const page = window.parent === window ? null : window.parent;
  const tell = (type, value) => page?.postMessage({ type: `gleaner:${type}`, value }, location.origin);
  const setProps = (id, props) => window.dash_clientside?.set_props?.(id, props);

  // --- the address ---------------------------------------------------------------------------
  const write = (state) => {
    const parts = ORDER.filter((name) => state.get(name)).map(
      (name) => `${name}=${encodeURIComponent(state.get(name)).replace(/%2C/g, ",").replace(/%3A/g, ":")}`,
    );
    return parts.length ? `?${parts.join("&")}` : "";
  };
  const put = (state, name, value) => (value ? state.set(name, value) : state.delete(name));
  const list = (value) => (value ? value.split(",").filter(Boolean) : []);
  const instant = (ms) => `${new Date(ms).toISOString().slice(0, 19)}Z`;
  // plotly.js writes "2026-02-14 23:19:35.123", or the date alone; both are UTC here.
  const read = (text) => Date.parse(`${text.length === 10 ? `${text}T00:00` : text.replace(" ", "T")}Z`);
  const day = (text, shift) => {
    const ms = text ? Date.parse(text) : NaN;
    return Number.isNaN(ms) ? null : new Date(ms + shift).toISOString().slice(0, 10);
  };
  const unzoom = (state) => {
    state.delete("since");
    state.delete("until");
  };

  const zoom = (state, moved) => {
    if (moved?.["xaxis.range[0]"]) {
      const since = Math.floor(read(moved["xaxis.range[0]"]) / MINUTE) * MINUTE;
      const until = Math.ceil(read(moved["xaxis.range[1]"]) / MINUTE) * MINUTE;
      state.set("since", instant(since));
      state.set("until", instant(Math.max(until, since + MIN_SPAN)));
    } else if (moved?.["xaxis.autorange"]) {
      unzoom(state);
    }
  };

  const chooseDays = (state, start, end) => {
    if (start && end) {
      state.set("since", `${start.slice(0, 10)}T00:00:00Z`);
      state.set("until", `${day(end.slice(0, 10), DAY)}T00:00:00Z`);
    } else if (!start && !end) {
      unzoom(state);
    }
  };

  const controls = (state) => {
    const isFixed = state.has("since") || state.has("until");
    return [
      isFixed ? null : (state.get("range") ?? DEFAULT_PRESET),
      list(state.get("source")),
      list(state.get("outcome")),
      day(state.get("since"), 0),
      day(state.get("until"), -1000),
      !isFixed,
    ];
  };

  // --- what Dash calls -------------------------------------------------------------------------
  const sync = (search, preset, source, outcome, start, end, _clicks, ...moves) => {
    const { no_update: keep, callback_context: context } = window.dash_clientside;
    const nothing = Array(7).fill(keep);
    const current = search ?? location.search;
    const state = new URLSearchParams(current);
    const changed = context.triggered.map((item) => item.prop_id);
    if (!changed.length || changed.includes("url.search")) return [keep, ...controls(state)];
    for (const name of changed) {
      if (name === "preset.value" && preset) {
        unzoom(state);
        put(state, "range", preset === DEFAULT_PRESET ? "" : preset);
      }
      if (name === "source.value") put(state, "source", source?.join(","));
      if (name === "outcome.value") put(state, "outcome", outcome?.join(","));
      if (name.startsWith("dates.")) chooseDays(state, start, end);
      if (name === "unzoom.n_clicks") unzoom(state);
      if (name.endsWith(".relayoutData")) {
        zoom(state, moves[["outcomes", "throughput", "latency"].indexOf(name.split(".")[0])]);
      }
    }
    const next = write(state);
    return next === write(new URLSearchParams(current)) ? nothing : [next, ...controls(state)];
  };

  // dcc.Location knows its address a moment after the first call, and an empty one not at all.
  let asked = null;
  let count = 0;
  const ask = (search) => {
    const { no_update: keep, callback_context: context } = window.dash_clientside;
    const current = search ?? location.search;
    if (current === asked && context.triggered.every((item) => item.prop_id === "url.search")) return keep;
    asked = current;
    count += 1;
    return { search: current, theme: theme(), touch: matchMedia("(pointer: coarse)").matches, count };
  };

  let pointerY = 0;
  addEventListener("pointerdown", (event) => { pointerY = event.clientY; }, true);
  addEventListener("pointerup", (event) => { pointerY = event.clientY; }, true);

  // A click hits all segments of a bar, each told by its top edge: meant is the one whose top is
  // next above the pointer, and the topmost when the click was over the bar.
  const pick = (points) => {
    const filled = points.filter((point) => point.customdata);
    if (filled.length < 2) return filled[0];
    const fromTop = filled.toSorted((a, b) => a.bbox.y0 - b.bbox.y0);
    return fromTop.findLast((point) => point.bbox.y0 <= pointerY) ?? fromTop[0];
  };
  const open = (bar, source) => {
    const { callback_context: context, no_update: keep } = window.dash_clientside;
    const clicked = context.triggered.some((item) => item.prop_id.startsWith("completeness")) ? source : bar;
    const point = pick(clicked?.points ?? []);
    if (point) tell("open", point.customdata);
    return keep;
  };

  const told = () => {
    // dcc.Location does not write an empty query into the address.
    if (location.search !== asked) history.replaceState(history.state, "", location.pathname + asked);
    tell("shown", asked);
    return window.dash_clientside.no_update;
  };

  window.dash_clientside = Object.assign(window.dash_clientside ?? {}, {
    gleaner: { sync, ask, open, tell: told },
  });

  // --- theme and language, as the page around has them -------------------------------------------
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const theme = () =>
    page?.document.documentElement.getAttribute("data-bs-theme") ?? (system.matches ? "dark" : "light");
  const applyTheme = () => {
    if (root.dataset.theme === theme()) return;
    root.dataset.theme = theme();
    setProps("theme", { data: theme() });
  };
  root.lang = page?.document.documentElement.lang || "en";
  root.dataset.theme = theme();
  system.addEventListener("change", applyTheme);
  if (page) {
    new MutationObserver(applyTheme).observe(page.document.documentElement, {
      attributeFilter: ["data-bs-theme"],
    });
  }

  // --- height, visibility, trouble -----------------------------------------------------------------
  new ResizeObserver(() => tell("height", document.body.getBoundingClientRect().height)).observe(document.body);
  document.addEventListener("visibilitychange", () => {
    setProps("tick", { disabled: document.hidden });
    if (!document.hidden) setProps("theme", { data: theme() });
  });

  const showTrouble = (isThere) => {
    const note = document.getElementById("trouble");
    if (note) note.hidden = !isThere;
  };
  const originalFetch = window.fetch;
  window.fetch = async (...parameters) => {
    const isCallback = String(parameters[0]?.url ?? parameters[0]).includes("_dash-update-component");
    try {
      const answer = await originalFetch(...parameters);
      if (isCallback && answer.status === 401) {
        if (page) tell("signed-out");
        else location.reload();
        return new Promise(() => {}); // the login page is on its way: nobody needs this answer
      }
      if (isCallback) showTrouble(!answer.ok);
      return answer;
    } catch (error) {
      if (isCallback) showTrouble(true);
      throw error;
    }
  };
})();
