// The playground in a real browser, with the real bot behind it.
import { accessible, check, equal, fits, go, run, tabTo, visitor } from "../../../../../transport/browsertest/browser.mjs";

const base = process.env.PLAYGROUND;

// The popup of the message extension is a page of the bot, on its own port.
const opened = async (options) => {
  const context = await visitor(base, { also: /^http:\/\/127\.0\.0\.1:\d+\/auth\//, ...options });
  const page = await context.newPage();
  await go(page, base + "/");
  return page;
};
const talk = (page, text) => page.locator("#talk", { hasText: text }).waitFor();
const story = (page, text) => page.locator("#attempt", { hasText: text }).waitFor();
const fresh = async (page) => {
  await page.getByRole("button", { name: "Start over" }).click();
  await page.locator("#talk .empty").waitFor();
};
const popup = async (page) => {
  const [window] = await Promise.all([page.context().waitForEvent("page"), page.locator("a.popup").last().click()]);
  await window.waitForLoadState();
  return window;
};

const found = (page, text) => page.locator("#found", { hasText: text }).waitFor();
const search = async (page, text) => {
  await page.getByPlaceholder("Search, as in Teams").fill(text);
  await page.getByRole("button", { name: "Search" }).click();
};
// consent goes through the popup of the message extension.
const consent = async (page, button = "Allow") => {
  const window = await popup(page);
  await accessible(window, "the provider's page");
  await window.getByRole("button", { name: button }).click({ noWaitAfter: true }).catch(() => undefined);
  return window;
};

const looks = (colorScheme) => async () => {
  const page = await opened({ colorScheme });
  await accessible(page, `empty, ${colorScheme}`);
  await fresh(page);
  await page.getByRole("button", { name: "login graph" }).click();
  await story(page, "silently by single sign-on");
  await search(page, "lakers");
  await found(page, "auth");
  await page.getByText("The answer", { exact: true }).click();
  await page.getByRole("button", { name: "Web" }).click();
  await page.getByLabel("Answer", { exact: true }).selectOption("503");
  await page.getByLabel("How often").selectOption("0");
  await page.getByRole("button", { name: "Add the fault" }).click();
  await page.locator("#faults", { hasText: "503" }).waitFor();
  await accessible(page, `in use, ${colorScheme}`);
  await page.getByRole("button", { name: "Remove them all" }).click();
  await page.locator("#faults", { hasText: "everything works" }).waitFor();
  await page.context().close();
};

await run({
  "light: no error, no outside request, WCAG A and AA; a silent sign-in": looks("light"),
  "dark: the same": looks("dark"),

  "the button opens the sign-in page, and its code comes back": async () => {
    const page = await opened();
    await fresh(page);
    await page.getByRole("button", { name: "login github" }).click();
    await page.locator("a.popup").waitFor();
    const window = await popup(page);
    await accessible(window, "the sign-in page");
    await window.getByRole("button", { name: "Sign in" }).click();
    await talk(page, "Connected to GitHub");
    await story(page, "through the sign-in window");
    check(window.isClosed(), "the window stays open");
    equal(new URL(page.url()).pathname, "/", "the page stays where it is");
    await page.context().close();
  },

  "the window closed, cancelled, and a code typed": async () => {
    const page = await opened();
    await fresh(page);
    await page.getByRole("button", { name: "login github" }).click();
    await page.locator("a.popup").waitFor();
    await (await popup(page)).close();
    await talk(page, "CancelledByUser");
    await story(page, "closed the sign-in window");
    const window = await popup(page);
    await Promise.all([window.waitForEvent("close"), window.getByRole("button", { name: "Cancel" }).click()]);
    await page.getByLabel("Type a code").fill("000000");
    await page.getByRole("button", { name: "Hand over" }).click();
    await story(page, "refused the code");
    await page.context().close();
  },

  "a failure code, two devices, a duplicate": async () => {
    const page = await opened();
    await fresh(page);
    await page.getByRole("button", { name: "iOS" }).click();
    await page.getByRole("group", { name: "iOS" }).waitFor();
    await page.getByRole("group", { name: "iOS" }).getByLabel("On a sign-in card").selectOption("twice");
    await page.getByRole("button", { name: "login graph" }).click();
    await talk(page, "once more");
    await story(page, "silently by single sign-on");
    await fresh(page);
    await page.getByLabel("On a sign-in card").selectOption("fail:resourcematchfailed");
    await page.getByRole("button", { name: "login graph" }).click();
    await story(page, "Application ID URI");
    await page.context().close();
  },

  "message extension: a search, the popup, the result; the code again, and stolen": async () => {
    const page = await opened();
    await fresh(page);
    await search(page, "lakers");
    await found(page, "auth");
    await consent(page);
    await found(page, "Signed in to wiki");
    await story(page, "wiki");
    await page.locator("#attempt", { hasText: "Complete" }).waitFor();
    await page.getByRole("button", { name: "Bring the code once more" }).click();
    await talk(page, "popup's code");
    await found(page, "Signed in to wiki");
    await page.getByRole("button", { name: "Somebody else brings it" }).click();
    await found(page, "to Somebody else");
    await found(page, "auth");
    await search(page, "bulls");
    await found(page, "Signed in to wiki");
    await page.context().close();
  },

  "message extension: cancelled, denied, a code that was stolen before it was used": async () => {
    const page = await opened();
    await fresh(page);
    await search(page, "lakers");
    await found(page, "auth");
    await page.getByRole("button", { name: "Cancel" }).click();
    await found(page, "An empty list");
    await search(page, "lakers");
    await found(page, "auth");
    await (await popup(page)).close();
    await found(page, "An empty list");
    await search(page, "lakers");
    await found(page, "auth");
    const window = await consent(page, "Deny");
    await window.getByText("Access was denied").waitFor();
    await accessible(window, "the page of a failure");
    await window.getByRole("button", { name: "Close" }).click({ noWaitAfter: true }).catch(() => undefined);
    await found(page, "access_denied");
    await page.getByLabel("code is brought by").selectOption("other");
    await consent(page);
    await found(page, "to Somebody else");
    await found(page, "auth");
    await page.getByRole("button", { name: "Bring the code once more" }).click();
    await found(page, "Signed in to wiki");
    await page.context().close();
  },

  "group chat: only the one who asked sees the card": async () => {
    const page = await opened();
    await fresh(page);
    await page.getByRole("button", { name: "Group chat" }).click();
    await page.locator('[aria-pressed="true"]', { hasText: "Group chat" }).waitFor();
    await page.getByRole("button", { name: "login github" }).click();
    await page.locator("#talk", { hasText: "sees it" }).waitFor();
    await page.context().close();
  },

  "keyboard alone": async () => {
    const page = await opened();
    await fresh(page);
    await go(page, base + "/");
    await tabTo(page, "#text");
    await page.keyboard.type("login graph");
    await page.keyboard.press("Enter");
    await story(page, "silently by single sign-on");
    await page.context().close();
  },

  "what is written is text": async () => {
    const page = await opened();
    await fresh(page);
    const text = `<img src=x onerror="document.title='taken'"><script>document.title='taken'</script>\u202e` + "W".repeat(10_000);
    await page.getByPlaceholder("Type a message").fill(text);
    await page.getByRole("button", { name: "Send", exact: true }).click();
    await page.locator(".said.mine").waitFor();
    equal(await page.locator("main img, main script").count(), 0, "foreign elements");
    check(!(await page.title()).startsWith("taken"), "a script ran");
    await fits(page, "a long message");
    await page.context().close();
  },

  "what is in hand stays when the page changes: a text, what is open, the focus, a press; what it missed comes": async () => {
    const page = await opened();
    await fresh(page);
    const another = (values) => page.request.post(base + "/playground/do", { form: values });
    await search(page, "lakers");
    await found(page, "auth");
    await page.getByText("The answer", { exact: true }).click();
    const code = page.getByLabel("Type a code");
    await code.fill("1234");
    await another({ do: "device-add", name: "iOS" });
    await page.getByRole("group", { name: "iOS" }).waitFor();
    equal(await code.first().inputValue(), "1234", "the text");
    equal(await page.evaluate(() => document.activeElement.id), await code.first().getAttribute("id"), "the focus");
    await another({ do: "search-code", code: "guessed", who: "other" });
    await found(page, "to Somebody else");
    check(await page.locator("#found details").evaluate((d) => d.open), "what was open is closed");

    const other = await page.context().newPage();
    await go(other, base + "/");
    const cancel = page.locator("#found").getByRole("button", { name: "Cancel" });
    await cancel.hover();
    await page.mouse.down();
    await another({ do: "search-failed", reason: "denied" });
    await found(other, "denied");
    await page.waitForTimeout(700); // each page has a stream of its own
    check(!(await page.locator("#found").innerText()).includes("denied"), "the page changes under a press");
    await page.mouse.up();
    await found(page, "An empty list");
    await page.locator("#extension").hover(); // a press that does nothing
    await page.mouse.down();
    await another({ do: "search-failed", reason: "late" });
    await found(other, "late");
    await page.waitForTimeout(700);
    await page.mouse.up();
    await found(page, "late");

    page.expected = other.expected = /ERR_INTERNET_DISCONNECTED/;
    await page.context().setOffline(true);
    await another({ do: "search-failed", reason: "unheard" });
    await page.waitForTimeout(700);
    await page.context().setOffline(false);
    await found(page, "unheard");
    await page.route("**/playground/events", async (route) => { await another({ do: "search-failed", reason: "before the stream" }); await route.continue(); });
    await go(page, base + "/");
    await found(page, "before the stream");
    await page.context().close();
  },

  "390 px wide: nothing scrolls sideways": async () => {
    const page = await opened({ viewport: { width: 390, height: 844 } });
    await fresh(page);
    await page.getByRole("button", { name: "login graph" }).click();
    await story(page, "silently by single sign-on");
    await search(page, "lakers");
    await found(page, "auth");
    await page.getByText("The answer", { exact: true }).click();
    await fits(page, "the playground");
    await consent(page);
    await found(page, "Signed in to wiki");
    await fits(page, "the playground with a result");
    await page.context().close();
  },

  "without JavaScript: the window is a tab, and its code is typed": async () => {
    const page = await opened({ javaScriptEnabled: false });
    await page.getByRole("button", { name: "Start over" }).click();
    await page.getByRole("button", { name: "login github" }).click();
    const window = await popup(page);
    await window.getByRole("button", { name: "Sign in" }).click();
    const code = await window.locator("#code").innerText();
    await page.getByLabel("Type a code").fill(code);
    await page.getByRole("button", { name: "Hand over" }).click();
    await story(page, "through the sign-in window");
    await page.context().close();
  },
});
