/* Keeps the live pane of a service current: asks every 3 s while the page is seen, and changes it only if it changed. */
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  const pane = document.getElementById("live-pane");
  if (!pane) return;
  let etag = "";

  const opened = () => new Map([...pane.querySelectorAll("details[data-key]")].map((fold) => [fold.dataset.key, fold.open]));

  async function look() {
    if (!document.hidden) {
      try {
        const headers = etag ? { "If-None-Match": etag } : {};
        const reply = await fetch(pane.dataset.url, { headers, redirect: "error" });
        if (!reply.ok && reply.status !== 304) throw new Error(reply.statusText);
        if (reply.status === 200) {
          etag = reply.headers.get("ETag") || "";
          const folds = opened();
          pane.innerHTML = await reply.text();
          for (const fold of pane.querySelectorAll("details[data-key]")) {
            if (folds.has(fold.dataset.key)) fold.open = folds.get(fold.dataset.key);
          }
        }
        pane.removeAttribute("data-offline");
      } catch {
        pane.setAttribute("data-offline", "");
      }
    }
    setTimeout(look, 3000);
  }
  setTimeout(look, 3000);
});
