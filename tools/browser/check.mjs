// node check.mjs CHROMIUM BASE PAGE... : opens every page of the built book, light and dark, wide and narrow, and
// prints what it saw as one JSON object. It judges nothing: tests/test_book_browser.py does.
import { AXE, launch, open, visit } from "./browser.mjs";

const [executable, base, ...pages] = process.argv.slice(2);

function look() {
  const opaque = (image) => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const pen = canvas.getContext("2d");
    pen.drawImage(image, 0, 0);
    const pixels = pen.getImageData(0, 0, canvas.width, canvas.height).data;
    for (let i = 3; i < pixels.length; i += 4) if (pixels[i] < 255) return false;
    return true;
  };
  const images = [...document.querySelectorAll("article img")].map((image) => ({
    source: image.getAttribute("src"),
    alt: image.getAttribute("alt"),
    loaded: image.complete && image.naturalWidth > 0,
    opaque: !/\.png$/.test(image.src) || (image.naturalWidth > 0 && opaque(image)),
    output: image.closest(".cell_output") !== null,
    caption: image.closest("figure")?.querySelector("figcaption")?.textContent.trim() ?? "",
  }));
  return {
    title: document.title,
    images,
    formulas: document.querySelectorAll("article .math").length,
    drawn: document.querySelectorAll("article .math mjx-container").length,
    formulaErrors: document.querySelectorAll("mjx-merror, [data-mjx-error]").length,
    tracebacks: [...document.querySelectorAll(".output.traceback")].filter(
      (output) => !output.closest(".cell.tag_raises-exception")).length,
    warnings: [...document.querySelectorAll(".output.stderr")].map((output) => output.textContent.slice(0, 300)),
    colab: document.querySelector('a[href*="colab.research"]')?.href ?? "",
    footer: document.querySelector("footer")?.textContent ?? "",
    text: document.querySelector("article")?.textContent ?? "",
  };
}

async function axe(page) {
  await page.addScriptTag({ path: AXE });
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  return violations
    .filter((found) => ["serious", "critical"].includes(found.impact))
    .map((found) => ({
      rule: found.id,
      nodes: found.nodes.map((node) => ({ target: node.target.join(" "), html: node.html.slice(0, 200), why: node.failureSummary })),
    }));
}

async function check(browser, path) {
  const result = {};
  for (const mode of ["light", "dark"]) {
    const { context, page, seen } = await open(browser, base, { mode });
    await visit(page, `${base}/${path}`);
    // folded answers are read too
    await page.evaluate(() => document.querySelectorAll("article details").forEach((folded) => (folded.open = true)));
    await page.waitForTimeout(400);
    if (mode === "light") {
      Object.assign(result, await page.evaluate(look));
    }
    result[mode] = { axe: await axe(page), applied: await page.evaluate(() => document.documentElement.dataset.theme), ...seen };
    if (mode === "light") {
      await page.setViewportSize({ width: 390, height: 844 });
      await page.waitForTimeout(200);
      result.narrow = await page.evaluate(() => ({
        overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
        // whatever sticks out and lies in nothing that scrolls by itself
        widest: [...document.querySelectorAll("article *")]
          .filter((element) => element.getBoundingClientRect().right > innerWidth + 1)
          .filter((element) => {
            for (let parent = element.parentElement; parent; parent = parent.parentElement) {
              if (parent !== document.body && /(auto|scroll|hidden)/.test(getComputedStyle(parent).overflowX)
                  && parent.getBoundingClientRect().right <= innerWidth + 1) return false;
            }
            return true;
          })
          .slice(0, 5)
          .map((element) => element.outerHTML.slice(0, 160)),
      }));
    }
    await context.close();
  }
  return result;
}

async function search(browser, words) {
  const { context, page, seen } = await open(browser, base);
  await visit(page, `${base}/search.html?q=${encodeURIComponent(words)}`);
  await page.waitForFunction(() => /found|did not match/.test(document.querySelector("#search-results")?.textContent ?? ""), null, { timeout: 20000 }).catch(() => {});
  const hits = await page.$$eval("#search-results li a", (links) => links.map((link) => link.getAttribute("href")));
  await context.close();
  return { hits, ...seen };
}

const browser = await launch(executable);
try {
  const report = { pages: {}, search: await search(browser, "receptive field") };
  for (const path of pages) report.pages[path] = await check(browser, path);
  process.stdout.write(JSON.stringify(report));
} finally {
  await browser.close();
}
