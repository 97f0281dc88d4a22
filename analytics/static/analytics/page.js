// The page around a dashboard: its height, its address, its links, its tables.
const frame = document.querySelector("[data-dashboard]");
const numbers = document.querySelector("[data-numbers]");
const details = numbers.closest("details");
const LEADS_TO = ["/search/", "/runs/"];
let shown = location.search;
let request = null;

function open(url) {
  const target = new URL(url, location.origin);
  if (target.origin === location.origin && LEADS_TO.some((path) => target.pathname.startsWith(path))) {
    location.assign(target);
  }
}

// The tables follow the charts: the same page, asked with the new filters.
async function refreshNumbers() {
  request?.abort();
  request = new AbortController();
  try {
    const answer = await fetch(location.href, { signal: request.signal });
    if (!answer.ok || answer.redirected) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.querySelector("[data-numbers]");
    if (fresh) numbers.replaceChildren(...document.adoptNode(fresh).childNodes);
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  }
}

function show(query) {
  if (query !== shown) history.replaceState(history.state, "", location.pathname + query);
  if (query !== shown || details.open) refreshNumbers();
  shown = query;
}

addEventListener("message", (event) => {
  if (event.origin !== location.origin || event.source !== frame.contentWindow) return;
  const { type, value } = event.data ?? {};
  if (type === "gleaner:height" && Number.isFinite(value)) frame.style.height = `${Math.ceil(value)}px`;
  if (type === "gleaner:open" && typeof value === "string") open(value);
  if (type === "gleaner:shown" && typeof value === "string") show(value);
  if (type === "gleaner:signed-out") location.reload();
});

details.addEventListener("toggle", () => {
  if (details.open) refreshNumbers();
});

frame.hidden = false; // without JavaScript it would be an empty box
