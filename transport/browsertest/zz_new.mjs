import { chromium } from "playwright-core";
const [play, consoleLink] = process.argv.slice(2);
const b = await chromium.launch({ executablePath: process.env.SIGNIN_TEST_CHROMIUM || "/usr/bin/chromium", args: ["--no-sandbox"] });
const shots = "/tmp/win-shots/";
const page = await (await b.newContext({ viewport: { width: 1280, height: 860 } })).newPage();
await page.goto(play);
await page.getByRole("button", { name: "login graph" }).click();
await page.locator("#talk", { hasText: "Connected to Microsoft Graph" }).waitFor({ timeout: 30000 });
console.log("SIGNED IN", Date.now());
if (!consoleLink) process.exit(0);
for (const [scheme, width] of [["light", 1280], ["dark", 1280], ["light", 390]]) {
  const c = await b.newContext({ colorScheme: scheme, viewport: { width, height: 860 } });
  const p = await c.newPage();
  await p.goto(play); await p.waitForTimeout(600);
  await p.screenshot({ path: `${shots}play-${scheme}-${width}.png`, fullPage: true });
  await p.goto(consoleLink);
  const base = new URL(consoleLink).origin;
  for (const [n, u] of [["overview", "/"], ["attempts", "/attempts"], ["diagram", "/diagram"], ["connection", "/connections/graph"], ...(process.env.EXTRA ? JSON.parse(process.env.EXTRA) : [])]) {
    await p.goto(base + u); await p.waitForTimeout(200);
    await p.screenshot({ path: `${shots}${n}-${scheme}-${width}.png`, fullPage: true });
  }
  await p.goto(base + "/attempts"); await p.locator("a.row").first().click(); await p.waitForTimeout(300);
  await p.screenshot({ path: `${shots}attempt-${scheme}-${width}.png`, fullPage: true });
}
await b.close();
