/**
 * A user of matrix-js-sdk who joins every room it is invited to and says back what it reads.
 * Prints its user ID when it is ready; ends when its standard input does.
 */

import { HS2, Person } from "./person.mjs";

const echo = await Person.register(HS2, "echo", { encrypts: true });

const answer = async (event) => {
    const { body, msgtype } = event.getContent();
    if (event.getSender() !== echo.userId && msgtype === "m.text" && event.getType() === "m.room.message") {
        await echo.say(event.getRoomId(), `echo of ${body}`);
    }
};
echo.client.on("RoomMember.membership", (event, member) => {
    if (member.userId === echo.userId && member.membership === "invite") {
        void echo.client.joinRoom(member.roomId);
    }
});
echo.client.on("Event.decrypted", answer);
process.stdout.write(`${echo.userId}\n`);
process.stdin.on("end", () => process.exit(0)).resume();
