// The popup of a message extension in a real browser, with the published TeamsJS
// and the published oidc-provider, from the query to the result, and each way in
// which it fails.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import {
  bot, ended, failed, findBrowser, hastyBot, newClient, openAt, openPopup, query, signIn, startBrowser, startProvider,
  stopProvider, teamsJSHash, toCallback,
} from "./world.mjs";

const bounded = { timeout: 240_000 };
let provider, browser;
let users = 0;
const client = (options) => newClient(browser, options?.name ?? `user${++users}`, options);

before(async () => {
  findBrowser();
  provider = await startProvider();
  browser = await startBrowser();
});
after(async () => {
  await browser?.close();
  if (provider) await stopProvider(provider);
});

// run is the way from a query to the code.
async function run(who) {
  const asked = await query(who, "lakers");
  assert.equal(asked.type, "auth");
  const { host, page } = await openPopup(who, asked.url);
  await signIn(who, page);
  const told = await ended(host);
  return { asked, host, page, code: told[0].success, told };
}

test("from the query to the result", bounded, async () => {
  const who = await client({ name: "alice" });
  const violations = [];
  who.context.on("console", (m) => { if (/Content Security Policy/.test(m.text())) violations.push(m.text()); });
  const { host, code, told } = await run(who);
  assert.equal(told.length, 1);
  assert.match(code, /^[A-Za-z0-9_-]{22}$/);
  await host.waitForFunction(() => window.isClosed());
  const result = await query(who, "lakers", code);
  assert.equal(result.type, "result");
  assert.match(JSON.stringify(result.attachments), /wiki-alice of the wiki/);
  assert.equal((await query(who, "bulls")).type, "result");
  // The list of hosts that TeamsJS asks its own server for is refused to it. It has
  // one built in.
  assert.deepEqual(violations.filter((v) => !/connect/i.test(v)), []);
  await who.context.close();
});

test("the hash of the page is that of the published TeamsJS", bounded, async () => {
  const page = await (await fetch(`${bot}/auth/callback?state=x`)).text();
  assert.ok(page.replaceAll("&#43;", "+").includes(`integrity="${teamsJSHash}"`));
});

test("a host that does not say who its user is", bounded, async () => {
  const who = await client();
  const asked = await query(who, "lakers");
  const { host, page } = await openPopup(who, asked.url, null);
  await signIn(who, page);
  const told = await ended(host);
  assert.equal((await query(who, "lakers", told[0].success)).type, "result");
  await who.context.close();
});

test("the popup is closed", bounded, async () => {
  const who = await client();
  const asked = await query(who, "lakers");
  const { host, page } = await openPopup(who, asked.url);
  await page.waitForSelector("input[name=login]");
  await page.close();
  await host.waitForFunction(() => window.isClosed());
  const answer = await query(who, "lakers", "CancelledByUser");
  assert.deepEqual([answer.type, answer.attachments], ["result", []]);
  assert.equal((await query(who, "lakers")).type, "auth");
  await who.context.close();
});

test("consent is denied", bounded, async () => {
  const who = await client();
  const asked = await query(who, "lakers");
  const { host, page } = await openPopup(who, asked.url);
  await signIn(who, page, { deny: true });
  const got = await failed(host, page);
  assert.deepEqual(got.told, [{ failure: "access_denied" }]);
  assert.match(got.text, /not signed in/);
  assert.match(got.text, /access_denied/);
  assert.equal(got.url, `${bot}/auth/callback`, "the history keeps the query");
  await who.context.close();
});

test("an expired code", bounded, async () => {
  const who = await client({ bot: hastyBot });
  const { code } = await run(who);
  await new Promise((resolve) => { setTimeout(resolve, 1500); });
  assert.equal((await query(who, "lakers", code)).type, "auth");
  await who.context.close();
});

test("a used code, and another user's", bounded, async () => {
  const who = await client(), eve = await client();
  const { code } = await run(who);
  assert.equal((await query(eve, "lakers")).type, "auth");
  assert.equal((await query(eve, "lakers", code)).type, "auth", "another user's");
  assert.equal((await query(who, "lakers", code)).type, "result");
  assert.equal((await query(eve, "lakers", code)).type, "auth", "used, by another user");
  assert.equal((await query(who, "lakers", code)).type, "result", "a repeat by its own user");
  await who.context.close();
  await eve.context.close();
});

test("another browser's state", bounded, async () => {
  const who = await client(), other = await client();
  const asked = await query(who, "lakers");
  const callback = await toCallback(who, asked.url);
  const stolen = await openAt(other, callback);
  assert.deepEqual(stolen.told, [{ failure: "other_browser" }]);
  assert.equal(stolen.status, 403);
  // It is still good in its own.
  const { host } = await openPopup(who, callback);
  assert.equal((await query(who, "lakers", (await ended(host))[0].success)).type, "result");
  const again = await openAt(who, callback);
  assert.deepEqual(again.told, [{ failure: "state_unknown" }], "a callback that is opened again");
  await who.context.close();
  await other.context.close();
});

test("a tampered state", bounded, async () => {
  const who = await client();
  const asked = await query(who, "lakers");
  const callback = new URL(await toCallback(who, asked.url));
  const state = callback.searchParams.get("state");
  callback.searchParams.set("state", (state[0] === "a" ? "b" : "a") + state.slice(1));
  const got = await openAt(who, callback.href);
  assert.deepEqual(got.told, [{ failure: "state_unknown" }]);
  assert.equal(got.status, 400);
  await who.context.close();
});

test("a popup that another user of Teams began", bounded, async () => {
  // Any app of Teams can open any address: eve's link in the client of her victim.
  const eve = await client(), victim = await client();
  const asked = await query(eve, "lakers");
  const { host, page } = await openPopup(victim, asked.url);
  await signIn(victim, page);
  const got = await failed(host, page);
  assert.deepEqual(got.told, [{ failure: "other_user" }]);
  assert.match(got.text, /not signed in[\s\S]*another Teams user/);
  await eve.context.close();
  await victim.context.close();
});

test("a page that is no Teams client opens the popup", bounded, async () => {
  const who = await client();
  await who.context.route("https://evil.example/**", (route) => route.fulfill({
    contentType: "text/html",
    body: `<!doctype html><script>
      window.got = [];
      addEventListener("message", (e) => {
        got.push(JSON.stringify(e.data));
        if (e.data.func === "initialize") e.source.postMessage({ id: e.data.id, uuidAsString: e.data.uuidAsString,
          args: ["authentication", "web", '{"apiVersion":4,"hostVersionsInfo":{},"isLegacyTeams":false,"supports":{}}', "2.58.0"] }, "*");
      });
    </script>`,
  }));
  const asked = await query(who, "lakers");
  const evil = await who.context.newPage();
  await evil.goto("https://evil.example/");
  const opened = evil.waitForEvent("popup");
  await evil.evaluate((u) => { window.open(u); }, asked.url);
  const page = await opened;
  await signIn(who, page);
  await page.waitForSelector("#stay:not([hidden])");
  const code = await page.locator("#result").getAttribute("data-code");
  assert.match(code, /^.{22}$/);
  const got = await evil.evaluate(() => window.got);
  assert.ok(got.length > 0, "it was asked who it is");
  assert.ok(!got.some((m) => m.includes(code)), "the code went to a page that is no Teams client");
  await who.context.close();
});

test("TeamsJS that was tampered with", bounded, async () => {
  const who = await client({ teamsJS: "window.stolen = document.getElementById('result').dataset.code;" });
  const asked = await query(who, "lakers");
  const { page } = await openPopup(who, asked.url);
  await signIn(who, page);
  await page.waitForSelector("#stay:not([hidden])");
  assert.equal(await page.evaluate(() => window.stolen), undefined);
  assert.match(await page.locator("main").innerText(), /return to Teams/);
  await who.context.close();
});

test("the provider's error text has markup", bounded, async () => {
  const who = await client();
  const asked = await query(who, "lakers");
  const callback = new URL(await toCallback(who, asked.url));
  callback.searchParams.delete("code");
  callback.searchParams.set("error", "server_error");
  callback.searchParams.set("error_description", "<img src=x onerror=\"window.hurt=1\"><script>window.hurt=1</script>");
  const got = await openAt(who, callback.href);
  assert.deepEqual(got.told, [{ failure: "provider_error" }]);
  assert.match(got.said, /<script>window\.hurt=1<\/script>/);
  assert.deepEqual([got.hurt, got.images], [undefined, 0]);
  await who.context.close();
});

test("light, dark, and without style", bounded, async () => {
  const colour = async (scheme, block) => {
    const who = await client({ context: { colorScheme: scheme } });
    if (block) await who.context.route("**/auth/page.css", (route) => route.abort());
    const page = await who.context.newPage();
    await page.goto(`${bot}/auth/callback?state=x`);
    assert.match(await page.locator("main").innerText(), /You are not signed in[\s\S]*return to Teams/);
    const got = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const width = await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth);
    assert.ok(width, "the page is wider than its window");
    await who.context.close();
    return got;
  };
  const light = await colour("light"), dark = await colour("dark");
  assert.notEqual(light, dark);
  assert.match(dark, /rgb\(31, 31, 31\)/);
  await colour("light", true);
});

test("the provider is down", bounded, async () => {
  const who = await client();
  const asked = await query(who, "lakers");
  const callback = await toCallback(who, asked.url);
  await stopProvider(provider);
  const got = await openAt(who, callback);
  assert.deepEqual(got.told, [{ failure: "provider_unavailable" }]);
  assert.match(got.text, /is not responding/);
  provider = await startProvider();
  const { code } = await run(who);
  assert.equal((await query(who, "lakers", code)).type, "result");
  await who.context.close();
});
