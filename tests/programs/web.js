// node as an HTTP server and as an HTTP client, as anybody writes them.
//
// `serve PORT TEXT` answers every request with the text and the body that it came with; `get URL TEXT` asks several
// times at once over connections that are kept, and ends with 0 when every answer was right.
"use strict";

const http = require("http");

const CONNECTIONS = 4;
const REQUESTS = 20;

function serve(port, text) {
  const server = http.createServer((request, response) => {
    const parts = [];
    request.on("data", (part) => parts.push(part));
    request.on("end", () => response.end(text + Buffer.concat(parts).toString()));
  });
  server.listen(Number(port), "::");
}

function ask(url, agent, body) {
  return new Promise((resolve, reject) => {
    const request = http.request(url, { method: "POST", agent }, (response) => {
      const parts = [];
      response.on("data", (part) => parts.push(part));
      response.on("end", () => resolve(Buffer.concat(parts).toString()));
      response.on("error", reject);
    });
    request.setTimeout(60000, () => request.destroy(new Error("no answer")));
    request.on("error", reject);
    request.end(body);
  });
}

async function get(url, text) {
  const agent = new http.Agent({ keepAlive: true, maxSockets: CONNECTIONS });
  const bodies = Array.from({ length: REQUESTS }, (_, number) => `${text} ${number} `.repeat(1 + number * 20));
  const answers = await Promise.all(bodies.map((body) => ask(url, agent, body)));
  agent.destroy();
  answers.forEach((answer, number) => {
    if (answer !== text + bodies[number]) {
      throw new Error(`answer ${number} is wrong: ${answer.slice(0, 200)}`);
    }
  });
}

const [role, where, text] = process.argv.slice(2);
if (role === "serve") {
  serve(where, text);
} else {
  get(where, text).catch((error) => {
    console.error(error);
    process.exit(1);
  });
}
