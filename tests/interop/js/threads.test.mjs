/** Threads, edits and relations, as matrix-js-sdk reads them from the server. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { HS1, HS2, withPeople } from "./person.mjs";

const TWO = [
    [HS1, "anna", { threads: true }],
    [HS2, "bert", { threads: true }],
];
const text = (body) => ({ msgtype: "m.text", body });
const edit = (event_id, body) => ({
    ...text(`* ${body}`),
    "m.new_content": text(body),
    "m.relates_to": { rel_type: "m.replace", event_id },
});

test("a thread is the same for who was there and for who logs in later", () =>
    withPeople(TWO, async (anna, bert) => {
        const roomId = await anna.createRoom({}, [bert]);
        const root = await anna.say(roomId, "the root");
        await bert.untilText(roomId, "the root");
        const { event_id: first } = await bert.client.sendMessage(roomId, root, text("first"));
        const length = (who) => who.room(roomId).getThread(root)?.length;
        await anna.until(() => length(anna) === 1, "the first answer");
        const { event_id: second } = await anna.client.sendMessage(roomId, root, text("second"));
        await bert.until(() => length(bert) === 2, "the second answer");
        await anna.client.sendMessage(roomId, edit(second, "second, edited"));
        await anna.client.sendMessage(roomId, edit(root, "the root, edited"));
        for (const number of [1, 2, 3, 4, 5]) {
            await anna.say(roomId, `later ${number}`);
        }
        await bert.untilText(roomId, "later 5");

        const late = await bert.again({ threads: true, limit: 2 });
        try {
            const room = late.room(roomId);
            assert.equal(room.findEventById(root), undefined, "the first sync doesn't reach so far");
            await room.createThreadsTimelineSets();
            await room.fetchRoomThreads();
            const thread = await late.until(() => room.getThread(root), "the thread");
            await late.until(() => thread.length === 2, "both answers");
            await late.until(() => thread.hasCurrentUserParticipated, "one's own answer");
            await late.until(() => thread.replyToEvent?.getId() === second, "its newest event");
            const shown = () => thread.rootEvent?.replacingEvent()?.getContent()["m.new_content"].body;
            await late.until(() => shown() === "the root, edited", "the edit of the root");
            const newest = () => thread.replyToEvent.replacingEvent()?.getContent()["m.new_content"].body;
            await late.until(() => newest() === "second, edited", "the edit of its newest event");
            const { events } = await late.client.relations(roomId, root, "m.thread", "m.room.message");
            assert.deepEqual(events.map((event) => event.getId()), [second, first]);
        } finally {
            late.stop();
        }
    }));

test("relations of an event are read, and those of ignored users are not", () =>
    withPeople(TWO, async (anna, bert) => {
        const roomId = await anna.createRoom({}, [bert]);
        const root = await anna.say(roomId, "the root");
        await bert.untilText(roomId, "the root");
        const reaction = { "m.relates_to": { rel_type: "m.annotation", event_id: root, key: "👍" } };
        const { event_id: first } = await bert.client.sendEvent(roomId, "m.reaction", reaction);
        await anna.untilEvent(roomId, (event) => event.getId() === first, "the reaction");
        await assert.rejects(bert.client.sendEvent(roomId, "m.reaction", reaction), {
            errcode: "M_DUPLICATE_ANNOTATION",
        });
        const read = async () => {
            const found = await anna.client.fetchRelations(roomId, root, "m.annotation", "m.reaction");
            return found.chunk.map((event) => event.event_id);
        };
        assert.deepEqual(await read(), [first]);
        const { events } = await anna.client.relations(roomId, root, "m.annotation", "m.reaction");
        assert.deepEqual(events.map((event) => event.getId()), [first]);
        await anna.client.setIgnoredUsers([bert.userId]);
        assert.deepEqual(await read(), []);
        await anna.client.setIgnoredUsers([]);
        await bert.client.redactEvent(roomId, first);
        await anna.until(async () => (await read()).length === 0, "the redaction");
    }));
