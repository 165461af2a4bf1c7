// What the browser tests share: Chromium without a way out, the accessibility
// rules, and a list of what was found wrong.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const require = createRequire(import.meta.url);
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const found = [];
export const check = (holds, what) => { if (!holds) found.push(what); return holds; };
export const equal = (got, want, what) => check(got === want, `${what}: ${JSON.stringify(got)}, want ${JSON.stringify(want)}`);

let browser;

/** A visitor is a browser of its own: options are Playwright's, and "also", a pattern of addresses beside the base. */
export const visitor = async (base, { also, ...options } = {}) => {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  context.setDefaultTimeout(15_000);
  const watch = (page) => {
    page.on("console", (m) => check(m.type() !== "error" && m.type() !== "warning" || page.expected?.test(m.text()), `${page.url()}: console: ${m.text()}`));
    page.on("pageerror", (e) => check(false, `${page.url()}: error: ${e.message}`));
    page.on("request", (r) => check(r.url().startsWith(base) || also?.test(r.url()), `${page.url()}: outside request: ${r.url().slice(0, 200)}`));
    page.on("dialog", (d) => { check(false, `${page.url()}: a dialog opened`); d.dismiss(); });
  };
  context.on("page", watch);
  return context;
};

/** Goes to an address and says so if it is not answered with the status. */
export const go = async (page, url, status = 200) => {
  if (status >= 400) page.expected = /Failed to load resource/;
  const answer = await page.goto(url);
  equal(answer?.status(), status, `${url}: status`);
  page.expected = undefined;
  return answer;
};

/** WCAG A and AA. */
export const accessible = async (page, what) => {
  await page.evaluate(axe);
  const result = await page.evaluate(() => window.axe.run(document, {
    runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"], resultTypes: ["violations"],
  }));
  for (const v of result.violations) {
    check(false, `${what}: ${v.id}: ${v.help}: ${v.nodes.slice(0, 3).map((n) => n.html.slice(0, 160) + " – " + (n.any[0]?.message ?? "")).join(" | ")}`);
  }
};

/** No sideways scrolling. */
export const fits = async (page, what) => {
  const [is, has] = await page.evaluate(() => [document.documentElement.scrollWidth, window.innerWidth]);
  check(is <= has, `${what}: ${is} px wide in a window of ${has} px`);
};

/** Presses Tab until an element has the focus, as somebody without a mouse. */
export const tabTo = async (page, selector, most = 120) => {
  for (let i = 0; i < most; i++) {
    await page.keyboard.press("Tab");
    if (await page.evaluate((s) => document.activeElement?.matches(s), selector)) {
      const seen = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle !== "none");
      return check(seen, `${selector}: the focus cannot be seen`);
    }
  }
  return check(false, `${page.url()}: ${selector} is not reached with the Tab key`);
};

/** Runs the scenes one after the other and reports. */
export const run = async (scenes) => {
  browser = await chromium.launch({
    executablePath: process.env.SIGNIN_TEST_CHROMIUM,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"],
  });
  try {
    for (const [name, scene] of Object.entries(scenes)) {
      const before = found.length, began = Date.now();
      try { await scene(); } catch (e) { check(false, String(e.message ?? e).split("\n").slice(0, 12).join("\n  ")); }
      console.log(`${found.length === before ? "ok    " : "FAILED"} ${name} (${((Date.now() - began) / 1000).toFixed(1)} s)`);
      for (const f of found.slice(before, before + 20)) console.log(`    ${f}`);
    }
  } finally {
    await browser.close();
  }
  if (found.length > 0) process.exitCode = 1;
};
