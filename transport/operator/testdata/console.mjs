// Checks the console in a real browser. The Go test has staged the situations.
import { accessible, check, equal, fits, go, run, tabTo, visitor } from "../../browsertest/browser.mjs";

const base = process.env.CONSOLE;
const ids = JSON.parse(process.env.IDS);
const login = `/login?name=Ada%20Operator&token=${process.env.ACT}`;
const attempt = (name) => `/attempts/${ids[name]}`;
const pages = {
  overview: "/", attempts: "/attempts", filtered: "/attempts?state=Failed&since=24h&reason=client_failure", stuck: "/attempts?stuck=true",
  consent: attempt("consent"), killed: attempt("killed"), complete: attempt("popup"), callback: attempt("callback"), hostile: attempt("hostile"),
  waiting: attempt("waiting"), failures: `${attempt("consent")}?show=failures`, user: `/users/${encodeURIComponent(process.env.USER_ID)}`,
  without: `/users/${encodeURIComponent(ids.without)}`, connection: "/connections/graph", diagram: "/diagram", several: `/search?q=${ids.consent.slice(0, 4)}`, bulk: "/attempts/act?action=cancel", one: "/attempts/act?action=redeliver&connection=graph",
};
const refused = { "nothing found": ["/search?q=zzzz-nothing", 404], "no such attempt": ["/attempts/01ZZZZZZ", 404], "bad filter": ["/attempts?state=Foo", 400] };

const loggedIn = async (options) => {
  const context = await visitor(base, options);
  const page = await context.newPage();
  await go(page, base + login);
  return page;
};

const looks = (colorScheme) => async () => {
  const page = await loggedIn({ colorScheme });
  for (const [name, path] of Object.entries(pages)) {
    await go(page, base + path);
    await accessible(page, `${name}, ${colorScheme}`);
    equal(await page.locator("h1").count(), 1, `${name}: headings of the first level`);
  }
  for (const [name, [path, status]] of Object.entries(refused)) {
    await go(page, base + path, status);
    await accessible(page, `${name}, ${colorScheme}`);
  }
  await page.context().clearCookies();
  await go(page, base + "/login");
  await accessible(page, `login, ${colorScheme}`);
  await page.context().close();
};

await run({
  "light: every page, no error, no outside request, WCAG A and AA": looks("light"),
  "dark: the same": looks("dark"),

  "390 px wide: nothing scrolls sideways": async () => {
    const page = await loggedIn({ viewport: { width: 390, height: 844 } });
    for (const [name, path] of Object.entries(pages)) { await go(page, base + path); await fits(page, name); }
    await page.context().clearCookies();
    await go(page, base + "/login");
    await fits(page, "login");
    await page.context().close();
  },

  "hostile text is text": async () => {
    const page = await loggedIn();
    for (const path of [pages.hostile, pages.overview, pages.attempts, pages.connection, `/users/${encodeURIComponent(process.env.HOSTILE_USER)}`,
      `/attempts?user=${encodeURIComponent(process.env.HOSTILE)}`, `/users/${encodeURIComponent(process.env.HOSTILE.slice(0, 2000))}`, `/search?q=${encodeURIComponent(process.env.HOSTILE.slice(0, 2000))}`]) {
      page.expected = /Failed to load resource/;
      await page.goto(base + path);
      check(!(await page.title()).startsWith("taken"), `${path.slice(0, 60)}: a script ran`);
      equal(await page.locator("main img, main script, main iframe").count(), 0, `${path.slice(0, 60)}: foreign elements`);
      check(!/[\u202a-\u202e\u2066-\u2069\u200e\u200f\u001b]/.test(await page.locator("main").innerText()), `${path.slice(0, 60)}: a character that reorders text`);
      await fits(page, path.slice(0, 60));
    }
    check((await page.goto(base + pages.hostile)).ok() && (await page.locator("h1").innerText()).includes("<script>"), "the hostile name is not shown as it is");
    await page.context().close();
  },

  "one search box takes any id": async () => {
    const page = await loggedIn();
    for (const [what, id] of Object.entries(JSON.parse(process.env.SEARCH))) {
      await go(page, base + "/");
      await page.getByRole("searchbox").fill(id);
      await page.getByRole("searchbox").press("Enter");
      await page.waitForURL(new RegExp(what === "attempt" || what.includes("id") ? "/attempts/" : "/(users|attempts)/"));
      check((await page.locator("h1").innerText()).includes("Adele Vance"), `search by ${what}`);
    }
    await page.context().close();
  },

  "keyboard alone: from the overview to an action": async () => {
    const page = await loggedIn();
    await go(page, base + "/");
    await page.keyboard.press("Tab");
    equal(await page.evaluate(() => document.activeElement.className), "skip", "the first stop");
    await page.keyboard.press("Enter");
    await tabTo(page, `a[href="${attempt("waiting")}"]`);
    await page.keyboard.press("Enter");
    await page.waitForURL(base + attempt("waiting"));
    await tabTo(page, "#reason");
    await page.keyboard.type("the user has left");
    await tabTo(page, 'button[formaction$="/cancel"]');
    await page.keyboard.press("Enter");
    await page.getByRole("status").filter({ hasText: "Cancelled" }).waitFor();
    const told = await page.locator(".timeline").innerText();
    check(told.includes("Ada Operator") && told.includes("the user has left"), "the audit trail does not name actor and reason");
    await page.context().close();
  },

  "without JavaScript: pages, filter, search, an action on many": async () => {
    const page = await loggedIn({ javaScriptEnabled: false });
    for (const path of Object.values(pages)) {
      await go(page, base + path);
      check(await page.locator("main h1, main .headline").first().isVisible(), `${path}: nothing to see`);
    }
    await go(page, base + "/attempts");
    await page.getByLabel("CardSent").check();
    await page.getByRole("button", { name: "Filter" }).click();
    await page.getByRole("link", { name: "Cancel …" }).click();
    const before = await page.locator(".headline").innerText();
    check(/This affects \d+ attempts/.test(before), `the count is not shown first: ${before}`);
    await page.getByLabel(/^Reason/).fill("clean up");
    await page.getByRole("button", { name: /^Cancel \d+ attempts/ }).click();
    const done = await page.getByRole("status").innerText();
    equal(done.match(/\d+/)?.[0], before.match(/\d+/)?.[0], "done, of those that were counted");
    await page.context().close();
  },

  "who only looks has no actions": async () => {
    const context = await visitor(base);
    const page = await context.newPage();
    await go(page, `${base}/login`);
    await page.getByLabel("Token").fill(process.env.READ);
    await page.getByRole("button", { name: "Log in" }).click();
    await go(page, base + attempt("killed"));
    equal(await page.getByRole("button", { name: "Reconcile" }).count(), 0, "buttons of a reader");
    await go(page, `${base}/attempts/act?action=cancel`);
    equal(await page.locator("main form").count(), 0, "forms of a reader");
    await context.close();
  },

  "live, and paused": async () => {
    const page = await loggedIn();
    const other = await page.context().newPage();
    await go(page, base + attempt("killed"));
    await page.locator("#live-word", { hasText: "Live" }).waitFor();
    await go(other, base + attempt("killed"));
    await other.locator("#reason").fill("its instance is gone");
    await other.getByRole("button", { name: "Cancel" }).click();
    await page.locator("#attempt-now", { hasText: "An operator ended" }).waitFor();
    await page.getByRole("button", { name: "Pause" }).click();
    equal(await page.locator("#live-word").innerText(), "Paused", "paused");
    await page.reload();
    equal(await page.locator("#live-word").innerText(), "Paused", "still paused on the next page");
    await page.context().close();
  },
});
