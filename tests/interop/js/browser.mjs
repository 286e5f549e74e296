/**
 * A real Chromium with the page of `browser/` in it, which is bundled here and served on loopback.
 *
 * 1. Chromium comes from a package, or is the one that `CHROMIUM` names; it has no network but
 *    loopback, and a profile of its own.
 * 2. `Tab` has the page's steps as methods, done by clicks and key presses alone.
 */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";
import { chromium } from "playwright-core";

const FOLDER = fileURLToPath(new URL("browser", import.meta.url));
const WASM = new URL(
    "node_modules/@matrix-org/matrix-sdk-crypto-wasm/pkg/matrix_sdk_crypto_wasm_bg.wasm",
    import.meta.url,
);
const DEADLINE_MS = 60_000;
const TYPES = { html: "text/html", js: "text/javascript", wasm: "application/wasm" };

async function bundle() {
    const made = await build({
        entryPoints: [`${FOLDER}/page.mjs`],
        bundle: true,
        format: "esm",
        outdir: FOLDER,
        write: false,
        entryNames: "page",
        assetNames: "[name]",
        loader: { ".wasm": "file" },
        define: { global: "globalThis" },
        logLevel: "error",
    });
    const files = new Map(made.outputFiles.map((file) => [`/${file.path.split("/").at(-1)}`, file.contents]));
    files.set("/page.html", await readFile(`${FOLDER}/page.html`));
    files.set("/pkg/matrix_sdk_crypto_wasm_bg.wasm", await readFile(WASM));
    return files;
}

async function serve(files) {
    const server = createServer((request, answer) => {
        const content = files.get(request.url);
        const type = TYPES[request.url.split(".").at(-1)] ?? "application/octet-stream";
        answer.writeHead(content ? 200 : 404, { "Content-Type": type });
        answer.end(content);
    });
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    return server;
}

async function executable() {
    if (process.env.CHROMIUM) {
        return process.env.CHROMIUM;
    }
    const { default: packaged } = await import("@sparticuz/chromium");
    return await packaged.executablePath();
}

/** Run a scenario with a browser that opens tabs: `open()` returns one with a profile of its own. */
export async function withBrowser(scenario) {
    const server = await serve(await bundle());
    const browser = await chromium.launch({
        executablePath: await executable(),
        args: [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        ],
    });
    try {
        await scenario(async () => {
            const page = await (await browser.newContext()).newPage();
            page.setDefaultTimeout(DEADLINE_MS);
            await page.goto(`http://127.0.0.1:${server.address().port}/page.html`);
            return new Tab(page);
        });
    } finally {
        await browser.close();
        server.close();
    }
}

class Tab {
    constructor(page) {
        this.page = page;
    }

    async enter(button, server, name, password) {
        await this.page.fill("#server", server);
        await this.page.fill("#name", name);
        await this.page.fill("#password", password);
        await this.page.click(button);
        await this.page.waitForSelector("main:not([hidden])");
    }

    async untilText(selector, text) {
        const found = this.page.locator(selector).filter({ hasText: text }).last();
        try {
            await found.waitFor();
        } catch (error) {
            const problem = await this.page.textContent("#problem");
            const shown = await this.page.innerText("body");
            throw new Error(`no ${text} in ${selector}: ${problem}\n${shown}`, { cause: error });
        }
        return found;
    }

    async problem() {
        return await this.page.textContent("#problem");
    }

    async userId() {
        return await this.page.textContent("#user");
    }

    async setUpSecurity() {
        await this.page.click("#set-up");
        await this.untilText("#recovery-key", /\w{4} \w{4}/);
        return await this.page.textContent("#recovery-key");
    }

    async restore(recoveryKey) {
        await this.page.fill("#key", recoveryKey);
        await this.page.click("#restore");
        await this.untilText("#restored", /of/);
        return await this.page.textContent("#restored");
    }

    async createRoom(invitee) {
        const rooms = await this.page.locator("#rooms li").count();
        await this.page.fill("#invitee", invitee);
        await this.page.click("#create");
        const made = this.page.locator("#rooms li").nth(rooms);
        await made.waitFor();
        return await made.getAttribute("data-room");
    }

    async open(roomId) {
        await this.page.click(`#rooms li[data-room="${roomId}"] button`);
    }

    async say(text) {
        await this.page.fill("#text", text);
        await this.page.press("#text", "Enter");
        await this.untilText("#timeline li", text);
    }

    async sendPicture(name, buffer) {
        await this.page.setInputFiles("#picture", { name, mimeType: "image/png", buffer });
    }

    /** Wait for a picture of a message and return its width in pixels. */
    async pictureWidth(text) {
        const row = await this.untilText("#timeline li", text);
        const image = row.locator("img[src]");
        await image.waitFor({ state: "attached" });
        return await image.evaluate(async (element) => {
            await element.decode();
            return element.naturalWidth;
        });
    }

    async press(text, button) {
        const row = await this.untilText("#timeline li", text);
        await row.getByRole("button", { name: button }).click();
    }

    async untilBadge(roomId, count) {
        await this.untilText(`#rooms li[data-room="${roomId}"] .badge`, new RegExp(`^${count}$`));
    }

    async logOut() {
        await this.page.click("#log-out");
        await this.page.waitForSelector("main", { state: "hidden" });
        assert.equal(await this.problem(), "");
    }
}
