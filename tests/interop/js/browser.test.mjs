/** A web client in a real browser, through everyday steps, with a user of another server. */

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";

import { withBrowser } from "./browser.mjs";
import { HS1, HS2, withPeople } from "./person.mjs";
import { picture, sendPicture } from "./browser/attachments.mjs";

const PASSWORD = "a password of some length";

// 31 by 17 and 23 by 11 pixels, of one colour
const FROM_ANNA = Buffer.from("iVBORw0KGgoAAAANSUhEUgAAAB8AAAARCAIAAACqxuAeAAAAG0lEQVR42mOopyVgGDV91PRR00dNHzV9WJoOAIi7EIGAEwCZAAAAAElFTkSuQmCC", "base64");
const FROM_BERT = Buffer.from("iVBORw0KGgoAAAANSUhEUgAAABcAAAALCAIAAAAbXIEXAAAAFElEQVR42mOopwZgGDVl1JQhagoAajV4mQ4BSsQAAAAASUVORK5CYII=", "base64");

test("everyday steps in a browser, from registration to history on a new log-in", () =>
    withPeople([[HS2, "bert", { encrypts: true }]], (bert) =>
        withBrowser(async (openTab) => {
            const name = `anna-${randomBytes(3).toString("hex")}`;
            const anna = await openTab();
            await anna.enter("#register", HS1, name, PASSWORD);
            const recoveryKey = await anna.setUpSecurity();

            const roomId = await anna.createRoom(bert.userId);
            await bert.untilMembership(roomId, "invite");
            await bert.client.joinRoom(roomId);
            await bert.untilMembership(roomId, "join");
            await anna.say("sealed by anna");
            const first = await bert.untilText(roomId, "sealed by anna");
            assert.ok(first.isEncrypted());
            await bert.say(roomId, "sealed by bert");
            await anna.untilText("#timeline li", "sealed by bert");

            // pictures, both ways
            await anna.sendPicture("from-anna.png", FROM_ANNA);
            const event = await bert.untilText(roomId, "from-anna.png");
            assert.deepEqual(Buffer.from(await picture(bert.client, event)), FROM_ANNA);
            await sendPicture(bert.client, roomId, "from-bert.png", FROM_BERT);
            assert.equal(await anna.pictureWidth("from-bert.png"), 23);

            // an edit, a reaction, a thread
            await anna.press("sealed by anna", "edit");
            const edited = (event) => event.replacingEvent()?.getContent()["m.new_content"].body;
            await bert.until(() => edited(first) === "sealed by anna, edited", "the edit");
            await anna.untilText("#timeline li", "sealed by anna, edited");
            await anna.press("sealed by bert", "react");
            await anna.untilText("#timeline li", /sealed by bert 👍 1/);
            await bert.untilEvent(roomId, (event) => event.getType() === "m.reaction", "the reaction");
            await anna.press("sealed by bert", "thread");
            await anna.untilText("#thread li", "about: sealed by bert");
            await bert.untilText(roomId, "about: sealed by bert");

            // the badge of a room that isn't open
            const other = await anna.createRoom("");
            await anna.open(other);
            await anna.untilBadge(roomId, 0);
            await bert.say(roomId, "while anna is elsewhere");
            await anna.untilBadge(roomId, 1);
            await anna.open(roomId);
            await anna.untilBadge(roomId, 0);

            // a new log-in reads all of it
            await anna.logOut();
            const again = await openTab();
            await again.enter("#log-in", HS1, name, PASSWORD);
            await again.restore(recoveryKey);
            await again.open(roomId);
            for (const text of ["sealed by anna, edited", "sealed by bert", "while anna is elsewhere"]) {
                await again.untilText("#timeline li", text);
            }
            assert.equal(await again.pictureWidth("from-anna.png"), 31);
            assert.equal(await again.problem(), "");
        }),
    ));
