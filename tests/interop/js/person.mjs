/**
 * A user of matrix-js-sdk with a logged-in device, for scenarios.
 *
 * 1. Every wait has a deadline, and says what it waited for.
 * 2. Keys are kept in memory; a device lives as long as its process.
 *
 * The servers come from the environment: FREEHOLD_HS1 and FREEHOLD_HS2 are base URLs.
 */

import { randomBytes } from "node:crypto";

// Node 20 lacks it; matrix-js-sdk uses it.
Promise.withResolvers ??= function () {
    const made = {};
    made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
    return made;
};

// A long poll's time limit outlives the client that was stopped; no process waits for it.
const LONG_TIMER_MS = 30_000;
const { setTimeout: setTimer } = globalThis;
globalThis.setTimeout = (callback, ms, ...given) => {
    const timer = setTimer(callback, ms, ...given);
    return ms > LONG_TIMER_MS ? timer.unref() : timer;
};

const sdk = await import("matrix-js-sdk");
const { logger } = await import("matrix-js-sdk/lib/logger.js");
logger.setLevel?.("silent");
for (const name of ["debug", "info", "log", "warn", "trace"]) {
    console[name] = () => undefined; // the crypto machine writes there
}

export const HS1 = process.env.FREEHOLD_HS1;
export const HS2 = process.env.FREEHOLD_HS2;
const PASSWORD = "a password of some length";
const DEADLINE_MS = 60_000;
const LOOK_AGAIN_MS = 40;

export class Person {
    /** Register a user with a fresh name and start its client. */
    static async register(server, name, options = {}) {
        const localpart = `${name}-${randomBytes(3).toString("hex")}`;
        const made = await sdk.createClient({ baseUrl: server }).registerRequest({
            username: localpart,
            password: PASSWORD,
            auth: { type: "m.login.dummy" },
        });
        return await new Person(server, made).start(options);
    }

    constructor(server, made) {
        this.server = server;
        this.userId = made.user_id;
        this.deviceId = made.device_id;
        this.client = sdk.createClient({
            baseUrl: server,
            accessToken: made.access_token,
            userId: made.user_id,
            deviceId: made.device_id,
            timelineSupport: true,
            cryptoCallbacks: {
                getSecretStorageKey: async ({ keys }) =>
                    this.recoveryKey ? [Object.keys(keys)[0], this.recoveryKey] : null,
                cacheSecretStorageKey: () => undefined,
            },
        });
    }

    /** Log in as another device of the same user. */
    async again(options = {}) {
        const made = await sdk.createClient({ baseUrl: this.server }).loginRequest({
            type: "m.login.password",
            identifier: { type: "m.id.user", user: this.userId },
            password: PASSWORD,
        });
        return await new Person(this.server, made).start(options);
    }

    async start({ encrypts = false, syncs = true, limit = 20, threads = false } = {}) {
        if (encrypts) {
            await this.client.initRustCrypto({ useIndexedDB: false });
        }
        if (syncs) {
            await this.client.startClient({
                initialSyncLimit: limit,
                lazyLoadMembers: true,
                threadSupport: threads,
            });
            await this.until(() => this.client.isInitialSyncComplete(), "the first sync");
        }
        return this;
    }

    stop() {
        this.client.stopClient();
    }

    /** Wait until something holds; what it returns. */
    async until(holds, what) {
        const end = Date.now() + DEADLINE_MS;
        for (;;) {
            const found = await holds();
            if (found) {
                return found;
            }
            if (Date.now() > end) {
                throw new Error(`${this.userId} waited in vain for ${what}`);
            }
            await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN_MS));
        }
    }

    room(roomId) {
        return this.client.getRoom(roomId);
    }

    membership(roomId) {
        return this.room(roomId)?.getMyMembership();
    }

    async untilMembership(roomId, membership) {
        await this.until(() => this.membership(roomId) === membership, `${membership} in the room`);
    }

    /** Wait for an event of a room's live timeline. */
    async untilEvent(roomId, fits, what) {
        const find = () => this.room(roomId)?.getLiveTimeline().getEvents().find(fits);
        return await this.until(find, what);
    }

    async untilText(roomId, text) {
        return await this.untilEvent(roomId, (event) => event.getContent().body === text, text);
    }

    /** The texts of a room's live timeline. */
    texts(roomId) {
        const events = this.room(roomId).getLiveTimeline().getEvents();
        return events.map((event) => event.getContent().body).filter(Boolean);
    }

    async say(roomId, text) {
        return (await this.client.sendTextMessage(roomId, text)).event_id;
    }

    state(roomId, type, key = "") {
        return this.room(roomId)?.currentState.getStateEvents(type, key)?.getContent();
    }

    /** Create a room; others are invited and join. */
    async createRoom(options = {}, others = []) {
        const invite = others.map((other) => other.userId);
        const made = await this.client.createRoom({ preset: "private_chat", invite, ...options });
        for (const other of others) {
            await other.untilMembership(made.room_id, "invite");
            await other.client.joinRoom(made.room_id);
            await other.untilMembership(made.room_id, "join");
        }
        const joined = () => this.room(made.room_id)?.getJoinedMemberCount() === others.length + 1;
        await this.until(joined, "all members");
        return made.room_id;
    }

    /** Page back to the room's beginning. */
    async scrollToTheBeginning(roomId) {
        const timeline = this.room(roomId).getLiveTimeline();
        for (let page = 0; page < 100; page++) {
            if (!(await this.client.paginateEventTimeline(timeline, { backwards: true, limit: 30 }))) {
                return;
            }
        }
        throw new Error("the room has no beginning");
    }

    /** An authenticated request that the SDK has no method for. */
    async request(method, path, query, body) {
        return await this.client.http.authedRequest(method, path, query, body);
    }

    passwordAuth() {
        const identifier = { type: "m.id.user", user: this.userId };
        return { type: "m.login.password", identifier, password: PASSWORD };
    }
}

/** Run a scenario with people who are stopped at its end. */
export async function withPeople(entries, scenario) {
    const people = [];
    try {
        for (const [server, name, options] of entries) {
            people.push(await Person.register(server, name, options));
        }
        await scenario(...people);
    } finally {
        people.forEach((person) => person.stop());
    }
}
