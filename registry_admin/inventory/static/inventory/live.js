/* Keeps the parts of a page that are marked data-live current: asks every 3 s while the page is seen and used, seldom
   otherwise, and changes only what has changed, so that focus, scroll and open folds stay. */
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  const OFTEN_MS = 3000, SELDOM_MS = 60000, IN_USE_MS = 300000, PATIENCE_MS = 10000;
  const regions = [...document.querySelectorAll("[data-live]")].map((element) => ({ element, etag: "" }));
  const controls = document.getElementById("live-controls");
  const state = document.getElementById("live-state");
  const pause = document.getElementById("live-pause");
  const said = document.getElementById("live-said");
  let paused = false, timer = 0, usedAt = Date.now(), told = announcement();

  function announcement() {
    return [...document.querySelectorAll("[data-announce]")].map((element) => element.textContent.trim().replace(/\s+/g, " ")).join(". ");
  }

  function show(word, detail) {
    if (!state || state.dataset.state === word) return;
    state.dataset.state = word;
    state.textContent = word;
    state.title = detail;
    if (said && word !== "Live") said.textContent = `${word}. ${detail}`;
  }

  /* What the reader is doing is theirs: folds that they opened, boxes that they ticked, text that they typed. */
  const isTouched = (node) =>
    node instanceof HTMLInputElement && (node.checked !== node.defaultChecked || node.value !== node.defaultValue);
  const keep = {
    morphStyle: "innerHTML",
    restoreFocus: true,
    callbacks: {
      beforeNodeMorphed: (before) => !isTouched(before) && !(before instanceof Element && before.hasAttribute("data-keep")),
      beforeAttributeUpdated: (name, node) => !(name === "open" && node instanceof HTMLDetailsElement),
    },
  };

  async function look(region) {
    const url = region.element.dataset.live || location.href;
    const headers = { "X-Registry-Live": "1" };
    if (region.etag) headers["If-None-Match"] = region.etag;
    const reply = await fetch(url, { headers, redirect: "manual", cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    if (reply.status === 401 || reply.type === "opaqueredirect") throw new Error("You have been logged out: reload the page to log in.");
    if (reply.status === 304) return;
    if (!reply.ok && reply.status !== 404) throw new Error(`Registry Admin answered ${reply.status}.`);
    const html = await reply.text(); // that of a 404 says that what was shown is gone
    region.etag = reply.headers.get("ETag") || "";
    Idiomorph.morph(region.element, html, keep);
    region.element.dispatchEvent(new CustomEvent("registry:changed", { bubbles: true }));
  }

  async function lookAtAll() {
    clearTimeout(timer);
    if (paused) return;
    try {
      await Promise.all(regions.map(look));
      regions.forEach(({ element }) => element.removeAttribute("data-offline"));
      show("Live", "This page keeps itself current.");
      const now = announcement();
      if (said && now !== told) said.textContent = told = now;
    } catch (error) {
      regions.forEach(({ element }) => element.setAttribute("data-offline", ""));
      show("Offline", error instanceof TypeError || error.name === "TimeoutError"
        ? "This page has lost touch with Registry Admin: what you see may be old. Trying again." : error.message);
    }
    schedule();
  }

  function schedule() {
    clearTimeout(timer);
    if (paused) return;
    const isUsed = !document.hidden && Date.now() - usedAt < IN_USE_MS;
    timer = setTimeout(lookAtAll, isUsed ? OFTEN_MS : SELDOM_MS);
  }

  function used() {
    const wasAway = Date.now() - usedAt >= IN_USE_MS;
    usedAt = Date.now();
    if (wasAway) lookAtAll();
  }

  function tellAges() {
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
    if (said) said.textContent = "Copied.";
    button.textContent = "Copied";
  });

  tellAges();
  setInterval(tellAges, 1000);
  if (!regions.length) return;
  if (controls) controls.hidden = false;
  if (pause) pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "Resume" : "Pause";
    regions.forEach(({ element }) => element.toggleAttribute("data-paused", paused));
    if (paused) {
      clearTimeout(timer);
      show("Paused", "This page stays as it is until you resume.");
    } else lookAtAll();
  });
  document.addEventListener("visibilitychange", () => (document.hidden ? schedule() : lookAtAll()));
  for (const what of ["pointermove", "pointerdown", "keydown", "scroll", "focusin"]) document.addEventListener(what, used, { passive: true });
  document.addEventListener("registry:changed", tellAges);
  schedule();
});
