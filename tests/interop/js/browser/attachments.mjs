/**
 * Encrypted attachments by WebCrypto, in a browser as under Node.
 *
 * Spec: client-server API, "Sending encrypted attachments".
 */

const { subtle } = globalThis.crypto;

const base64 = (bytes) => btoa(String.fromCharCode(...new Uint8Array(bytes)));
const unpadded = (bytes) => base64(bytes).replace(/=+$/, "");
const decoded = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

/** Encrypt bytes; the ciphertext, and the `file` of the event without its URL. */
export async function encrypt(bytes) {
    const key = await subtle.generateKey({ name: "AES-CTR", length: 256 }, true, ["encrypt", "decrypt"]);
    const counter = new Uint8Array(16); // the last eight bytes count
    globalThis.crypto.getRandomValues(counter.subarray(0, 8));
    const sealed = await subtle.encrypt({ name: "AES-CTR", counter, length: 64 }, key, bytes);
    const file = {
        v: "v2",
        key: await subtle.exportKey("jwk", key),
        iv: unpadded(counter),
        hashes: { sha256: unpadded(await subtle.digest("SHA-256", sealed)) },
    };
    return { sealed: new Uint8Array(sealed), file };
}

/** Decrypt the bytes of an event's `file`; a wrong hash is an error. */
export async function decrypt(sealed, file) {
    if (unpadded(await subtle.digest("SHA-256", sealed)) !== file.hashes.sha256) {
        throw new Error("the attachment is not the one that was sent");
    }
    const key = await subtle.importKey("jwk", file.key, { name: "AES-CTR" }, false, ["decrypt"]);
    const counter = decoded(file.iv);
    return new Uint8Array(await subtle.decrypt({ name: "AES-CTR", counter, length: 64 }, key, sealed));
}

/** Upload bytes encrypted and send them as a picture. */
export async function sendPicture(client, roomId, name, bytes) {
    const { sealed, file } = await encrypt(bytes);
    const { content_uri: url } = await client.uploadContent(new Blob([sealed]), {
        type: "application/octet-stream",
        includeFilename: false,
    });
    const info = { mimetype: "image/png", size: bytes.length };
    return await client.sendMessage(roomId, {
        msgtype: "m.image",
        body: name,
        info,
        file: { ...file, url },
    });
}

/** Download the picture of an event over authenticated media, and decrypt it. */
export async function picture(client, event) {
    const { file } = event.getContent();
    const url = client.mxcUrlToHttp(file.url, undefined, undefined, undefined, false, true, true);
    const headers = { Authorization: `Bearer ${client.getAccessToken()}` };
    const answer = await fetch(url, { headers });
    if (!answer.ok) {
        throw new Error(`the picture is not there: ${answer.status}`);
    }
    return await decrypt(new Uint8Array(await answer.arrayBuffer()), file);
}
