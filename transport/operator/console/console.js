// Keeps a page up to date. The page works without it.
"use strict";
(() => {
  const main = document.querySelector("main[data-topic]");
  const box = document.getElementById("live");
  if (!main || !window.EventSource) return;

  const word = document.getElementById("live-word");
  const button = document.getElementById("live-pause");
  const kept = "signin-engine.paused";
  let source = null;
  let busy = false;
  let again = false;

  const say = (text, state) => {
    if (!box) return;
    box.classList.remove("paused", "trouble");
    if (state) box.classList.add(state);
    if (word.textContent !== text) word.textContent = text;
  };

  // The browser makes a click of a press only if the element is still there when the
  // press ends. So a change that comes during a press is shown after it.
  let pressed = false;
  const press = () => { pressed = true; };
  const release = () => {
    pressed = false;
    if (again && !busy) { again = false; setTimeout(renew); } // after the click
  };
  addEventListener("pointerdown", press);
  addEventListener("keydown", (e) => { if (e.key === " ") press(); });
  for (const end of ["pointerup", "pointercancel", "dragend", "contextmenu", "keyup", "blur"]) addEventListener(end, release);

  const renew = async () => {
    if (busy || pressed) { again = true; return; }
    busy = true;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, credentials: "same-origin" });
      if (answer.redirected && !answer.url.startsWith(location.href.split("#")[0])) { location.reload(); return; }
      if (answer.status >= 500) throw new Error(answer.statusText);
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (pressed) { again = true; return; }
      for (const old of document.querySelectorAll("[data-live]")) {
        const fresh = page.getElementById(old.id);
        if (fresh && !hasSelection(old)) turn(old, fresh);
      }
      const asOf = document.getElementById("as-of");
      const now = page.getElementById("as-of");
      if (asOf && now) turn(asOf, now);
      document.title = page.title;
      document.dispatchEvent(new CustomEvent("renewed"));
    } catch { setTimeout(() => { if (source) renew(); }, 2000); } finally {
      busy = false;
      if (again && !pressed) { again = false; renew(); }
    }
  };
  // Changes a node into the one that the server has sent. It does not touch parts that
  // are equal, so they keep their focus, scroll position, input and open state, and
  // screen readers announce only what is new.
  const turn = (is, will) => {
    if (is.nodeType !== Node.ELEMENT_NODE) { if (is.data !== will.data) is.data = will.data; return; }
    const own = (name) => is.nodeName === "DETAILS" && name === "open"; // the reader sets it, not the server
    for (const { name } of [...is.attributes]) if (!will.hasAttribute(name) && !own(name)) is.removeAttribute(name);
    for (const { name, value } of will.attributes) {
      if (is.getAttribute(name) === value || own(name)) continue;
      is.setAttribute(name, value);
      if (name === "selected") is.selected = true;
    }
    // Lists grow at one end, so skip the children that are equal at either end.
    const before = [...is.childNodes];
    const after = [...will.childNodes];
    let end = null;
    while (before.length > 0 && after.length > 0 && before[0].isEqualNode(after[0])) { before.shift(); after.shift(); }
    while (before.length > 0 && after.length > 0 && before.at(-1).isEqualNode(after.at(-1))) { end = before.pop(); after.pop(); }
    for (const child of after) {
      const at = before.findIndex((e) => alike(e, child));
      if (at < 0) { is.insertBefore(document.importNode(child, true), before[0] ?? end); continue; }
      for (const e of before.splice(0, at)) e.remove();
      turn(before.shift(), child);
    }
    for (const e of before) e.remove();
  };
  const alike = (a, b) => a.nodeName === b.nodeName && a.id === b.id && a.className === b.className;
  const hasSelection = (box) => {
    const s = document.getSelection();
    return s && !s.isCollapsed && box.contains(s.anchorNode);
  };

  const start = () => {
    source = new EventSource(main.dataset.topic);
    source.addEventListener("open", () => { say("Live"); renew(); }); // there was no stream until now, so there may be changes
    source.addEventListener("change", () => { say("Live"); renew(); });
    source.addEventListener("trouble", () => say("The store does not answer", "trouble"));
    source.addEventListener("error", () => { if (source) say("Connecting", "trouble"); });
  };
  const stop = () => { source?.close(); source = null; };

  const set = (paused) => {
    stop();
    if (button) button.textContent = paused ? "Resume" : "Pause";
    if (paused) { say("Paused", "paused"); return; }
    start();
  };
  const remembered = () => { try { return sessionStorage.getItem(kept) === "1"; } catch { return false; } };
  button?.addEventListener("click", () => {
    const paused = source !== null;
    try { sessionStorage.setItem(kept, paused ? "1" : "0"); } catch { /* without storage it pauses this page only */ }
    set(paused);
  });
  document.addEventListener("renew", renew); // sent by other scripts after an action
  addEventListener("pagehide", stop);
  addEventListener("pageshow", (e) => { if (e.persisted && !remembered()) set(false); });
  if (box) box.hidden = false;
  set(remembered());
})();
