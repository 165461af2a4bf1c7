// What the test of the popup plays: a provider, a Teams client, a browser.
import { createHash, randomUUID } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import Provider from "oidc-provider";
import { chromium } from "playwright-core";

export const bot = process.env.BOT_URL;
export const hastyBot = process.env.HASTY_BOT_URL; // whose codes are good for a second
export const issuer = process.env.ISSUER_URL;

const here = new URL(".", import.meta.url);
const teamsJS = readFileSync(new URL("node_modules/@microsoft/teams-js/dist/umd/MicrosoftTeams.min.js", here));
const hostPage = readFileSync(new URL("host.html", here));
export const teamsJSURL = "https://res.cdn.office.net/teams-js/2.58.0/js/MicrosoftTeams.min.js";
export const teamsJSHash = "sha384-" + createHash("sha384").update(teamsJS).digest("base64");

// held gets the next address that the provider sends a browser back to, in the
// place of the browser.
let held;

// The provider is the published oidc-provider, which demands PKCE.
export function startProvider() {
  const provider = new Provider(issuer, {
    clients: [{
      client_id: "bot-client",
      client_secret: process.env.CLIENT_SECRET,
      grant_types: ["authorization_code", "refresh_token"],
      redirect_uris: [`${bot}/auth/callback`, `${hastyBot}/auth/callback`],
    }],
    claims: { openid: ["sub"], profile: ["name"] },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, name: `${id} of the wiki` }) }),
    pkce: { required: () => true },
    features: { devInteractions: { enabled: true }, revocation: { enabled: true } },
    cookies: { keys: ["a key of the test"] },
    jwks: undefined,
    ttl: { AccessToken: 3600, AuthorizationCode: 60, IdToken: 3600, Interaction: 600, Session: 600, Grant: 600 },
  });
  const answer = provider.callback();
  const server = createServer((request, response) => {
    const end = response.end;
    response.end = (...args) => {
      const to = response.getHeader("location");
      if (held && to?.includes("/auth/callback?")) {
        response.removeHeader("location");
        response.statusCode = 200;
        held(to);
        held = undefined;
      }
      return end.apply(response, args);
    };
    return answer(request, response);
  });
  return new Promise((resolve) => {
    server.listen(new URL(issuer).port, "127.0.0.1", () => resolve(server));
  });
}

export function stopProvider(server) {
  server.closeAllConnections();
  return new Promise((resolve) => { server.close(resolve); });
}

export function findBrowser() {
  const places = [process.env.SIGNIN_TEST_CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
  const found = places.find((p) => p && existsSync(p));
  if (!found) throw new Error("No Chromium: set SIGNIN_TEST_CHROMIUM, or install it (Debian: apt-get install chromium).");
  return found;
}

export function startBrowser() {
  return chromium.launch({
    executablePath: findBrowser(),
    args: [
      "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
      "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    ],
  });
}

// A client is one user of Teams in a browser of his own.
export async function newClient(browser, name, options = {}) {
  const context = await browser.newContext(options.context);
  context.setDefaultTimeout(60_000);
  await context.route("https://teams.microsoft.com/**", (route) => route.fulfill({
    contentType: "text/html", body: hostPage,
  }));
  await context.route(teamsJSURL, (route) => route.fulfill({
    contentType: "text/javascript", headers: { "access-control-allow-origin": "*" }, body: options.teamsJS ?? teamsJS,
  }));
  return { context, name, aad: options.aad ?? `aad-${name}`, login: options.login ?? `wiki-${name}`, at: options.bot ?? bot };
}

// Invokes as Teams sends them.
export async function invoke(client, name, value) {
  const response = await fetch(`${client.at}/api/messages`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({
      type: "invoke", name, id: `f:${randomUUID()}`, channelId: "msteams", serviceUrl: `${issuer}/connector/`,
      from: { id: `29:${client.name}`, name: client.name, aadObjectId: client.aad }, recipient: { id: "28:bot", name: "bot" },
      conversation: { id: `a:${client.name}`, conversationType: "personal", tenantId: "t" },
      entities: [{ type: "clientInfo", locale: "en-US", country: "US", platform: "Web" }],
      value,
    }),
  });
  const text = await response.text();
  return { status: response.status, body: text ? JSON.parse(text) : undefined };
}

export async function query(client, keyword, state) {
  const value = {
    commandId: "insertWiki", parameters: [{ name: "searchKeyword", value: keyword }], queryOptions: { skip: 0, count: 25 },
  };
  if (state !== undefined) value.state = state;
  const { status, body } = await invoke(client, "composeExtension/query", value);
  if (status !== 200) throw new Error(`status ${status}: ${JSON.stringify(body)}`);
  const answer = body.composeExtension;
  return { type: answer.type, attachments: answer.attachments, url: answer.suggestedActions?.actions[0].value };
}

// openPopup does what the client does with an auth answer.
export async function openPopup(client, url, user = client.aad) {
  const host = await client.context.newPage();
  const who = user === null ? "" : `?user=${encodeURIComponent(user)}`;
  await host.goto(`https://teams.microsoft.com/host${who}`);
  const opened = host.waitForEvent("popup");
  await host.evaluate((u) => window.openPopup(u), url);
  return { host, page: await opened };
}

// signIn goes through the pages of oidc-provider.
export async function signIn(client, page, { deny = false } = {}) {
  await page.waitForSelector("input[name=login]");
  await page.fill("input[name=login]", client.login);
  await page.fill("input[name=password]", "any");
  await page.click("button[type=submit]");
  await page.waitForFunction(() => !document.querySelector("input[name=login]"));
  if (deny) {
    await page.click("a[href$='/abort']");
    return;
  }
  // The last button ends on our own page, which may close its window at once.
  await page.click("button[type=submit]", { noWaitAfter: true }).catch(() => {});
}

// ended waits for what the Teams client is told.
export async function ended(host) {
  await host.waitForFunction(() => window.ended.length > 0);
  return host.evaluate(() => window.ended);
}

// failed reads the page of a failure and presses its button.
export async function failed(host, page) {
  await page.waitForSelector("#close:not([hidden])");
  const got = {
    text: await page.locator("main").innerText(),
    said: await page.locator("#said").count() ? await page.locator("#said").innerText() : undefined,
    images: await page.locator("img").count(),
    hurt: await page.evaluate(() => window.hurt),
    status: await page.evaluate(() => performance.getEntriesByType("navigation")[0].responseStatus),
    url: page.url(),
  };
  await page.click("#close", { noWaitAfter: true });
  got.told = await ended(host);
  return got;
}

// toCallback goes through a popup up to its callback, which is not opened.
export async function toCallback(client, url) {
  const callback = new Promise((resolve) => { held = resolve; });
  const { host, page } = await openPopup(client, url);
  await signIn(client, page);
  const address = await callback;
  await page.close();
  await host.close();
  return address;
}

// openAt opens any address in a popup of a client, which fails.
export async function openAt(client, address) {
  const { host, page } = await openPopup(client, address);
  const got = await failed(host, page);
  await host.close();
  return got;
}
