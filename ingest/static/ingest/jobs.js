// Keeps the jobs on the page up to date while one of them has not finished.

import { poll } from "./poll.js";

const root = document.querySelector("[data-jobs]");
const whole = new Intl.NumberFormat(document.documentElement.lang || undefined);

function openRows() {
  return [...root.querySelectorAll('tr[data-finished="false"]')];
}

function show(job, row) {
  const gauge = row.querySelector('[data-part="gauge"]');
  gauge.max = Math.max(1, job.total);
  gauge.value = job.done;
  row.querySelector('[data-part="done"]').textContent = whole.format(job.done);
}

function follow(answer) {
  const jobs = new Map(answer.results.map((job) => [String(job.id), job]));
  for (const row of openRows()) {
    const job = jobs.get(row.dataset.job);
    if (!job) continue;
    // The words for a state are the server's.
    if (job.state !== row.dataset.state) {
      window.location.reload();
      return false;
    }
    show(job, row);
  }
  return true;
}

if (root && openRows().length) {
  const url = new URL(root.dataset.url, window.location.href);
  url.searchParams.set("size", "100");
  poll(url, 2000, follow, () => {});
}
