/** Pushers and notifications, as matrix-js-sdk sets and reads them. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { HS1, HS2, withPeople } from "./person.mjs";

const TWO = [[HS1, "anna"], [HS2, "bert"]];
const PUSHER = {
    app_id: "org.example.app",
    pushkey: "key",
    kind: "http",
    app_display_name: "App",
    device_display_name: "Phone",
    lang: "en",
    data: { url: "https://push.example/_matrix/push/v1/notify", format: "event_id_only", brand: "x" },
};

test("a pusher is set, listed, changed and removed", () =>
    withPeople([[HS1, "anna"]], async (anna) => {
        assert.deepEqual((await anna.client.getPushers()).pushers, []);
        await anna.client.setPusher({ ...PUSHER, append: true });
        const [pusher] = (await anna.client.getPushers()).pushers;
        delete pusher["org.matrix.msc3881.enabled"]; // the library adds it
        assert.deepEqual(pusher, PUSHER);
        await anna.client.setPusher({ ...PUSHER, lang: "de" });
        assert.equal((await anna.client.getPushers()).pushers[0].lang, "de");
        await anna.client.removePusher(PUSHER.pushkey, PUSHER.app_id);
        assert.deepEqual((await anna.client.getPushers()).pushers, []);
    }));

test("a wrong pusher is refused with the specification's code", () =>
    withPeople([[HS1, "anna"]], async (anna) => {
        const wrong = { ...PUSHER, data: { url: "http://push.example/_matrix/push/v1/notify" } };
        await assert.rejects(anna.client.setPusher(wrong), { errcode: "M_INVALID_PARAM" });
    }));

test("a mention from another server is in the list of notifications", () =>
    withPeople(TWO, async (anna, bert) => {
        const roomId = await anna.createRoom({}, [bert]);
        await bert.say(roomId, "hello");
        const { event_id: mention } = await bert.client.sendMessage(roomId, {
            "msgtype": "m.text",
            "body": "anna!",
            "m.mentions": { user_ids: [anna.userId] },
        });
        await anna.untilText(roomId, "anna!");
        const { notifications } = await anna.client.http.authedRequest("GET", "/notifications", { only: "highlight" });
        assert.deepEqual(notifications.map((one) => one.event.event_id), [mention]);
        assert.equal(notifications[0].read, false);
        await anna.client.sendReadReceipt(anna.room(roomId).findEventById(mention));
        const again = await anna.client.http.authedRequest("GET", "/notifications", { only: "highlight" });
        assert.equal(again.notifications[0].read, true);
    }));
