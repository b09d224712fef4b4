// A typical slice server with ws and sharp: sharp uses its own threads, and the result is a file and its URL.
// It implements only the part of sluice.v2 that the load generator uses: a 4-byte length, JSON and the picture as
// request, and JSON as response.
import { randomBytes } from "node:crypto";
import { mkdirSync } from "node:fs";
import sharp from "sharp";
import { WebSocketServer } from "ws";

const port = Number(process.argv[2]);
mkdirSync("media", { recursive: true });

async function work(message) {
  const end = 4 + message.readUInt32BE(0);
  const { id, offset_top, zoom } = JSON.parse(message.subarray(4, end).toString());
  const picture = sharp(message.subarray(end));
  const { width, height } = await picture.metadata();
  const name = `${randomBytes(16).toString("hex")}.jpg`;
  await picture
    .resize(Math.trunc(width * zoom), Math.trunc(height * zoom), { fit: "fill" })
    .jpeg({ quality: 85 })
    .toFile(`media/${name}`);
  return { type: "result", id, offset_top, url: `http://127.0.0.1:${port}/media/${name}` };
}

new WebSocketServer({ host: "127.0.0.1", port, perMessageDeflate: false }).on("connection", (socket) => {
  socket.on("message", async (message) => {
    try {
      socket.send(JSON.stringify(await work(message)));
    } catch (error) {
      socket.send(JSON.stringify({ type: "error", message: error.message }));
    }
  });
});
