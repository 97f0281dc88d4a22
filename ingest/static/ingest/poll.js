// Asks an address again and again, one request at a time, and rests while nobody looks.

const LONGEST_MS = 30000;

export async function poll(url, everyMs, onAnswer, onLost) {
  let wait = everyMs;
  for (;;) {
    try {
      const response = await fetch(url, {
        headers: { Accept: "application/json" },
        credentials: "same-origin",
        cache: "no-store",
      });
      if (response.status === 401 || response.status === 403) {
        // Signed out meanwhile: the page itself leads to the sign-in.
        window.location.reload();
        return;
      }
      if (!response.ok) throw new Error(String(response.status));
      if (!onAnswer(await response.json())) return;
      wait = everyMs;
    } catch {
      onLost();
      wait = Math.min(wait * 2, LONGEST_MS);
    }
    await rest(wait);
  }
}

async function rest(ms) {
  await new Promise((resolve) => setTimeout(resolve, ms));
  if (document.hidden) {
    await new Promise((resolve) => {
      document.addEventListener("visibilitychange", resolve, { once: true });
    });
  }
}
