/** Spaces as matrix-js-sdk walks them: of its own server and of another. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { RoomHierarchy } from "matrix-js-sdk/lib/room-hierarchy.js";

import { HS1, HS2, withPeople } from "./person.mjs";

const TWO = [[HS1, "anna"], [HS2, "bert"]];

const serverOf = (person) => person.userId.slice(person.userId.indexOf(":") + 1);

const makeRoom = async (person, options = {}) => {
    const { room_id: roomId } = await person.client.createRoom({ preset: "public_chat", ...options });
    return roomId;
};

const makeSpace = (person, options = {}) =>
    makeRoom(person, { creation_content: { type: "m.space" }, ...options });

const add = (person, parent, child, via, content = {}) =>
    person.client.sendStateEvent(parent, "m.space.child", { via: [via], ...content }, child);

/** All rooms, page by page. */
const walk = async (person, roomId, ...more) => {
    await person.until(() => person.client.getRoom(roomId), "the space");
    const hierarchy = new RoomHierarchy(person.client.getRoom(roomId), ...more);
    while (hierarchy.canLoadMore) await hierarchy.load();
    assert.equal(hierarchy.noSupport, false);
    return hierarchy;
};

test("a space is walked in pages, over two servers, with its rooms' relations", () =>
    withPeople(TWO, async (anna, bert) => {
        const [there, here] = [serverOf(anna), serverOf(bert)];
        const below = await makeSpace(anna, { name: "Below" });
        const deep = await makeRoom(anna, { name: "Deep", topic: "down there" });
        const hidden = await makeRoom(anna, { preset: "private_chat", name: "Hidden" });
        const mine = await makeRoom(bert, { name: "Mine" });
        const root = await makeSpace(bert, { name: "Root" });
        await add(anna, below, deep, there, { suggested: true });
        await add(anna, below, hidden, there);
        await add(bert, root, mine, here, { order: "b" });
        await add(bert, root, below, there, { order: "a" });
        const hierarchy = await walk(bert, root, 2);
        assert.deepEqual(hierarchy.rooms.map((room) => room.room_id), [root, below, deep, mine]);
        assert.equal(hierarchy.isSuggested(below, deep), true);
        assert.deepEqual([...hierarchy.viaMap.get(deep)], [there]);
        assert.deepEqual(hierarchy.backRefs.get(deep), [below]);
        assert.equal(hierarchy.roomMap.get(deep).topic, "down there");
        const shallow = await walk(bert, root, 20, 1);
        assert.deepEqual(shallow.rooms.map((room) => room.room_id), [root, below, mine]);
    }));

test("a room is summarised before it is joined, by its ID and by its alias", () =>
    withPeople(TWO, async (anna, bert) => {
        const name = `summary-${Date.now()}`;
        const roomId = await makeRoom(anna, { name: "Come in", room_alias_name: name });
        const summary = await bert.client.getRoomSummary(roomId, [serverOf(anna)]);
        assert.equal(summary.name, "Come in");
        assert.equal(summary.num_joined_members, 1);
        assert.equal(summary.membership, "leave");
        assert.equal(summary.room_version, "12");
        const named = await bert.client.getRoomSummary(`#${name}:${serverOf(anna)}`);
        assert.deepEqual(named, summary);
        await bert.client.joinRoom(roomId, { viaServers: [serverOf(anna)] });
        assert.equal((await bert.client.getRoomSummary(roomId)).membership, "join");
    }));
