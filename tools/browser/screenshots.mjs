// node screenshots.mjs CHROMIUM BASE FOLDER PAGE... : every page wide and at 390 px, light and dark, as PNG files to look at.
// tools/serve.py serves the book and calls this.
import { mkdirSync } from "node:fs";
import { launch, open, visit } from "./browser.mjs";

const [executable, base, folder, ...pages] = process.argv.slice(2);
mkdirSync(folder, { recursive: true });
const browser = await launch(executable);
for (const path of pages) {
  for (const mode of ["light", "dark"]) {
    for (const [name, width, height] of [["wide", 1280, 900], ["narrow", 390, 844]]) {
      const { context, page } = await open(browser, base, { mode, width, height });
      await visit(page, `${base}/${path}`);
      const file = `${folder}/${path.replace(/\.html$/, "").replaceAll("/", "-")}-${name}-${mode}.png`;
      await page.screenshot({ path: file, fullPage: true });
      console.log(file);
      await context.close();
    }
  }
}
await browser.close();
