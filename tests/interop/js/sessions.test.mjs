/** How sessions begin and go on, as matrix-js-sdk sees it: refreshing, and login tokens. */

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";

import { HS1 } from "./person.mjs";

const sdk = await import("matrix-js-sdk");
const PASSWORD = "a password of some length";

/** Log a new user in, as a client that can refresh; the answer and a client. */
async function session() {
    const fresh = sdk.createClient({ baseUrl: HS1 });
    const username = `ses-${randomBytes(4).toString("hex")}`;
    const auth = { type: "m.login.dummy" };
    await fresh.registerRequest({ username, password: PASSWORD, auth, inhibit_login: true });
    const made = await fresh.loginRequest({
        type: "m.login.password",
        identifier: { type: "m.id.user", user: username },
        password: PASSWORD,
        refresh_token: true,
    });
    return [made, clientOf(made)];
}

function clientOf(made) {
    const { access_token: accessToken, user_id: userId, device_id: deviceId } = made;
    return sdk.createClient({ baseUrl: HS1, accessToken, userId, deviceId });
}

const refused = (soft) => (error) =>
    error.httpStatus === 401 && error.errcode === "M_UNKNOWN_TOKEN" && error.data.soft_logout === soft;

test("a session is refreshed, and the old refresh token is spent once the new token is used", async () => {
    const [made, client] = await session();
    assert.ok(made.expires_in_ms > 0);
    const lost = await client.refreshToken(made.refresh_token);
    const kept = await client.refreshToken(made.refresh_token);
    assert.notEqual(lost.refresh_token, kept.refresh_token);
    client.setAccessToken(kept.access_token);
    const who = await client.whoami();
    assert.equal(who.device_id, made.device_id);
    await assert.rejects(client.refreshToken(made.refresh_token), refused(true));
    await assert.rejects(client.refreshToken(lost.refresh_token), refused(false));
    client.setAccessToken(made.access_token);
    await assert.rejects(client.whoami(), refused(true));
    const next = await client.refreshToken(kept.refresh_token);
    client.setAccessToken(next.access_token);
    assert.equal((await client.whoami()).user_id, made.user_id);
    await client.logout();
    await assert.rejects(client.refreshToken(next.refresh_token), refused(false));
});

test("a device lets another one in by a login token, once", async () => {
    const [made, client] = await session();
    const { flows } = await client.loginFlows();
    assert.ok(flows.some((flow) => flow.type === "m.login.token" && flow.get_login_token));
    const capabilities = await client.getCapabilities();
    assert.equal(capabilities["m.get_login_token"].enabled, true);
    const asked = await client.requestLoginToken().catch((error) => error);
    assert.equal(asked.httpStatus, 401);
    const { login_token: token } = await client.requestLoginToken({
        type: "m.login.password",
        identifier: { type: "m.id.user", user: made.user_id },
        password: PASSWORD,
        session: asked.data.session,
    });
    const fresh = sdk.createClient({ baseUrl: HS1 });
    const second = await fresh.loginRequest({ type: "m.login.token", token });
    assert.equal(second.user_id, made.user_id);
    assert.notEqual(second.device_id, made.device_id);
    assert.equal((await clientOf(second).whoami()).device_id, second.device_id);
    const again = fresh.loginRequest({ type: "m.login.token", token });
    await assert.rejects(again, (error) => error.errcode === "M_FORBIDDEN");
});
