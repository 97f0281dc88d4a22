// Suggests hits while one types, in every form with `data-search-box`. Without this module the form
// is a plain GET form. Text is set by textContent only; the ranges of highlights count code points.

const SUGGESTIONS = 8;

class SearchBox {
  constructor(form) {
    this.form = form;
    this.input = form.querySelector("input[name=q]");
    this.list = form.querySelector("[role=listbox]");
    this.problem = form.querySelector("[role=alert]");
    this.status = form.querySelector("[role=status]");
    this.minChars = Number(form.dataset.minChars);
    this.delayMs = Number(form.dataset.delayMs);
    this.asked = this.input.value;
    this.turn = 0;
    this.timer = null;
    this.request = null;
    this.active = -1;

    this.input.addEventListener("input", () => this.schedule());
    this.input.addEventListener("keyup", () => this.schedule());
    this.input.addEventListener("compositionend", () => this.schedule());
    this.input.addEventListener("keydown", (event) => this.steer(event));
    this.form.addEventListener("submit", () => this.stop());
    this.form.addEventListener("focusout", (event) => {
      if (!this.form.contains(event.relatedTarget)) this.close();
    });
  }

  schedule() {
    const text = this.input.value;
    if (text === this.asked) return;
    this.asked = text;
    this.stop();
    if (Array.from(text.trim()).length < this.minChars) {
      this.clear();
      return;
    }
    this.timer = setTimeout(() => this.ask(), this.delayMs);
  }

  // Ends what is under way; an answer that arrives later belongs to an older turn.
  stop() {
    this.turn += 1;
    clearTimeout(this.timer);
    this.request?.abort();
    this.request = null;
  }

  async ask() {
    const turn = this.turn;
    this.request = new AbortController();
    const parameters = new URLSearchParams(new FormData(this.form));
    parameters.delete("sort");
    parameters.set("size", String(SUGGESTIONS));
    parameters.set("parts", "hits");
    try {
      const response = await fetch(`${this.form.dataset.endpoint}?${parameters}`, {
        headers: { Accept: "application/json" },
        credentials: "same-origin",
        signal: this.request.signal,
      });
      const answer = await response.json();
      if (turn !== this.turn) return;
      if (response.status === 401) this.fail(this.form.dataset.messageSignedOut);
      else if (!answer.success) this.fail(answer.error.message || this.form.dataset.messageFailed);
      else this.show(answer);
    } catch (error) {
      if (turn === this.turn && error.name !== "AbortError") {
        this.fail(this.form.dataset.messageFailed);
      }
    }
  }

  show(answer) {
    this.clear();
    if (answer.results.length === 0) {
      this.status.textContent = this.form.dataset.messageNone;
      const empty = document.createElement("div");
      empty.className = "search-box-empty";
      empty.textContent = this.form.dataset.messageNone;
      this.list.append(empty);
      this.offerSpelling(answer.did_you_mean);
    } else {
      this.status.textContent = `${this.form.dataset.messageFound} ${answer.total}`;
      answer.results.forEach((hit) => this.list.append(this.describe(hit)));
      this.offerSpelling(answer.did_you_mean);
      this.list.append(this.offerAll(answer.total));
    }
    this.options().forEach((option, index) => (option.id = `${this.list.id}-${index}`));
    this.list.hidden = false;
    this.input.setAttribute("aria-expanded", "true");
  }

  describe(hit) {
    const option = this.makeOption(hit.url);
    const title = document.createElement("span");
    title.className = "search-box-title";
    mark(title, hit.title, hit.highlights.title);
    const origin = document.createElement("span");
    origin.className = "search-box-origin";
    origin.textContent = hit.source ?? hit.kind;
    const text = document.createElement("span");
    text.className = "search-box-text";
    mark(text, hit.text, hit.highlights.text);
    option.append(title, origin, text);
    return option;
  }

  offerSpelling(text) {
    if (!text) return;
    const option = this.makeOption(this.addressOf(text));
    option.classList.add("search-box-all");
    option.textContent = `${this.form.dataset.messageMeant} ${text}`;
    this.list.append(option);
    this.status.textContent += ` ${option.textContent}`;
  }

  offerAll(total) {
    const option = this.makeOption(this.addressOf(this.input.value));
    option.classList.add("search-box-all");
    option.textContent = `${this.form.dataset.messageAll} ${total}`;
    return option;
  }

  // Of the page that shows all results for `text`.
  addressOf(text) {
    const parameters = new URLSearchParams(new FormData(this.form));
    parameters.set("q", text);
    return `${this.form.action}?${parameters}`;
  }

  makeOption(url) {
    const option = document.createElement("a");
    option.className = "search-box-option";
    option.setAttribute("role", "option");
    option.setAttribute("aria-selected", "false");
    option.tabIndex = -1;
    option.href = url;
    return option;
  }

  fail(message) {
    this.clear();
    this.problem.textContent = message;
    this.problem.hidden = false;
  }

  clear() {
    this.close();
    this.list.replaceChildren();
    this.problem.hidden = true;
    this.problem.textContent = "";
    this.status.textContent = "";
  }

  close() {
    this.select(-1);
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
  }

  options() {
    return Array.from(this.list.querySelectorAll("[role=option]"));
  }

  select(index) {
    const options = this.options();
    this.active = index;
    options.forEach((option, at) => option.setAttribute("aria-selected", String(at === index)));
    if (index < 0) {
      this.input.removeAttribute("aria-activedescendant");
    } else {
      this.input.setAttribute("aria-activedescendant", options[index].id);
      options[index].scrollIntoView({ block: "nearest" });
    }
  }

  steer(event) {
    if (event.isComposing) return;
    const count = this.options().length;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (count === 0) return;
      event.preventDefault();
      this.list.hidden = false;
      this.input.setAttribute("aria-expanded", "true");
      const step = event.key === "ArrowDown" ? 1 : -1;
      // One place more than there are options: the text itself.
      const next = (this.active + 1 + step + count + 1) % (count + 1);
      this.select(next - 1);
    } else if (event.key === "Enter" && !this.list.hidden && this.active >= 0) {
      event.preventDefault();
      this.options()[this.active].click();
    } else if (event.key === "Escape" && !this.list.hidden) {
      event.preventDefault();
      this.close();
    }
  }
}

// Fills `element` with `text`, the half-open code point `ranges` in <mark>.
function mark(element, text, ranges) {
  const points = Array.from(text);
  let position = 0;
  for (const [start, end] of ranges) {
    element.append(points.slice(position, start).join(""));
    const hit = document.createElement("mark");
    hit.textContent = points.slice(start, end).join("");
    element.append(hit);
    position = end;
  }
  element.append(points.slice(position).join(""));
}

document.querySelectorAll("[data-search-box]").forEach((form) => new SearchBox(form));
