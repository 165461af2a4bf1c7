// Opens the sign-in window, and submits forms without reloading the page. Without
// this script the window is a tab, its code has to be typed, and forms reload the page.
"use strict";
(() => {
  const form = (values) => fetch("/playground/do", { method: "POST", body: new URLSearchParams(values), redirect: "follow" });
  const renew = () => document.dispatchEvent(new Event("renew"));
  const talk = () => document.getElementById("talk");
  const down = () => { const t = talk(); if (t) t.scrollTop = t.scrollHeight; };

  let lines = 0;
  document.addEventListener("renewed", () => {
    const t = talk();
    if (t && t.childElementCount !== lines) { lines = t.childElementCount; down(); }
  });
  down();

  document.addEventListener("submit", async (e) => {
    const f = e.target;
    if (new URL(f.action).pathname !== "/playground/do") return;
    e.preventDefault();
    const values = new FormData(f, e.submitter);
    const text = f.querySelector("input[name=text], input[name=code]");
    if (text) text.value = "";
    const answer = await form(values);
    if (new URL(answer.url).search) { location.assign(answer.url); return; }
    renew();
  });

  // A choice from a list takes effect at once.
  document.addEventListener("change", (e) => { if (e.target.matches(".set select")) e.target.form.requestSubmit(); });

  let popup = null;
  document.addEventListener("click", (e) => {
    const link = e.target.closest("a.popup");
    if (!link || e.ctrlKey || e.metaKey || e.shiftKey) return;
    e.preventDefault();
    const device = document.getElementById("from")?.value ?? "";
    const at = `popup,width=480,height=560,left=${screenX + (outerWidth - 480) / 2},top=${screenY + 120}`;
    const window = open(link.href, "signin", at);
    if (!window) { location.assign(link.href); return; }
    const extension = link.dataset.extension ? new URL(link.href).origin : "";
    popup = { window, card: link.dataset.card, device, extension };
    const watch = setInterval(async () => {
      if (popup?.window !== window) { clearInterval(watch); return; }
      if (!window.closed) return;
      clearInterval(watch);
      const { card, device, extension } = popup;
      popup = null;
      await form(extension ? { do: "search-cancel" } : { do: "close", card, device });
      renew();
    }, 300);
  });
  // The popup of the message extension is a page of the bot, which has another origin.
  addEventListener("message", async (e) => {
    if (!popup?.extension || e.origin !== popup.extension || e.source !== popup.window || e.data?.type !== "extension") return;
    const { window } = popup;
    popup = null;
    window.close();
    const { code, reason } = e.data;
    await form(code ? { do: "search-code", code, who: document.getElementById("brings").value } : { do: "search-failed", reason });
    renew();
  });
  addEventListener("message", async (e) => {
    if (e.origin !== location.origin || !popup || e.source !== popup.window || e.data?.type !== "signin") return;
    const { window, card, device } = popup;
    popup = null;
    window.close();
    await form(e.data.state === "CancelledByUser" ? { do: "close", card, device } : { do: "code", code: e.data.state, card, device });
    renew();
  });
})();
