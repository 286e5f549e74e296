/** Dehydrated devices: matrix-js-sdk with the Rust crypto machine, as Element uses them. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { HS1, HS2, withPeople } from "./person.mjs";

const TWO = [
    [HS1, "anna", { encrypts: true }],
    [HS2, "bert", { encrypts: true }],
];
const ENCRYPTED = {
    initial_state: [
        { type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } },
    ],
};
const PATH = "/dehydrated_device";
const PREFIX = { prefix: "/_matrix/client/unstable/org.matrix.msc3814.v1" };

/** Set up cross-signing, secret storage and a dehydrated device; no backup, which has the keys too. */
async function setUp(person) {
    const crypto = person.client.getCrypto();
    await crypto.bootstrapCrossSigning({
        authUploadDeviceSigningKeys: (make) => make(person.passwordAuth()),
    });
    const recoveryKey = await crypto.createRecoveryKeyFromPassphrase();
    person.recoveryKey = recoveryKey.privateKey;
    await crypto.bootstrapSecretStorage({
        createSecretStorageKey: async () => recoveryKey,
        setupNewSecretStorage: true,
    });
    assert.ok(await crypto.isDehydrationSupported());
    await crypto.startDehydration();
    return await dehydrated(person);
}

async function dehydrated(person) {
    const found = await person.client.http.authedRequest("GET", PATH, undefined, undefined, PREFIX);
    return found.device_id;
}

/** The devices of another user as the server tells them now. */
async function devicesOf(person, userId) {
    const found = await person.client.getCrypto().getUserDeviceInfo([userId], true);
    return found.get(userId) ?? new Map();
}

test("what was written while the user had no device is read after the next log-in", () =>
    withPeople(TWO, async (anna, bert) => {
        const dryId = await setUp(anna);
        const roomId = await anna.createRoom(ENCRYPTED, [bert]);
        await bert.until(async () => (await devicesOf(bert, anna.userId)).get(dryId), "the device");
        assert.ok((await devicesOf(bert, anna.userId)).get(dryId).dehydrated);
        await anna.client.logout(true);
        await bert.until(
            async () => (await devicesOf(bert, anna.userId)).size === 1,
            "the dehydrated device alone",
        );
        await bert.say(roomId, "while you were out");

        const second = await anna.again({ encrypts: true });
        try {
            second.recoveryKey = anna.recoveryKey;
            const crypto = second.client.getCrypto();
            const known = () => crypto.userHasCrossSigningKeys(second.userId, true);
            await second.until(known, "the own cross-signing keys");
            await crypto.bootstrapCrossSigning({});
            await crypto.startDehydration();
            await second.scrollToTheBeginning(roomId);
            await second.untilText(roomId, "while you were out");

            const nextId = await dehydrated(second);
            assert.notEqual(nextId, dryId);
            await bert.until(
                async () => {
                    const devices = await devicesOf(bert, anna.userId);
                    return devices.has(nextId) && !devices.has(dryId);
                },
                "the new dehydrated device in place of the former",
            );
        } finally {
            second.client.getCrypto().stop?.();
            second.stop();
        }
    }));

test("a reset of encryption ends the dehydrated device", () =>
    withPeople([TWO[0]], async (anna) => {
        await setUp(anna);
        await anna.client.getCrypto().resetEncryption((make) => make(anna.passwordAuth()));
        const gone = await dehydrated(anna).catch((error) => error);
        assert.equal(gone.errcode, "M_NOT_FOUND");
    }));
