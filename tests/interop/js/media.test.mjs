/** Media: matrix-js-sdk uploads, reserves, downloads and sends encrypted files, as Element does. */

import assert from "node:assert/strict";
import { createCipheriv, createDecipheriv, createHash, randomBytes } from "node:crypto";
import { test } from "node:test";

import { HS1, withPeople } from "./person.mjs";

const TWO = [
    [HS1, "anna", {}],
    [HS1, "bert", {}],
];

/** Fetch a URI as a web client does: by the authenticated path, with the token in a header. */
async function download(person, uri, headers = {}) {
    const url = person.client.mxcUrlToHttp(uri, undefined, undefined, undefined, false, true, true);
    assert.match(url, /\/_matrix\/client\/v1\/media\/download\//);
    const authorization = `Bearer ${person.client.getAccessToken()}`;
    const response = await fetch(url, { headers: { ...headers, authorization } });
    return [response, Buffer.from(await response.arrayBuffer())];
}

test("a file goes up and comes down, whole and in part", () =>
    withPeople(TWO, async (anna, bert) => {
        const data = randomBytes(500_000);
        const file = new File([data], "Größe.png", { type: "image/png" });
        const seen = [];
        const { content_uri: uri } = await anna.client.uploadContent(file, {
            progressHandler: (progress) => seen.push(progress),
        });
        const [response, found] = await download(bert, uri);
        assert.equal(response.status, 200);
        assert.ok(found.equals(data));
        assert.equal(response.headers.get("content-type"), "image/png");
        const named = "inline; filename*=UTF-8''Gr%C3%B6%C3%9Fe.png";
        assert.equal(response.headers.get("content-disposition"), named);
        const [part, bytes] = await download(bert, uri, { range: "bytes=10-19" });
        assert.equal(part.status, 206);
        assert.ok(bytes.equals(data.subarray(10, 20)));
        const config = await anna.client.getMediaConfig(true);
        assert.equal(config["m.upload.size"], 100 * 1024 * 1024);
    }));

test("an encrypted file is opaque to the server", () =>
    withPeople(TWO, async (anna, bert) => {
        const key = randomBytes(32);
        const iv = Buffer.concat([randomBytes(8), Buffer.alloc(8)]);
        const clear = Buffer.from("a picture of a secret place ".repeat(1000));
        const cipher = createCipheriv("aes-256-ctr", key, iv);
        const sealed = Buffer.concat([cipher.update(clear), cipher.final()]);
        const { content_uri: uri } = await anna.client.uploadContent(new Blob([sealed]), {
            includeFilename: false,
            type: "application/octet-stream",
        });
        const [response, found] = await download(bert, uri);
        assert.equal(response.headers.get("content-type"), "application/octet-stream");
        assert.equal(response.headers.get("content-disposition"), "attachment");
        const hash = (bytes) => createHash("sha256").update(bytes).digest("base64");
        assert.equal(hash(found), hash(sealed));
        const decipher = createDecipheriv("aes-256-ctr", key, iv);
        assert.ok(Buffer.concat([decipher.update(found), decipher.final()]).equals(clear));
    }));

test("an upload that is given up leaves the client usable", () =>
    withPeople([TWO[0]], async (anna) => {
        const abortController = new AbortController();
        const upload = anna.client.uploadContent(new Blob([randomBytes(50_000_000)]), {
            abortController,
            includeFilename: false,
        });
        setTimeout(() => abortController.abort(), 5);
        await assert.rejects(upload);
        const { content_uri: uri } = await anna.client.uploadContent(new Blob(["small"]));
        const [, found] = await download(anna, uri);
        assert.equal(found.toString(), "small");
    }));
