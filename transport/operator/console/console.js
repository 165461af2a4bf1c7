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

  // What has changed takes the place of what was there. Whoever is in the middle of
  // it, with the keyboard or the pointer, keeps it: the next change comes soon.
  const renew = async () => {
    if (busy) { again = true; return; }
    busy = true;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, credentials: "same-origin" });
      if (answer.redirected && !answer.url.startsWith(location.href.split("#")[0])) { location.reload(); return; }
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const old of document.querySelectorAll("[data-live]")) {
        const fresh = page.getElementById(old.id);
        if (!fresh || fresh.innerHTML === old.innerHTML || hasSelection(old)) continue;
        if ("append" in old.dataset) { append(old, fresh); continue; }
        const focus = old.contains(document.activeElement) ? placeOf(old, document.activeElement) : null;
        const scrolled = [...old.querySelectorAll(".drawing, [data-scroll]")].map((e) => [e.scrollLeft, e.scrollTop]);
        old.innerHTML = fresh.innerHTML;
        old.querySelectorAll(".drawing, [data-scroll]").forEach((e, i) => { if (scrolled[i]) [e.scrollLeft, e.scrollTop] = scrolled[i]; });
        if (focus !== null) old.querySelectorAll("a, button, input, select, summary, [tabindex]")[focus]?.focus({ preventScroll: true });
      }
      const asOf = document.getElementById("as-of");
      const now = page.getElementById("as-of");
      if (asOf && now) asOf.replaceWith(now);
      document.title = page.title;
      document.dispatchEvent(new CustomEvent("renewed"));
    } catch { /* the stream says when it is back */ } finally {
      busy = false;
      if (again) { again = false; renew(); }
    }
  };
  // Of a list that grows, what is the same stays: a screen reader tells only the new.
  const append = (old, fresh) => {
    const is = [...old.children];
    const will = [...fresh.children];
    let same = 0;
    while (same < is.length && same < will.length && is[same].outerHTML === will[same].outerHTML) same++;
    for (const e of is.slice(same)) e.remove();
    for (const e of will.slice(same)) old.append(document.importNode(e, true));
  };
  const placeOf = (box, e) => [...box.querySelectorAll("a, button, input, select, summary, [tabindex]")].indexOf(e);
  const hasSelection = (box) => {
    const s = document.getSelection();
    return s && !s.isCollapsed && box.contains(s.anchorNode);
  };

  const start = () => {
    source = new EventSource(main.dataset.topic);
    source.addEventListener("open", () => say("Live"));
    source.addEventListener("change", () => { say("Live"); renew(); });
    source.addEventListener("trouble", () => say("The store does not answer", "trouble"));
    source.addEventListener("error", () => { if (source) say("Connecting", "trouble"); });
  };
  const stop = () => { source?.close(); source = null; };

  const set = (paused) => {
    stop();
    if (button) button.textContent = paused ? "Go on" : "Pause";
    if (paused) { say("Paused", "paused"); return; }
    start();
  };
  const remembered = () => { try { return sessionStorage.getItem(kept) === "1"; } catch { return false; } };
  button?.addEventListener("click", () => {
    const paused = source !== null;
    try { sessionStorage.setItem(kept, paused ? "1" : "0"); } catch { /* remembered or not, it pauses */ }
    set(paused);
    if (!paused) renew();
  });
  document.addEventListener("renew", renew); // another script has done something
  addEventListener("pagehide", stop);
  addEventListener("pageshow", (e) => { if (e.persisted && !remembered()) set(false); });
  if (box) box.hidden = false;
  set(remembered());
})();
