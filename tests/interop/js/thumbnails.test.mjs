/** Thumbnails and previews: matrix-js-sdk asks for them as Element does, on both servers. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { crc32, deflateSync } from "node:zlib";

import { HS1, HS2, withPeople } from "./person.mjs";

/** A grey PNG, made here: no library of the server's had a part in it. */
function png(width, height) {
    const chunk = (name, data) => {
        const body = Buffer.concat([Buffer.from(name, "latin1"), data]);
        const ends = [Buffer.alloc(4), Buffer.alloc(4)];
        ends[0].writeUInt32BE(data.length);
        ends[1].writeUInt32BE(crc32(body));
        return Buffer.concat([ends[0], body, ends[1]]);
    };
    const header = Buffer.alloc(13);
    header.writeUInt32BE(width, 0);
    header.writeUInt32BE(height, 4);
    header[8] = 8;
    const rows = Buffer.alloc((width + 1) * height, 128);
    for (let row = 0; row < height; row++) {
        rows[row * (width + 1)] = 0;
    }
    return Buffer.concat([
        Buffer.from("89504e470d0a1a0a", "hex"),
        chunk("IHDR", header),
        chunk("IDAT", deflateSync(rows)),
        chunk("IEND", Buffer.alloc(0)),
    ]);
}

/** The size that a JPEG says it has. */
function jpegSize(data) {
    let at = 2;
    while (at < data.length && !(data[at] === 0xff && data[at + 1] >= 0xc0 && data[at + 1] <= 0xc2)) {
        at += 2 + data.readUInt16BE(at + 2);
    }
    return [data.readUInt16BE(at + 7), data.readUInt16BE(at + 5)];
}

async function thumbnail(person, mxc, width, height, method) {
    const url = person.client.mxcUrlToHttp(mxc, width, height, method, false, true, true);
    const headers = { Authorization: `Bearer ${person.client.getAccessToken()}` };
    return await fetch(url, { headers });
}

test("a picture has thumbnails, here and on another server", () =>
    withPeople(
        [
            [HS1, "anna"],
            [HS2, "bert"],
        ],
        async (anna, bert) => {
            const upload = (type) => anna.client.uploadContent(png(400, 300), { type, name: "a.png" });
            const { content_uri: mxc } = await upload("image/png");
            for (const person of [anna, bert]) {
                for (const [width, height, method, size] of [
                    [96, 96, "crop", [96, 96]],
                    [320, 240, "scale", [320, 240]],
                    [30, 30, "scale", [32, 24]],
                ]) {
                    const answer = await thumbnail(person, mxc, width, height, method);
                    assert.equal(answer.status, 200);
                    assert.equal(answer.headers.get("content-type"), "image/jpeg");
                    assert.match(answer.headers.get("content-disposition"), /^inline/);
                    const data = Buffer.from(await answer.arrayBuffer());
                    assert.deepEqual(jpegSize(data), size);
                }
            }
            const { content_uri: encrypted } = await upload("application/octet-stream");
            const refused = await thumbnail(anna, encrypted, 96, 96, "crop");
            assert.equal(refused.status, 400);
            assert.equal((await refused.json()).errcode, "M_UNKNOWN");
        },
    ));

test("a page in the server's own network has no preview", () =>
    withPeople([[HS1, "anna"]], async (anna) => {
        assert.deepEqual(await anna.client.getUrlPreview("http://localhost/", Date.now()), {});
        await assert.rejects(anna.client.getUrlPreview("http://localhost:22/", Date.now()), {
            errcode: "M_INVALID_PARAM",
        });
    }));
