/** Rooms on two servers, as matrix-js-sdk sees them. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { HS1, HS2, withPeople } from "./person.mjs";

const TWO = [[HS1, "anna"], [HS2, "bert"]];

test("messages, an edit, a reaction, a reply and a redaction reach the other server", () =>
    withPeople(TWO, async (anna, bert) => {
        const roomId = await anna.createRoom({}, [bert]);
        const first = await anna.say(roomId, "hello");
        await bert.untilText(roomId, "hello");
        await bert.say(roomId, "hello back");
        await anna.untilText(roomId, "hello back");
        await anna.client.sendMessage(roomId, {
            "msgtype": "m.text",
            "body": "* hello again",
            "m.new_content": { msgtype: "m.text", body: "hello again" },
            "m.relates_to": { rel_type: "m.replace", event_id: first },
        });
        const edited = () => bert.room(roomId).findEventById(first).getContent().body === "hello again";
        await bert.until(edited, "the edit");
        await bert.client.sendEvent(roomId, "m.reaction", {
            "m.relates_to": { rel_type: "m.annotation", event_id: first, key: "👍" },
        });
        await anna.untilEvent(roomId, (event) => event.getType() === "m.reaction", "the reaction");
        await anna.client.redactEvent(roomId, first, undefined, { reason: "gone" });
        const redacted = () => bert.room(roomId).findEventById(first).isRedacted();
        await bert.until(redacted, "the redaction");
    }));

test("a direct chat is known as one by who accepts the invite", () =>
    withPeople(TWO, async (anna, bert) => {
        const roomId = await anna.createRoom({ is_direct: true }, [bert]);
        assert.equal(bert.room(roomId).getDMInviter(), anna.userId);
    }));

test("an invite that is refused ends with the reason for both sides", () =>
    withPeople(TWO, async (anna, bert) => {
        const { room_id: roomId } = await anna.client.createRoom({ invite: [bert.userId] });
        await bert.untilMembership(roomId, "invite");
        await bert.client.leave(roomId);
        await bert.untilMembership(roomId, "leave");
        const left = () => anna.room(roomId)?.getMember(bert.userId)?.membership === "leave";
        await anna.until(left, "the refusal");
    }));

test("a withdrawn invite ends on the invited user's server", () =>
    withPeople(TWO, async (anna, bert) => {
        const { room_id: roomId } = await anna.client.createRoom({ invite: [bert.userId] });
        await bert.untilMembership(roomId, "invite");
        await anna.client.kick(roomId, bert.userId, "changed my mind");
        await bert.untilMembership(roomId, "leave");
    }));

test("who is kicked is told by whom and why", () =>
    withPeople(TWO, async (anna, bert) => {
        const roomId = await anna.createRoom({}, [bert]);
        await anna.client.kick(roomId, bert.userId, "out");
        await bert.untilMembership(roomId, "leave");
        const event = bert.room(roomId).getMember(bert.userId).events.member;
        assert.equal(event.getSender(), anna.userId);
        assert.equal(event.getContent().reason, "out");
    }));

test("a newcomer of another server scrolls to the beginning, in order, without doubles", () =>
    withPeople(TWO, async (anna, bert) => {
        const { room_id: roomId } = await anna.client.createRoom({ preset: "public_chat" });
        const said = Array.from({ length: 120 }, (_, number) => `message ${number}`);
        for (const text of said) {
            await anna.say(roomId, text);
        }
        const viaServers = [anna.userId.split(":").slice(1).join(":")];
        await bert.client.joinRoom(roomId, { viaServers });
        await bert.untilMembership(roomId, "join");
        await bert.scrollToTheBeginning(roomId);
        assert.deepEqual(bert.texts(roomId), said);
        const events = bert.room(roomId).getLiveTimeline().getEvents();
        assert.equal(events[0].getType(), "m.room.create");
    }));

test("who was away for a while gets the room's true name on coming back, and all messages", () =>
    withPeople(TWO, async (anna, bert) => {
        const { room_id: roomId } = await anna.client.createRoom({
            preset: "public_chat",
            name: "before",
        });
        const viaServers = [anna.userId.split(":").slice(1).join(":")];
        await bert.client.joinRoom(roomId, { viaServers });
        await bert.untilMembership(roomId, "join");
        await bert.client.leave(roomId);
        await bert.untilMembership(roomId, "leave");
        await anna.client.setRoomName(roomId, "meanwhile");
        for (let number = 0; number < 30; number++) {
            await anna.say(roomId, `meanwhile ${number}`);
        }
        await bert.client.joinRoom(roomId, { viaServers });
        await bert.untilMembership(roomId, "join");
        await bert.until(() => bert.state(roomId, "m.room.name")?.name === "meanwhile", "the name");
        await anna.say(roomId, "after");
        await bert.untilText(roomId, "after");
        await bert.scrollToTheBeginning(roomId);
        const texts = bert.texts(roomId).filter((text) => text.startsWith("meanwhile"));
        assert.deepEqual(texts, Array.from({ length: 30 }, (_, number) => `meanwhile ${number}`));
    }));

test("the context of a message doesn't tell who left what came later", () =>
    withPeople(TWO, async (anna, bert) => {
        const roomId = await anna.createRoom({ topic: "old" }, [bert]);
        const eventId = await anna.say(roomId, "seen by both");
        await bert.untilText(roomId, "seen by both");
        await bert.client.leave(roomId);
        await bert.untilMembership(roomId, "leave");
        const left = () => anna.room(roomId).getMember(bert.userId).membership === "leave";
        await anna.until(left, "the leave");
        await anna.client.setRoomTopic(roomId, "secret");
        const path = `/rooms/${encodeURIComponent(roomId)}/context/${encodeURIComponent(eventId)}`;
        for (const person of [bert]) {
            const found = await person.request("GET", path, { limit: "10" });
            const topics = found.state.filter((event) => event.type === "m.room.topic");
            assert.deepEqual(topics.map((event) => event.content.topic), ["old"]);
        }
    }));

test("tags and direct chats move along with an upgrade", () =>
    withPeople(TWO, async (anna, bert) => {
        const roomId = await anna.createRoom({ is_direct: true, room_version: "10" }, [bert]);
        await bert.client.setRoomTag(roomId, "m.favourite", { order: 0.5 });
        await bert.client.setAccountData("m.direct", { [anna.userId]: [roomId] });
        const { replacement_room: next } = await anna.client.upgradeRoom(roomId, "12");
        await bert.untilEvent(roomId, (event) => event.getType() === "m.room.tombstone", "the end");
        await anna.client.invite(next, bert.userId);
        await bert.untilMembership(next, "invite");
        await bert.client.joinRoom(next);
        await bert.untilMembership(next, "join");
        await bert.until(() => bert.room(next).tags["m.favourite"], "the tag");
        const direct = () =>
            bert.client.getAccountData("m.direct").getContent()[anna.userId].includes(next);
        await bert.until(direct, "the direct chat");
    }));

test("typing, receipts, names and read markers pass between servers", () =>
    withPeople(TWO, async (anna, bert) => {
        const roomId = await anna.createRoom({}, [bert]);
        await bert.client.sendTyping(roomId, true, 20_000);
        await anna.until(() => anna.room(roomId).getMember(bert.userId)?.typing, "typing");
        const eventId = await anna.say(roomId, "read me");
        const event = await bert.untilText(roomId, "read me");
        await bert.client.sendReadReceipt(event);
        const read = () => anna.room(roomId).getEventReadUpTo(bert.userId) === eventId;
        await anna.until(read, "the receipt");
        await bert.client.setDisplayName("Bert the Second");
        const named = () => anna.room(roomId).getMember(bert.userId)?.name === "Bert the Second";
        await anna.until(named, "the name");
    }));

test("an alias leads to the room from the other server", () =>
    withPeople(TWO, async (anna, bert) => {
        const name = `lounge-${Date.now()}`;
        const { room_id: roomId } = await anna.client.createRoom({
            preset: "public_chat",
            room_alias_name: name,
        });
        const server = anna.userId.split(":").slice(1).join(":");
        await bert.client.joinRoom(`#${name}:${server}`);
        await bert.untilMembership(roomId, "join");
        await anna.client.ban(roomId, bert.userId, "enough");
        await bert.untilMembership(roomId, "ban");
        await anna.client.unban(roomId, bert.userId);
        await bert.client.joinRoom(`#${name}:${server}`);
        await bert.untilMembership(roomId, "join");
    }));

test("a finished registration can be repeated when its answer was lost", () =>
    withPeople([[HS1, "anna"]], async (anna) => {
        const url = `${HS1}/_matrix/client/v3/register`;
        const post = async (body) => {
            const answer = await fetch(url, { method: "POST", body: JSON.stringify(body) });
            return [answer.status, await answer.json()];
        };
        const username = `lost-${Date.now()}`;
        const [status, asked] = await post({ username, password: "secret secret" });
        assert.equal(status, 401);
        const auth = { type: "m.login.dummy", session: asked.session };
        const [first, made] = await post({ username, password: "secret secret", auth });
        assert.equal(first, 200);
        const [second, again] = await post({ username, password: "secret secret", auth });
        assert.equal(second, 200);
        assert.equal(again.user_id, made.user_id);
        assert.ok(anna.userId);
    }));

test("people are found by name, across servers, while they can be seen", () =>
    withPeople(TWO, async (anna, bert) => {
        const name = `Björn ${Date.now()}`;
        await bert.client.setDisplayName(name);
        const find = async (person, term) =>
            (await person.client.searchUserDirectory({ term, limit: 5 })).results;
        assert.deepEqual(await find(anna, name), []);
        const roomId = await anna.createRoom({}, [bert]);
        const found = await anna.until(async () => (await find(anna, "bjorn"))[0], "the person");
        assert.equal(found.user_id, bert.userId);
        assert.equal(found.display_name, name);
        assert.equal((await find(anna, bert.userId.slice(0, 9)))[0]?.user_id, bert.userId);
        await bert.client.leave(roomId);
        await anna.until(async () => (await find(anna, name)).length === 0, "the end of it");
    }));
