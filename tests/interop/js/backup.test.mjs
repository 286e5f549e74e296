/** Key backup and secret storage: matrix-js-sdk with the Rust crypto machine, as Element uses them. */

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

/** Set up cross-signing, secret storage and a backup, as a client does at the first log-in. */
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
        setupNewKeyBackup: true,
    });
    assert.ok(await person.client.doesServerSupportUnstableFeature("org.matrix.e2e_cross_signing"));
    return await person.until(() => crypto.getActiveSessionBackupVersion(), "an active backup");
}

async function untilBackedUp(person, keys) {
    // The SDK's own word on it is from the time of the backup's creation.
    const count = async () => (await person.request("GET", "/room_keys/version")).count;
    await person.until(async () => (await count()) >= keys, `${keys} keys in the backup`);
}

test("a new device reads history from the backup, with the recovery key alone", () =>
    withPeople(TWO, async (anna, bert) => {
        const version = await setUp(anna);
        const roomId = await anna.createRoom(ENCRYPTED, [bert]);
        await anna.say(roomId, "from anna, before");
        await bert.untilText(roomId, "from anna, before");
        await bert.say(roomId, "from bert, before");
        await anna.untilText(roomId, "from bert, before");
        await untilBackedUp(anna, 2);
        anna.stop();

        const second = await anna.again({ encrypts: true });
        try {
            second.recoveryKey = anna.recoveryKey;
            const crypto = second.client.getCrypto();
            const known = () => crypto.userHasCrossSigningKeys(second.userId, true);
            await second.until(known, "the own cross-signing keys");
            await crypto.bootstrapCrossSigning({});
            await crypto.loadSessionBackupPrivateKeyFromSecretStorage();
            const restored = await crypto.restoreKeyBackup();
            assert.equal(restored.imported, restored.total);
            assert.ok(restored.total >= 2);
            await second.scrollToTheBeginning(roomId);
            await second.untilText(roomId, "from anna, before");
            await second.untilText(roomId, "from bert, before");

            await crypto.checkKeyBackupAndEnable();
            assert.equal(await crypto.getActiveSessionBackupVersion(), version);
            await bert.say(roomId, "after");
            await second.untilText(roomId, "after");
        } finally {
            second.stop();
        }
    }));

test("a backup that is reset elsewhere is given up, and the new one is used", () =>
    withPeople([TWO[0]], async (anna) => {
        const first = await setUp(anna);
        const roomId = await anna.createRoom(ENCRYPTED);
        await anna.say(roomId, "one");
        await untilBackedUp(anna, 1);
        const crypto = anna.client.getCrypto();
        await crypto.resetKeyBackup();
        const next = await anna.until(
            async () => {
                const active = await crypto.getActiveSessionBackupVersion();
                return active !== first && active;
            },
            "the new backup",
        );
        await untilBackedUp(anna, 1);
        assert.equal((await anna.request("GET", "/room_keys/version")).version, next);
        await crypto.deleteKeyBackupVersion(next);
        const gone = await anna.request("GET", "/room_keys/version").catch((error) => error);
        assert.equal(gone.errcode, "M_NOT_FOUND");
    }));
