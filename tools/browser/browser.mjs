// What the browser scripts share: Chromium, and pages that may only talk to the local server.
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const require = createRequire(import.meta.url);
export const AXE = require.resolve("axe-core/axe.min.js");

export async function launch(executablePath) {
  return chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
}

// A fresh page in light or dark mode. `seen` collects what went wrong while it was open.
export async function open(browser, base, { mode = "light", width = 1280, height = 900 } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: mode });
  await context.addInitScript((mode) => {
    localStorage.setItem("mode", mode);
    localStorage.setItem("theme", mode);
  }, mode);
  const seen = { console: [], missing: [], external: [] };
  await context.route("**/*", (route) => {
    const url = route.request().url();
    if (url.startsWith(base) || url.startsWith("data:") || url.startsWith("blob:")) return route.continue();
    seen.external.push(url);
    return route.abort();
  });
  const page = await context.newPage();
  page.on("console", (message) => message.type() === "error" && seen.console.push(message.text()));
  page.on("pageerror", (error) => seen.console.push(String(error.message ?? error)));
  page.on("response", (response) => response.status() >= 400 && seen.missing.push(response.url()));
  return { context, page, seen };
}

export async function visit(page, url) {
  await page.goto(url, { waitUntil: "load" });
  // MathJax draws after the page has loaded
  await page.evaluate(() => globalThis.MathJax?.startup?.promise);
  await page.waitForTimeout(100);
}
