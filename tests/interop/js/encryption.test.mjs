/** Encrypted rooms between two servers: matrix-js-sdk with the Rust crypto machine on both sides. */

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

test("both sides read each other in an encrypted room", () =>
    withPeople(TWO, async (anna, bert) => {
        const roomId = await anna.createRoom(ENCRYPTED, [bert]);
        await anna.say(roomId, "sealed by anna");
        const event = await bert.untilText(roomId, "sealed by anna");
        assert.ok(event.isEncrypted());
        await bert.say(roomId, "sealed by bert");
        await anna.untilText(roomId, "sealed by bert");
    }));

test("what is said between invite and join is read after the join", () =>
    withPeople(TWO, async (anna, bert) => {
        const { room_id: roomId } = await anna.client.createRoom({
            ...ENCRYPTED,
            preset: "private_chat",
            invite: [bert.userId],
        });
        await bert.untilMembership(roomId, "invite");
        const invited = () => anna.room(roomId)?.getMember(bert.userId)?.membership === "invite";
        await anna.until(invited, "the invite");
        await anna.say(roomId, "said before the join");
        await bert.client.joinRoom(roomId);
        await bert.untilMembership(roomId, "join");
        await bert.scrollToTheBeginning(roomId);
        await bert.untilText(roomId, "said before the join");
    }));

test("encryption that is turned on later seals what follows for the other server", () =>
    withPeople(TWO, async (anna, bert) => {
        const roomId = await anna.createRoom({}, [bert]);
        await anna.say(roomId, "open");
        await bert.untilText(roomId, "open");
        const content = { algorithm: "m.megolm.v1.aes-sha2" };
        await anna.client.sendStateEvent(roomId, "m.room.encryption", content, "");
        const isOn = (person) => person.state(roomId, "m.room.encryption") !== undefined;
        await anna.until(() => isOn(anna), "encryption");
        await bert.until(() => isOn(bert), "encryption");
        await bert.say(roomId, "sealed");
        const event = await anna.untilText(roomId, "sealed");
        assert.ok(event.isEncrypted());
    }));

test("a new device reads from its coming on, and one that logs out is dropped", () =>
    withPeople(TWO, async (anna, bert) => {
        const roomId = await anna.createRoom(ENCRYPTED, [bert]);
        await anna.say(roomId, "for one device");
        await bert.untilText(roomId, "for one device");
        const second = await bert.again({ encrypts: true });
        const devices = async () =>
            (await anna.client.getCrypto().getUserDeviceInfo([bert.userId], true)).get(bert.userId);
        await anna.until(async () => (await devices())?.has(second.deviceId), "the new device");
        await anna.say(roomId, "for two devices");
        await second.untilText(roomId, "for two devices");
        await bert.untilText(roomId, "for two devices");
        await second.client.logout(true);
        await anna.until(async () => !(await devices()).has(second.deviceId), "the device's end");
    }));

test("two users of two servers verify each other by emoji", () =>
    withPeople(TWO, async (anna, bert) => {
        for (const person of [anna, bert]) {
            await person.client.getCrypto().bootstrapCrossSigning({
                authUploadDeviceSigningKeys: (make) => make(person.passwordAuth()),
            });
        }
        const roomId = await anna.createRoom({ ...ENCRYPTED, is_direct: true }, [bert]);
        await anna.say(roomId, "let us verify");
        await bert.untilText(roomId, "let us verify");
        const crypto = anna.client.getCrypto();
        const asked = await crypto.requestVerificationDM(bert.userId, roomId);
        const received = await bert.until(
            () => bert.client.getCrypto().findVerificationRequestDMInProgress(roomId, anna.userId),
            "the request",
        );
        await received.accept();
        await anna.until(() => asked.phase === 3, "the other's readiness");
        const verifier = await asked.startVerification("m.sas.v1");
        const other = await bert.until(() => received.verifier, "the start");
        const shown = [];
        const done = [verifier, other].map((one) => {
            one.on("show_sas", (sas) => {
                shown.push(JSON.stringify(sas.sas.emoji));
                void sas.confirm();
            });
            return one.verify();
        });
        await Promise.all(done);
        assert.equal(shown.length, 2);
        assert.equal(shown[0], shown[1]);
        const verified = async () =>
            (await crypto.getUserVerificationStatus(bert.userId)).isCrossSigningVerified();
        await anna.until(verified, "the verification");
    }));
