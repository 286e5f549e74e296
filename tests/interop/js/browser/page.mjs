/**
 * A small web client on matrix-js-sdk: what Element does on the wire, without its interface.
 *
 * It is bundled into `page.js` and driven in a real browser by `browser.test.mjs`. Crypto state is in
 * IndexedDB, as in a web client; a problem is shown in `#problem`.
 */

import * as sdk from "matrix-js-sdk";
import { decodeRecoveryKey } from "matrix-js-sdk/lib/crypto-api/index.js";

import { picture, sendPicture } from "./attachments.mjs";

const at = (id) => document.getElementById(id);
const ENCRYPTION = {
    type: "m.room.encryption",
    state_key: "",
    content: { algorithm: "m.megolm.v1.aes-sha2" },
};

const CHANGES = [
    "Event.decrypted",
    "Room",
    "Room.localEchoUpdated",
    "Room.myMembership",
    "Room.receipt",
    "Room.timeline",
    "Room.UnreadNotifications",
];
const LOOK_AGAIN_MS = 200;

let client;
let recoveryKey;
let openRoom;

function on(id, kind, act) {
    at(id).addEventListener(kind, async (event) => {
        event.preventDefault();
        try {
            await act(event);
        } catch (error) {
            at("problem").textContent += `${id}: ${error.stack ?? error}\n`;
        }
    });
}

function passwordAuth(make) {
    const identifier = { type: "m.id.user", user: client.getUserId() };
    return make({ type: "m.login.password", identifier, password: at("password").value });
}

async function start(made) {
    client = sdk.createClient({
        baseUrl: at("server").value,
        accessToken: made.access_token,
        userId: made.user_id,
        deviceId: made.device_id,
        timelineSupport: true,
        cryptoCallbacks: {
            getSecretStorageKey: async ({ keys }) =>
                recoveryKey ? [Object.keys(keys)[0], recoveryKey] : null,
            cacheSecretStorageKey: () => undefined,
        },
    });
    await client.initRustCrypto({ cryptoDatabasePrefix: made.device_id });
    for (const kind of CHANGES) {
        client.on(kind, draw);
    }
    await client.startClient({ initialSyncLimit: 20, lazyLoadMembers: true });
    at("user").textContent = made.user_id;
    at("entry").hidden = true;
    document.querySelector("main").hidden = false;
    draw();
}

on("register", "click", async () => {
    const anyone = sdk.createClient({ baseUrl: at("server").value });
    const auth = { type: "m.login.dummy" };
    const asked = { username: at("name").value, password: at("password").value, auth };
    await start(await anyone.registerRequest(asked));
});

on("log-in", "click", async () => {
    const anyone = sdk.createClient({ baseUrl: at("server").value });
    const identifier = { type: "m.id.user", user: at("name").value };
    const password = at("password").value;
    await start(await anyone.loginRequest({ type: "m.login.password", identifier, password }));
});

on("set-up", "click", async () => {
    const crypto = client.getCrypto();
    await crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: passwordAuth });
    const made = await crypto.createRecoveryKeyFromPassphrase();
    recoveryKey = made.privateKey;
    await crypto.bootstrapSecretStorage({
        createSecretStorageKey: async () => made,
        setupNewSecretStorage: true,
        setupNewKeyBackup: true,
    });
    at("recovery-key").textContent = made.encodedPrivateKey;
});

on("restore", "click", async () => {
    const crypto = client.getCrypto();
    recoveryKey = decodeRecoveryKey(at("key").value);
    await crypto.userHasCrossSigningKeys(client.getUserId(), true);
    await crypto.bootstrapCrossSigning({});
    await crypto.loadSessionBackupPrivateKeyFromSecretStorage();
    const found = await crypto.restoreKeyBackup();
    await crypto.checkKeyBackupAndEnable();
    at("restored").textContent = `${found.imported} of ${found.total}`;
});

/** Wait until every room key of this device is in the backup. */
async function untilBackedUp() {
    const crypto = client.getCrypto();
    for (;;) {
        // the SDK's own word on it is from the time of the backup's creation
        const { count } = await client.http.authedRequest("GET", "/room_keys/version");
        if (count >= (await crypto.exportRoomKeys()).length) {
            return;
        }
        await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN_MS));
    }
}

on("log-out", "click", async () => {
    await untilBackedUp();
    await client.logout(true);
    await client.clearStores({ cryptoDatabasePrefix: client.getDeviceId() });
    client = recoveryKey = openRoom = undefined;
    at("entry").hidden = false;
    document.querySelector("main").hidden = true;
    for (const id of ["rooms", "timeline", "thread", "recovery-key", "restored"]) {
        at(id).replaceChildren();
    }
});

on("create", "click", async () => {
    const invite = [at("invitee").value].filter(Boolean);
    const made = await client.createRoom({
        preset: "private_chat",
        initial_state: invite.length > 0 ? [ENCRYPTION] : [],
        invite,
    });
    openRoom = made.room_id;
    draw();
});

on("composer", "submit", async () => {
    const text = at("text").value;
    at("text").value = "";
    await client.sendTextMessage(openRoom, text);
});

on("picture", "change", async () => {
    const [file] = at("picture").files;
    await sendPicture(client, openRoom, file.name, new Uint8Array(await file.arrayBuffer()));
});

async function edit(event) {
    const body = `${event.getContent().body}, edited`;
    await client.sendMessage(openRoom, {
        msgtype: "m.text",
        body: `* ${body}`,
        "m.new_content": { msgtype: "m.text", body },
        "m.relates_to": { rel_type: "m.replace", event_id: event.getId() },
    });
}

async function react(event) {
    const relation = { rel_type: "m.annotation", event_id: event.getId(), key: "👍" };
    await client.sendEvent(openRoom, "m.reaction", { "m.relates_to": relation });
}

async function replyInThread(event) {
    await client.sendMessage(openRoom, {
        msgtype: "m.text",
        body: `about: ${event.getContent().body}`,
        "m.relates_to": { rel_type: "m.thread", event_id: event.getId() },
    });
}

function button(text, act, event) {
    const made = document.createElement("button");
    made.textContent = text;
    made.addEventListener("click", () =>
        act(event).catch((error) => (at("problem").textContent += `${text}: ${error.stack}\n`)),
    );
    return made;
}

const shown = new Map(); // event ID -> the picture's element

function drawPicture(event) {
    const id = event.getId();
    if (!shown.has(id)) {
        const image = document.createElement("img");
        shown.set(id, image);
        picture(client, event).then(
            (bytes) => {
                image.src = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
            },
            (error) => (at("problem").textContent += `picture: ${error.stack}\n`),
        );
    }
    return shown.get(id);
}

function drawEvent(room, event) {
    const row = document.createElement("li");
    const { body, msgtype } = event.getContent();
    row.dataset.id = event.getId();
    row.append(`${event.getSender()}: ${body}`);
    const relations = room.relations.getChildEventsForEvent(event.getId(), "m.annotation", "m.reaction");
    const reactions = relations?.getRelations().length ?? 0;
    if (reactions > 0) {
        row.append(` 👍 ${reactions}`);
    }
    if (msgtype === "m.image" && event.getContent().file) {
        row.append(drawPicture(event));
    }
    if (!event.isSending()) {
        row.append(button("edit", edit, event), button("react", react, event));
        row.append(button("thread", replyInThread, event));
    }
    return row;
}

/** Open a room and mark it as read. */
async function show(room) {
    openRoom = room.roomId;
    if (room.getMyMembership() === "invite") {
        await client.joinRoom(room.roomId);
    }
    draw();
    const last = room.getLiveTimeline().getEvents().at(-1);
    if (last) {
        await client.sendReadReceipt(last);
    }
}

function draw() {
    if (!client) {
        return;
    }
    const rooms = client.getRooms().map((room) => {
        const row = document.createElement("li");
        row.dataset.room = room.roomId;
        const unread = document.createElement("span");
        unread.className = "badge";
        unread.textContent = String(room.getUnreadNotificationCount("total") ?? 0);
        row.append(button(room.name, show, room), " ", unread);
        return row;
    });
    at("rooms").replaceChildren(...rooms);
    const room = client.getRoom(openRoom);
    if (!room) {
        return;
    }
    const messages = room
        .getLiveTimeline()
        .getEvents()
        .filter((event) => event.getType() === "m.room.message" && !event.isRelation("m.replace"));
    for (const [id, inThread] of [["timeline", false], ["thread", true]]) {
        const own = messages.filter((event) => event.isRelation("m.thread") === inThread);
        at(id).replaceChildren(...own.map((event) => drawEvent(room, event)));
    }
}
