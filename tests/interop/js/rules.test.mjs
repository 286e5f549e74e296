/**
 * Push rules and counts of unread notifications, held to matrix-js-sdk's own push processor.
 *
 * Each event of a table is sent under each of some rules. The processor evaluates it by the rules
 * that the server gives; the server's counts must grow as it says.
 */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Person, HS1, HS2, withPeople } from "./person.mjs";

const { PushProcessor } = await import("matrix-js-sdk/lib/pushprocessor.js");

const LIT = ["notify", { set_tweak: "highlight" }];
// Without `?`: the processor takes it for a literal dot.
const CAKE = { actions: LIT, pattern: "ca*e" };

const says = (body, more = {}) => ["m.room.message", { msgtype: "m.text", body, ...more }];

const eventsFor = (anna, first, number) => [
    says("hello"),
    says("a CAKE, please"),
    says("pancakes"),
    says("cake_"),
    says(`${anna.userId} and everyone`),
    says("a notice", { msgtype: "m.notice" }),
    says("mentioned", { "m.mentions": { user_ids: [anna.userId] } }),
    says("nobody", { "m.mentions": {} }),
    says("everyone", { "m.mentions": { room: true } }),
    says("not everyone", { "m.mentions": { room: "true" } }),
    says("* edited", { "m.relates_to": { rel_type: "m.replace", event_id: first } }),
    says("tagged", { "org.example.tags": ["red", 5, true], "org.example": { "a.b\\c": null } }),
    says("numbered", { "org.example.tags": ["5", 1] }),
    ["m.reaction", { "m.relates_to": { rel_type: "m.annotation", event_id: first, key: `${number}` } }],
    ["m.poll.start", { "m.text": "cake or pie?" }],
    ["m.call.invite", { call_id: "1", version: 1, lifetime: 1, offer: { type: "offer", sdp: "" } }],
    ["org.example.custom", { body: "cake" }],
];

const put = (anna, path, body) =>
    anna.client.http.authedRequest("PUT", `/pushrules/global/${path}`, undefined, body);

const condition = (name, ...conditions) => ({ path: name, body: { actions: LIT, conditions } });

/** Each set is added to those before it. */
const rulesFor = (anna, roomId) => [
    [],
    [{ path: "content/cake", body: CAKE }],
    [
        condition("override/tag", {
            kind: "event_property_contains",
            key: "content.org\\.example\\.tags",
            value: 5,
        }),
        condition("underride/null", {
            kind: "event_property_is",
            key: "content.org\\.example.a\\.b\\\\c",
            value: null,
        }),
        condition("underride/custom", { kind: "event_match", key: "type", pattern: "org.*.custom" }),
    ],
    [
        condition(
            "underride/three",
            { kind: "room_member_count", is: ">=3" },
            { kind: "event_match", key: "type", pattern: "m.poll.*" },
        ),
        condition("override/unknown", { kind: "org.example.unknown" }),
        { path: "override/.m.rule.suppress_notices/enabled", body: { enabled: false } },
        { path: "underride/.m.rule.message/actions", body: { actions: LIT } },
    ],
    [condition("override/name", { kind: "contains_display_name" })],
    [{ path: `room/${encodeURIComponent(roomId)}`, body: { actions: [] } }],
    [{ path: "override/.m.rule.master/enabled", body: { enabled: true } }],
];

/** What the processor makes of an event by the rules as the server gives them. */
const judged = (anna, rules, event) => {
    anna.client.pushRules = rules;
    const processor = new PushProcessor(anna.client);
    processor.updateCachedPushRuleKeys(rules);
    const { notify, tweaks } = processor.actionsForEvent(event);
    return { total: notify ? 1 : 0, highlight: notify && tweaks.highlight ? 1 : 0 };
};

const counts = (room) => ({
    total: room.getUnreadNotificationCount("total"),
    highlight: room.getUnreadNotificationCount("highlight"),
});

test("counts grow as matrix-js-sdk's push processor says, under each set of rules", () =>
    withPeople([[HS1, "anna"], [HS2, "bert"], [HS1, "carl"]], async (anna, bert, carl) => {
        const roomId = await anna.createRoom({}, [bert, carl]);
        const first = await carl.say(roomId, "first");
        await anna.untilText(roomId, "first");
        await bert.untilText(roomId, "first");
        const room = anna.room(roomId);
        for (const [number, set] of rulesFor(anna, roomId).entries()) {
            for (const { path, body } of set) {
                await put(anna, path, body);
            }
            const rules = await anna.client.http.authedRequest("GET", "/pushrules/");
            const expected = counts(room);
            const sender = number % 2 ? carl : bert;
            for (const [type, content] of eventsFor(anna, first, number)) {
                const { event_id: id } = await sender.client.sendEvent(roomId, type, content);
                const event = await anna.untilEvent(roomId, (one) => one.getId() === id, id);
                const grown = judged(anna, rules, event);
                expected.total += grown.total;
                expected.highlight += grown.highlight;
                const said = `${type} ${JSON.stringify(content)} under set ${number}`;
                const isSame = () => {
                    const { total, highlight } = counts(room);
                    return total === expected.total && highlight === expected.highlight;
                };
                await anna.until(isSame, `${JSON.stringify(expected)} after ${said}`);
            }
        }
        assert.ok(room.getUnreadNotificationCount("highlight") > 0);
        const events = room.getLiveTimeline().getEvents();
        await anna.client.sendReadReceipt(events[events.length - 1]);
        await anna.until(() => counts(room).total === 0, "nothing unread");
    }));

test("rules that another device changed are there at once", () =>
    withPeople([[HS1, "anna"]], async (anna) => {
        const other = await anna.again();
        try {
            await put(anna, "content/cake", CAKE);
            await put(anna, "content/pie?before=cake", { actions: [], pattern: "pie" });
            const known = () => other.client.pushRules?.global?.content?.map((rule) => rule.rule_id);
            await other.until(() => known()?.join() === "pie,cake", "both rules");
            await anna.client.deletePushRule("global", "content", "cake");
            await other.until(() => known()?.join() === "pie", "one rule");
        } finally {
            other.stop();
        }
    }));

test("threads are counted apart, and read apart", async () => {
    const anna = await Person.register(HS1, "anna", { threads: true });
    const bert = await Person.register(HS2, "bert", { threads: true });
    try {
        const roomId = await anna.createRoom({}, [bert]);
        const room = anna.room(roomId);
        const root = await anna.say(roomId, "root");
        await bert.untilText(roomId, "root");
        const relation = { rel_type: "m.thread", event_id: root };
        await bert.say(roomId, "aside");
        const { event_id: answer } = await bert.client.sendEvent(roomId, root, "m.room.message", {
            "msgtype": "m.text",
            "body": "in the thread",
            "m.relates_to": relation,
            "m.mentions": { user_ids: [anna.userId] },
        });
        const thread = () => ({
            total: room.getThreadUnreadNotificationCount(root, "total"),
            highlight: room.getThreadUnreadNotificationCount(root, "highlight"),
        });
        await anna.until(() => thread().total === 1, "the thread's count");
        assert.equal(thread().highlight, 1);
        const main = () => room.getRoomUnreadNotificationCount("total");
        await anna.until(() => main() === 1, "the main timeline's count");
        assert.equal(counts(room).total, 2);
        const path = `/rooms/${encodeURIComponent(roomId)}/receipt/m.read/${encodeURIComponent(answer)}`;
        await anna.client.http.authedRequest("POST", path, undefined, { thread_id: root });
        await anna.until(() => thread().total === 0, "the thread being read");
        assert.equal(main(), 1);
    } finally {
        anna.stop();
        bert.stop();
    }
});
