// Light or dark before the first paint: what was chosen here, else what the system prefers.
(() => {
  "use strict";
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");

  const stored = () => {
    try {
      return localStorage.getItem("theme");
    } catch {
      return null; // storage may be forbidden
    }
  };
  const apply = () => {
    const chosen = stored();
    const dark = chosen === "dark" || (chosen !== "light" && system.matches);
    root.setAttribute("data-bs-theme", dark ? "dark" : "light");
  };
  const toggle = () => {
    const next = root.getAttribute("data-bs-theme") === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("theme", next);
    } catch {
      // the choice then lasts as long as the page
    }
    root.setAttribute("data-bs-theme", next);
  };

  apply();
  system.addEventListener("change", apply);
  document.addEventListener("DOMContentLoaded", () => {
    for (const button of document.querySelectorAll("[data-theme-toggle]")) {
      button.hidden = false;
      button.addEventListener("click", toggle);
    }
  });
})();
