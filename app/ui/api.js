// Talks to the gateway's admin API with the token of this tab. The token lives in sessionStorage and nowhere else: it
// must never appear in an address, in the page or in a log.

const TOKEN = "model-gateway-token";

/** A refusal: `status` of HTTP (0: the gateway was not reached) and a message for people. */
export class Refusal extends Error {
  constructor(status, message, body) {
    super(message);
    this.status = status;
    this.body = body;
  }
}

export const session = {
  token: () => sessionStorage.getItem(TOKEN),
  start: (token) => sessionStorage.setItem(TOKEN, token),
  end: () => sessionStorage.removeItem(TOKEN),
};

/** Whether a token can be sent at all: a header carries no other characters. */
export const sendable = (token) => /^[\x21-\x7e]+$/.test(token);

const PATIENCE_MS = 30_000;

/** One call; the parsed answer. `headers` may carry If-Match. An answer that is cut off or too late is a `Refusal(0, …)`. */
export async function call(method, path, body, { headers = {}, signal, token = session.token() } = {}) {
  let reply;
  let answer;
  try {
    reply = await fetch(path, {
      method,
      signal: AbortSignal.any([AbortSignal.timeout(PATIENCE_MS), ...(signal ? [signal] : [])]),
      cache: "no-store",
      headers: {
        Authorization: `Bearer ${token}`,
        ...(body === undefined ? {} : { "Content-Type": "application/json" }),
        ...headers,
      },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    const text = await reply.text();
    answer = text && (reply.headers.get("Content-Type") ?? "").includes("json") ? JSON.parse(text) : text;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, reply ? "the gateway's answer was cut off" : "the gateway cannot be reached");
  }
  if (reply.ok) return answer;
  throw new Refusal(reply.status, answer?.detail ?? answer?.title ?? `${reply.status} ${reply.statusText}`, answer);
}

export const get = (path, options) => call("GET", path, undefined, options);

/**
 * Follows server-sent events until they end; `heard({id, event, data})` for each. Read with fetch, because EventSource cannot
 * carry a token except in the address.
 */
export async function follow(path, { lastId, signal, heard }) {
  const reply = await fetch(path, {
    signal,
    cache: "no-store",
    headers: { Authorization: `Bearer ${session.token()}`, Accept: "text/event-stream", ...(lastId ? { "Last-Event-ID": lastId } : {}) },
  });
  if (!reply.ok) throw new Refusal(reply.status, `${reply.status} ${reply.statusText}`);
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").filter((line) => !line.startsWith(":")).map((line) => line.split(/: (.*)/s, 2)));
      if (fields.event) heard({ id: fields.id, event: fields.event, data: JSON.parse(fields.data) });
    }
  }
}

/** The path of a model's admin resource; names are escaped. */
export function modelPath(model, rest = "") {
  return `/admin/models/${encodeURIComponent(model)}${rest}`;
}
