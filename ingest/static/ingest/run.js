// Follows a run that is going on: asks once a second how far it is, and shows the report when it
// has finished. Works on what the server has already drawn; without this script a reload does.

import { drawBar } from "./bar.js";
import { poll } from "./poll.js";

const FINAL = new Set(["complete", "incomplete", "blocked", "cancelled", "crashed"]);

const root = document.querySelector("[data-run]");
const locale = document.documentElement.lang || undefined;
const whole = new Intl.NumberFormat(locale);
const oneDecimal = new Intl.NumberFormat(locale, { minimumFractionDigits: 1, maximumFractionDigits: 1 });

function write(selector, text) {
  for (const element of root.querySelectorAll(selector)) {
    if (element.textContent !== text) element.textContent = text;
  }
}

function show(run) {
  const done = run.planned - run.outcomes.planned;
  const gauge = root.querySelector("[data-gauge]");
  gauge.max = Math.max(1, run.planned);
  gauge.value = done;
  write("[data-done]", whole.format(done));
  write("[data-planned]", whole.format(run.planned));
  write("[data-rate]", run.rate_per_second === null ? "–" : oneDecimal.format(run.rate_per_second));
  let sum = 0;
  for (const [outcome, count] of Object.entries(run.outcomes)) {
    sum += count;
    write(`[data-count="${CSS.escape(outcome)}"]`, whole.format(count));
    root.querySelector(`[data-row="${CSS.escape(outcome)}"]`)?.classList.toggle("none", count === 0);
  }
  write("[data-sum]", whole.format(sum));
  for (const [kind, count] of Object.entries(run.records)) {
    write(`[data-records="${CSS.escape(kind)}"]`, whole.format(count));
  }
  drawBar(root.querySelector("[data-bar]"), run.outcomes);
}

function follow(run) {
  write("[data-note]", "");
  if (FINAL.has(run.state)) {
    window.location.reload();
    return false;
  }
  // The words for a state are the server's; a change of state is rare enough for a new page.
  if (run.state !== root.querySelector("[data-state]").dataset.state) {
    window.location.reload();
    return false;
  }
  show(run);
  return true;
}

if (root && root.dataset.finished === "false") {
  poll(root.dataset.url, 1000, follow, () => write("[data-note]", root.dataset.lost));
}
