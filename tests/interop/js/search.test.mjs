/** Searches for messages with matrix-js-sdk, on a server that got the history from another one. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { HS1, HS2, withPeople } from "./person.mjs";

test("messages from before one's own server came are found, page by page, with their context", () =>
    withPeople([[HS1, "anna"], [HS2, "bert"]], async (anna, bert) => {
        const { room_id: roomId } = await anna.client.createRoom({ preset: "public_chat" });
        const word = `tea${Date.now()}`;
        for (let number = 0; number < 25; number++) {
            await anna.say(roomId, number % 2 ? `no ${number}` : `${word} ${number}`);
        }
        const viaServers = [anna.userId.split(":").slice(1).join(":")];
        await bert.client.joinRoom(roomId, { viaServers });
        await bert.untilMembership(roomId, "join");
        await bert.scrollToTheBeginning(roomId);
        await anna.say(roomId, `${word.toUpperCase()} live`);
        await bert.untilText(roomId, `${word.toUpperCase()} live`);

        const texts = (found) =>
            found.results.map((one) => one.context.getEvent().getContent().body);
        const found = await bert.client.searchRoomEvents({
            term: word,
            filter: { rooms: [roomId], limit: 5 },
        });
        assert.ok(found.count > 5 && found.count <= 14, String(found.count));
        assert.deepEqual(found.highlights, [word]);
        assert.equal(texts(found)[0], `${word.toUpperCase()} live`);
        while (found.next_batch) {
            await bert.client.backPaginateRoomEventsSearch(found);
        }
        const older = texts(found).slice(1).sort();
        const said = Array.from({ length: 13 }, (_, number) => `${word} ${2 * number}`);
        assert.deepEqual(older, said.sort());
        const around = found.results[1].context.getTimeline();
        assert.ok(around.some((event) => event.getContent().body === "no 23"));
    }));

test("a day is jumped to, though its history has to be fetched from the other server", () =>
    withPeople([[HS1, "anna"], [HS2, "bert"]], async (anna, bert) => {
        const { room_id: roomId } = await anna.client.createRoom({ preset: "public_chat" });
        const said = [];
        for (let number = 0; number < 40; number++) {
            said.push(await anna.say(roomId, `message ${number}`));
        }
        const event = await anna.client.fetchRoomEvent(roomId, said[3]);
        const viaServers = [anna.userId.split(":").slice(1).join(":")];
        await bert.client.joinRoom(roomId, { viaServers });
        await bert.untilMembership(roomId, "join");
        const time = event.origin_server_ts;
        const found = await bert.client.timestampToEvent(roomId, time, "f");
        assert.equal(found.origin_server_ts, time);
        const before = await bert.client.timestampToEvent(roomId, time, "b");
        assert.equal(before.origin_server_ts, time);
        const set = bert.room(roomId).getUnfilteredTimelineSet();
        const timeline = await bert.client.getEventTimeline(set, said[3]);
        const texts = timeline.getEvents().map((one) => one.getContent().body);
        assert.ok(texts.includes("message 3"), String(texts));
    }));
