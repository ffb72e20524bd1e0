// Uses the search page as a person would, in headless Chromium. Called by tests/tests/page.rs:
//   node page.mjs ADDRESS SCREENSHOT
// It prints "shown" when the first results are there, waits for a line on standard input (the
// caller changes a row meanwhile), and then expects the change on the page without a reload.

import { createInterface } from "node:readline";
import { existsSync } from "node:fs";
import { chromium } from "playwright-core";

const [address, screenshot] = process.argv.slice(2);
const executablePath = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);
if (!executablePath) throw new Error("no Chromium found: install the package chromium");

function expect(condition, what) {
  if (!condition) throw new Error(`expected: ${what}`);
}

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
try {
  const page = await browser.newPage({ viewport: { width: 1200, height: 900 } });
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  const requests = [];
  page.on("request", (request) => requests.push(new URL(request.url()).origin));

  await page.goto(`${address}/#index=animals`);
  await page.waitForSelector("#hits li");
  const all = await page.textContent("#summary");
  expect(/^60 results/.test(all), `60 results at first, not "${all}"`);

  // Results as you type: the last word is a prefix.
  await page.locator("#query").pressSequentially("white her", { delay: 20 });
  await page.waitForFunction(() => /^15 results/.test(document.querySelector("#summary").textContent));
  const marks = await page.locator("#hits mark").allTextContents();
  expect(marks.some((mark) => /^white$/i.test(mark)), "the whole word is marked");
  expect(marks.some((mark) => /^heron/i.test(mark)), "the word that begins so is marked");
  expect(!(await page.locator("#hits img").count()), "text of a document is never markup");

  // Facets narrow, and count under the other choices. So they do where an answer takes longer than
  // the page's rest between two looks for changes.
  await page.route("**/_search", async (route) => {
    await new Promise((resolve) => setTimeout(resolve, 1000));
    await route.continue();
  });
  const facet = page.locator("fieldset", { has: page.locator("legend", { hasText: /^place$/ }) });
  await facet.getByLabel("delta").check();
  await page.waitForFunction(() => /^5 results/.test(document.querySelector("#summary").textContent));
  expect((await facet.locator("label").count()) === 3, "the other places can still be chosen");
  await facet.getByLabel("delta").uncheck();
  await page.waitForFunction(() => /^15 results/.test(document.querySelector("#summary").textContent));

  await page.unroute("**/_search");

  // The address can be shared.
  const other = await browser.newPage();
  await other.goto(await page.evaluate(() => location.href));
  await other.waitForFunction(() => /^15 results/.test(document.querySelector("#summary").textContent));
  await other.close();

  // What the database says next is shown without a reload.
  const freshness = await page.textContent("#freshness");
  expect(/LSN [0-9A-F]+\/[0-9A-F]+/.test(freshness), `the LSN is shown, not "${freshness}"`);
  await page.screenshot({ path: screenshot });
  console.log("shown");
  const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  await lines.next();
  await page.waitForFunction(() => /^16 results/.test(document.querySelector("#summary").textContent));
  const later = await page.textContent("#freshness");
  expect(later !== freshness, "the LSN moved");

  // An order by a number.
  await page.selectOption("#sort", "weight:desc");
  await page.waitForFunction(() => document.querySelector("#hits li")?.dataset.id === "60");

  // A search that fails says so, and the next one recovers.
  await page.fill("#query", "weight:[1 TO");
  await page.waitForSelector("#error:not([hidden])");
  await page.fill("#query", "weight:[59 TO *]");
  await page.waitForFunction(() => /^2 results/.test(document.querySelector("#summary").textContent));
  expect(await page.locator("#error").isHidden(), "the error is gone");

  const failures = complaints.filter((text) => !/status of 400/.test(text));
  expect(!failures.length, `no errors in the browser: ${failures.join("; ")}`);
  expect(requests.every((origin) => origin === address), "nothing is fetched from elsewhere");
  console.log("done");
} finally {
  await browser.close();
}
