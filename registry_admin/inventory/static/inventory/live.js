/* Keeps the regions marked data-live current: fetches them every 3 s while the page is visible and in use, every 60 s
   otherwise, and morphs only the changes, so that focus, scroll position and open folds stay. */
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  const ACTIVE_INTERVAL_MS = 3000, IDLE_INTERVAL_MS = 60000, IDLE_AFTER_MS = 300000, TIMEOUT_MS = 10000;
  const regions = [...document.querySelectorAll("[data-live]")].map((element) => ({ element, etag: "" }));
  const controls = document.getElementById("live-controls");
  const state = document.getElementById("live-state");
  const pause = document.getElementById("live-pause");
  const announcer = document.getElementById("live-announcement");
  let isPaused = false, timer = 0, lastUsedAt = Date.now(), announced = announcement();

  function announcement() {
    return [...document.querySelectorAll("[data-announce]")].map((element) => element.textContent.trim().replace(/\s+/g, " ")).join(". ");
  }

  function show(word, detail) {
    if (!state || state.dataset.state === word) return;
    state.dataset.state = word;
    state.textContent = word;
    state.title = detail;
    if (announcer && word !== "Live") announcer.textContent = `${word}. ${detail}`;
  }

  /* Folds that the reader has opened, boxes ticked and text typed stay as they are. */
  const isTouched = (node) =>
    node instanceof HTMLInputElement && (node.checked !== node.defaultChecked || node.value !== node.defaultValue);
  const morphOptions = {
    morphStyle: "innerHTML",
    restoreFocus: true,
    callbacks: {
      beforeNodeMorphed: (before) => !isTouched(before) && !(before instanceof Element && before.hasAttribute("data-keep")),
      beforeAttributeUpdated: (name, node) => !(name === "open" && node instanceof HTMLDetailsElement),
    },
  };

  /* After the login has ended nothing of the page stays, and nothing is asked any more: the server leads to the login. */
  function leave() {
    isPaused = true;
    document.body.replaceChildren();
    location.reload();
  }

  async function refresh(region) {
    const url = region.element.dataset.live || location.href;
    const headers = { "X-Registry-Live": "1" };
    if (region.etag) headers["If-None-Match"] = region.etag;
    const reply = await fetch(url, { headers, redirect: "manual", cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (reply.status === 401 || reply.type === "opaqueredirect") return leave();
    if (reply.status === 304) return;
    if (!reply.ok && reply.status !== 404) throw new Error(`Registry Admin answered ${reply.status}.`);
    const html = await reply.text(); // a 404 has a region too: it says that the service is no longer known
    region.etag = reply.headers.get("ETag") || "";
    Idiomorph.morph(region.element, html, morphOptions);
    region.element.dispatchEvent(new CustomEvent("registry:changed", { bubbles: true }));
  }

  async function refreshAll() {
    clearTimeout(timer);
    if (isPaused) return;
    try {
      await Promise.all(regions.map(refresh));
      regions.forEach(({ element }) => element.removeAttribute("data-offline"));
      show("Live", "This page keeps itself current.");
      const now = announcement();
      if (announcer && now !== announced) announcer.textContent = announced = now;
    } catch (error) {
      regions.forEach(({ element }) => element.setAttribute("data-offline", ""));
      show("Offline", error instanceof TypeError || error.name === "TimeoutError"
        ? "This page has lost touch with Registry Admin: what you see may be old. Trying again." : error.message);
    }
    schedule();
  }

  function schedule() {
    clearTimeout(timer);
    if (isPaused) return;
    const isActive = !document.hidden && Date.now() - lastUsedAt < IDLE_AFTER_MS;
    timer = setTimeout(refreshAll, isActive ? ACTIVE_INTERVAL_MS : IDLE_INTERVAL_MS);
  }

  function recordUse() {
    const wasIdle = Date.now() - lastUsedAt >= IDLE_AFTER_MS;
    lastUsedAt = Date.now();
    if (wasIdle) refreshAll();
  }

  function updateAges() {
    const format = new Intl.RelativeTimeFormat("en", { style: "long" });
    const units = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
    for (const time of document.querySelectorAll("time[data-ago]")) {
      const seconds = (new Date(time.dateTime) - Date.now()) / 1000;
      const [unit, size] = units.find(([, each]) => Math.abs(seconds) >= each) || units[3];
      const words = Math.abs(seconds) < 5 ? "just now" : format.format(Math.trunc(seconds / size), unit);
      if (time.textContent !== words) time.textContent = words;
    }
  }

  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select, [contenteditable]");
    const search = document.querySelector("[data-search]");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey && search) {
      event.preventDefault();
      search.focus();
      search.select();
    }
  });

  for (const button of document.querySelectorAll("[data-copies]")) button.hidden = false;
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copies]");
    if (!button) return;
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copies).textContent);
    if (announcer) announcer.textContent = "Copied.";
    button.textContent = "Copied";
  });

  updateAges();
  setInterval(updateAges, 1000);
  if (!regions.length) return;
  if (controls) controls.hidden = false;
  if (pause) pause.addEventListener("click", () => {
    isPaused = !isPaused;
    pause.textContent = isPaused ? "Resume" : "Pause";
    regions.forEach(({ element }) => element.toggleAttribute("data-paused", isPaused));
    if (isPaused) {
      clearTimeout(timer);
      show("Paused", "This page stays as it is until you resume.");
    } else refreshAll();
  });
  document.addEventListener("visibilitychange", () => (document.hidden ? schedule() : refreshAll()));
  for (const type of ["pointermove", "pointerdown", "keydown", "scroll", "focusin"]) document.addEventListener(type, recordUse, { passive: true });
  document.addEventListener("registry:changed", updateAges);
  schedule();
});
